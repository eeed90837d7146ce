"""What every infer request goes through before it is known how it is answered: who may ask which model, how much, until
when. The same for ``ModelInfer`` and for each request of a ``ModelStreamInfer``."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from tritonclient.grpc import service_pb2 as pb

from gateway.access import ADMIN, GENERATE, Principal
from gateway.edge_grpc.asking import USUAL_TOKENS
from gateway.edge_grpc.calls import Call, Record
from gateway.edge_grpc.incoming import Incoming, Kind
from gateway.edge_grpc.messages import own_timeout, require_sound, uses_shared_memory
from gateway.edge_grpc.parts import Parts
from gateway.edge_grpc.screened import Screen
from gateway.errors import BodyTooLarge
from gateway.tracing import stage
from gateway.traffic.quotas import Lease
from gateway.triton import Describer, Description, Forwarder


class Intake:
    """Lets requests in. What they need then is here too."""

    def __init__(self, parts: Parts, screen: Screen, forwarder: Forwarder, describer: Describer) -> None:
        self.generation, self.limits = parts.generation, parts.limits
        self.screen, self.forwarder = screen, forwarder
        self._parts, self._describer = parts, describer

    def record(self, route: str, call: Call, request_id: str) -> Record:
        """Of a request that may take a place among those in flight."""
        record = Record(self._parts.telemetry, self._parts.admission, route, call, request_id)
        tracer = self._parts.tracer
        if tracer is not None:
            headers = {key: value for key, value in call.metadata if isinstance(value, str)}
            record.trace = tracer.begin(route, {"rpc.system": "grpc", "rpc.method": route[len("grpc:") :]}, headers)
        return record

    async def principal(self, call: Call) -> Principal:
        """Who calls. Raises :class:`gateway.errors.Unauthenticated` and its kin."""
        return await call.principal(self._parts.authenticator)

    async def message(self, call: Call, incoming: AsyncIterator[bytes]) -> bytes:
        """The one message of a unary call."""
        return await call.message(incoming, self.limits.deadline(call, call.accepted))

    @contextlib.asynccontextmanager
    async def lease(self, one: Incoming) -> AsyncIterator[Lease]:
        """The tenant's leave, for a request that the use case does not see. A request of tensors uses no tokens. Raises
        :class:`gateway.errors.QuotaExceeded`."""
        tenant, tenant_class = one.principal.tenant, one.principal.tenant_class
        prompt = one.prompt_tokens
        most = prompt + USUAL_TOKENS if one.kind is Kind.SPEAKS else 0
        lease = await self._parts.quotas.admit(tenant, tenant_class, most, prompt)
        try:
            yield lease
        finally:
            await lease.settle()

    async def admit(self, call: Call, record: Record, request: pb.ModelInferRequest, raw: bytes) -> Incoming:
        """Decide whether ``request``, which came as ``raw``, may be asked, and how. Raises
        :class:`gateway.errors.GatewayError`."""
        with stage(record.trace, "access"):
            principal = await self.principal(call)
        record.fields["tenant"] = principal.tenant
        principal.require(GENERATE, request.model_name)
        if by_reference := uses_shared_memory(request):
            # Triton reads such a tensor from memory that the gateway cannot see, so no policy can.
            principal.require(ADMIN)
        else:
            require_sound(request)
        model = await self._describer.describe(request.model_name, request.model_version)
        kind = Kind.TENSORS if by_reference else _kind(model, request)
        if kind is not Kind.TENSORS and len(raw) > self.limits.text_bytes:
            raise BodyTooLarge(f"the request is larger than {self.limits.text_bytes} bytes; send a shorter text")
        deadline = self.limits.deadline(call, record.accepted, own_timeout(request))
        one = Incoming(principal, request, raw, model, kind, record, deadline)
        if kind is not Kind.GENERATES:  # the use case asks this itself
            self._parts.admission.require_time(one.seconds_left())
        return one


def _kind(model: Description, request: pb.ModelInferRequest) -> Kind:
    if model.generates:
        return Kind.GENERATES
    return Kind.SPEAKS if model.speaks(request) else Kind.TENSORS
