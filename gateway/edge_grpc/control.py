"""Health, and what is passed on to Triton by scope alone: reading about models, and ruling over Triton."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from gateway.access import ADMIN, MODELS_READ
from gateway.edge_grpc.calls import Call
from gateway.edge_grpc.messages import parsed
from gateway.edge_grpc.parts import Parts
from gateway.errors import GatewayError, NotFound, TooManyRequests
from gateway.triton import Describer, Forwarder

READ_SECONDS = 5.0
MOST_AT_ONCE = 64
"""Calls of this kind that are under way; they have no place among the requests in flight."""
HEALTH_SERVICE = "/grpc.health.v1.Health/"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
"""``grpc.health.v1.HealthCheckResponse`` with field 1, ``status``."""
KNOWN_SERVICES = (b"", b"\x0a\x00", b"\x0a\x1einference.GRPCInferenceService")
"""``grpc.health.v1.HealthCheckRequest`` with field 1, ``service``: none, empty, ours."""


@dataclass(frozen=True)
class Method:
    """A method that is passed on. ``names`` is the request's type if it may name a model that the scope is for."""

    name: str
    scope: str
    names: type[Any] | None = None


PASSED_ON = (
    Method("ServerMetadata", MODELS_READ),
    Method("ModelMetadata", MODELS_READ, pb.ModelMetadataRequest),
    Method("ModelConfig", MODELS_READ, pb.ModelConfigRequest),
    Method("ModelStatistics", MODELS_READ, pb.ModelStatisticsRequest),
    Method("RepositoryIndex", MODELS_READ),
    Method("RepositoryModelLoad", ADMIN),
    Method("RepositoryModelUnload", ADMIN),
    Method("SystemSharedMemoryStatus", ADMIN),
    Method("SystemSharedMemoryRegister", ADMIN),
    Method("SystemSharedMemoryUnregister", ADMIN),
    Method("CudaSharedMemoryStatus", ADMIN),
    Method("CudaSharedMemoryRegister", ADMIN),
    Method("CudaSharedMemoryUnregister", ADMIN),
    Method("TraceSetting", ADMIN),
    Method("LogSettings", ADMIN),
)
LOADING = frozenset({"RepositoryModelLoad", "RepositoryModelUnload"})


class Control:
    """Answers everything but inference."""

    def __init__(self, parts: Parts, forwarder: Forwarder, describer: Describer) -> None:
        self._parts, self._forwarder, self._describer = parts, forwarder, describer
        self._running = 0

    async def pass_on(self, method: Method, call: Call, requests: AsyncIterator[bytes]) -> bytes:
        """Ask Triton, if the scope allows."""
        principal = await call.principal(self._parts.authenticator)
        if self._running >= MOST_AT_ONCE:
            raise TooManyRequests
        self._running += 1
        try:
            longest = self._parts.limits.max_timeout_seconds if method.name in LOADING else READ_SECONDS
            deadline = min(call.ends, call.accepted + longest)
            if method.names is None:
                principal.require(method.scope)
            raw = await call.message(requests, deadline)
            if method.names is not None:
                principal.require(method.scope, parsed(method.names, raw).name or None)
            return await self._forwarder.unary(method.name, raw, _left(deadline), told=method.scope == ADMIN)
        finally:
            self._running -= 1
            if method.name in LOADING:
                self._describer.forget()

    async def server_live(self, call: Call, requests: AsyncIterator[bytes]) -> bytes:
        """The process answers."""
        return bytes(pb.ServerLiveResponse(live=True).SerializeToString())

    async def server_ready(self, call: Call, requests: AsyncIterator[bytes]) -> bytes:
        """As ``/health/ready``."""
        return bytes(pb.ServerReadyResponse(ready=await self._ready()).SerializeToString())

    async def model_ready(self, call: Call, requests: AsyncIterator[bytes]) -> bytes:
        """Triton has the model ready, people can be let in, and this gateway is not about to stop."""
        deadline = min(call.ends, call.accepted + READ_SECONDS)
        raw = await call.message(requests, deadline)
        try:
            if self._parts.readiness.closed() is None:
                return await self._forwarder.unary("ModelReady", raw, _left(deadline))
        except GatewayError:
            pass  # whatever the reason, it is not ready
        return bytes(pb.ModelReadyResponse(ready=False).SerializeToString())

    async def health_check(self, call: Call, requests: AsyncIterator[bytes]) -> bytes:
        """``grpc.health.v1.Health/Check``, as Kubernetes asks it."""
        raw = await call.message(requests, min(call.ends, call.accepted + READ_SECONDS))
        if raw not in KNOWN_SERVICES:
            raise NotFound("this door serves inference.GRPCInferenceService")
        return SERVING if await self._ready() else NOT_SERVING

    async def _ready(self) -> bool:
        return await self._parts.readiness.missing() is None


def _left(deadline: float) -> float:
    """What a client's slow message has left of the time, in seconds; never nothing, which would be no limit."""
    return max(deadline - time.monotonic(), 0.001)
