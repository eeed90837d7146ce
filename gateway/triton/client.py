"""How Triton is asked: one gRPC channel per process, one stream per request.

The raw stubs of Triton's own client package are used; its convenience class costs more than the rest of a call.
Cancelling a stream cancels the request in Triton, and the backend frees its place in the batch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from gateway.errors import ModelNotFound, ShuttingDown, TritonUnavailable, UpstreamError
from gateway.triton import contract
from gateway.triton.channel import open_channel
from gateway.triton.contract import Delta, ModelInfo, Value
from gateway.triton.endings import Endings
from gateway.triton.translate import from_status, from_text

PROBE_SECONDS = 1.0
MODEL_INFO_SECONDS = 5.0
REMEMBERED_MODELS = 64


class TritonClient:
    """Triton at ``url``, as :func:`gateway.triton.channel.open_channel` takes it. Made inside a running event loop."""

    def __init__(self, url: str, ca: bytes | None = None) -> None:
        self.channel = open_channel(url, ca)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        # One question and one answer, or many: on the wire the same as a stream, and cheaper to ask.
        method = "/inference.GRPCInferenceService/ModelStreamInfer"
        shape: dict[str, Any] = {
            "request_serializer": pb.ModelInferRequest.SerializeToString,
            "response_deserializer": pb.ModelStreamInferResponse.FromString,
        }
        self._ask = self.channel.unary_stream(method, **shape)
        self._ask_once = self.channel.unary_unary(method, **shape)
        self._infos: dict[str, tuple[float, ModelInfo]] = {}
        self._reading: dict[str, asyncio.Task[ModelInfo]] = {}
        self._calls: set[Any] = set()
        self._endings = Endings()
        self._cut = False

    async def close(self) -> None:
        """Close the channel; running calls are cancelled."""
        await self.channel.close()

    def cut(self) -> None:
        """End every running call; who waits for one gets :class:`ShuttingDown`."""
        self._cut = True
        for call in list(self._calls):
            call.cancel()

    async def not_ready(self, model: str) -> str | None:
        """Why Triton cannot serve ``model`` now; None when it can."""
        try:
            ready = await self._stub.ModelReady(pb.ModelReadyRequest(name=model), timeout=PROBE_SECONDS)
        except grpc.RpcError as error:
            return f"Triton cannot be reached ({_status_name(error)})"
        return None if ready.ready else f"Triton does not have the model '{model}' ready"

    async def models(self) -> list[str]:
        """Names of the models that Triton has ready, sorted. Raises :class:`gateway.errors.GatewayError`."""
        try:
            index = await self._stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True), timeout=PROBE_SECONDS)
        except grpc.RpcError as error:
            raise from_status(error) from None
        return sorted({model.name for model in index.models})

    async def info(self, model: str, *, anew: bool = False) -> ModelInfo:
        """The model's description of itself, asked again after a few seconds, or at once when it is wanted ``anew``.
        Raises :class:`ModelNotFound` for a model that Triton does not have, :class:`TritonUnavailable` or
        :class:`UpstreamError`."""
        known = self._infos.get(model)
        if known is not None and not anew and time.monotonic() <= known[0]:
            return known[1]
        reading = self._reading.get(model)
        if reading is None:  # one question, however many wait for the answer
            reading = self._reading[model] = asyncio.create_task(self._read_info(model))
            reading.add_done_callback(lambda _: self._reading.pop(model, None))
        return await asyncio.shield(reading)

    async def _read_info(self, model: str) -> ModelInfo:
        self._infos.pop(model, None)
        try:
            config = await self._stub.ModelConfig(pb.ModelConfigRequest(name=model), timeout=PROBE_SECONDS)
        except grpc.RpcError as error:
            # Triton says INVALID_ARGUMENT, NOT_FOUND or UNAVAILABLE of a model that is not loaded.
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT or "unknown model" in (error.details() or ""):
                raise ModelNotFound(field="model") from None
            if error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.NOT_FOUND):
                raise TritonUnavailable from None
            raise from_status(error) from None
        try:
            info = contract.model_info(config)
        except contract.ContractError as error:
            raise UpstreamError(str(error)) from None
        while len(self._infos) >= REMEMBERED_MODELS:
            self._infos.pop(next(iter(self._infos)))
        self._infos[model] = (time.monotonic() + MODEL_INFO_SECONDS, info)
        return info

    async def generate(
        self,
        model: str,
        request_id: str,
        values: Mapping[str, Value],
        timeout_seconds: float,
        priority: int = 0,
        *,
        metadata: tuple[tuple[str, str], ...] | None = None,
    ) -> AsyncIterator[Delta]:
        """Ask, and yield the responses as they come; the last one has a ``finish_reason``. Closing the iterator cancels
        the request in Triton. ``priority`` is Triton's own: 1 goes first, 0 is the model's default. ``metadata`` goes
        with the call. Raises :class:`gateway.errors.GatewayError`."""
        request = contract.infer_request(model, request_id, values, priority)
        once = values.get("stream") is False  # then the contract has one response
        call = (self._ask_once if once else self._ask)(request, timeout=timeout_seconds, metadata=metadata)
        self._calls.add(call)
        answered = False
        try:
            async for message in _only(call) if once else call:
                if message.error_message:
                    raise from_text(message.error_message)
                delta = contract.read_response(message.infer_response)
                if delta is not None:
                    answered = bool(delta.finish_reason)
                    yield delta
                    if delta.finish_reason:
                        return
                if contract.is_final(message.infer_response):
                    break
            raise UpstreamError("the model ended without a finish reason")
        except grpc.RpcError as error:
            raise from_status(error) from None
        except asyncio.CancelledError:
            if self._cut and call.cancelled():
                raise ShuttingDown from None
            raise
        except contract.ContractError as error:
            raise UpstreamError(str(error)) from None
        finally:
            self._calls.discard(call)
            if not answered:
                call.cancel()
            elif not once:
                self._endings.let_end(call)


async def _only(call: grpc.aio.UnaryUnaryCall) -> AsyncIterator[Any]:
    """The one response, as a stream of it."""
    yield await call


def _status_name(error: grpc.RpcError) -> str:
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else "unknown"
