"""What every infer request goes through before it is known how it is answered: who may ask which model, how much, until
when. The same for ``ModelInfer`` and for each request of a ``ModelStreamInfer``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum, auto

from tritonclient.grpc import service_pb2 as pb

from gateway.access import Principal
from gateway.edge_grpc.asking import Answers, ask_of
from gateway.edge_grpc.calls import ADMIN, GENERATE, Call, Limits, Record, require
from gateway.edge_grpc.messages import EMPTY_FINAL, own_timeout, require_sound, uses_shared_memory
from gateway.edge_grpc.parts import Parts
from gateway.edge_grpc.screened import Screen
from gateway.errors import BodyTooLarge, DeadlineExceeded
from gateway.generation import Answer, Ask
from gateway.policy.verdict import Context
from gateway.triton import Delta, Describer, Description, Forwarder


class Kind(Enum):
    """How a request is answered."""

    GENERATES = auto()
    """By the use case, as over HTTP."""
    SPEAKS = auto()
    """By Triton, with the policy on every text in and out."""
    TENSORS = auto()
    """By Triton, as it came."""


@dataclass(frozen=True)
class Incoming:
    """A request that may be asked. ``deadline`` is in monotonic seconds."""

    principal: Principal
    request: pb.ModelInferRequest
    raw: bytes
    model: Description
    kind: Kind
    record: Record
    deadline: float

    def seconds_left(self) -> float:
        """Of the request's time. Raises :class:`DeadlineExceeded` when there is none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded
        return left

    def ask(self, limits: Limits, *, stream: bool) -> Ask:
        """For the use case. Raises :class:`gateway.errors.InvalidField`."""
        record = self.record
        return ask_of(self.request, record.request_id, limits, self.deadline, record.accepted, stream=stream)

    def answers(self) -> Answers:
        """What its responses look like. Raises :class:`gateway.errors.InvalidField`."""
        return Answers(self.request)

    def context(self) -> Context:
        """For the policy."""
        return Context(self.record.request_id, self.principal.tenant, "input", deadline=self.deadline)

    def wire(self, *, stream: bool) -> bytes:
        """The bytes for Triton: those that came, and behind them what the gateway decides. Protobuf merges what
        follows into what was there, so nothing is written anew. The place in Triton's queue is not the client's to
        choose, and in a stream the end of a request has to be told."""
        added = pb.ModelInferRequest()
        if "priority" in self.request.parameters:
            added.parameters["priority"].uint64_param = 0
        if stream:
            added.parameters[EMPTY_FINAL].bool_param = True
        return self.raw + bytes(added.SerializeToString())

    def ended(self, answer: Answer) -> Delta:
        """The last delta of an answer that has ended; noted for the log line."""
        last = answer.last
        assert last is not None, "an answer that ended has a last delta"  # noqa: S101 - a contract of Answer
        self.record.fields |= {
            "prompt_tokens": last.prompt_tokens,
            "completion_tokens": last.completion_tokens,
            "finish_reason": last.finish_reason,
        }
        return last

    @property
    def wants_empty_final(self) -> bool:
        """Whether the client asks for a last response even if it has no outputs."""
        return EMPTY_FINAL in self.request.parameters and self.request.parameters[EMPTY_FINAL].bool_param


class Intake:
    """Lets requests in. What they need then is here too."""

    def __init__(self, parts: Parts, screen: Screen, forwarder: Forwarder, describer: Describer) -> None:
        self.generation, self.limits = parts.generation, parts.limits
        self.screen, self.forwarder = screen, forwarder
        self._parts, self._describer = parts, describer

    def record(self, route: str, call: Call, request_id: str) -> Record:
        """A place among those in flight, to be entered."""
        return Record(self._parts.telemetry, self._parts.admission, route, call, request_id)

    async def principal(self, call: Call) -> Principal:
        """Who calls. Raises :class:`gateway.errors.Unauthenticated` and its kin."""
        return await call.principal(self._parts.verifier)

    async def message(self, call: Call, incoming: AsyncIterator[bytes]) -> bytes:
        """The one message of a unary call."""
        return await call.message(incoming, self.limits.deadline(call, call.accepted))

    async def admit(self, call: Call, record: Record, request: pb.ModelInferRequest, raw: bytes) -> Incoming:
        """Decide whether ``request``, which came as ``raw``, may be asked, and how. Raises
        :class:`gateway.errors.GatewayError`."""
        principal = await self.principal(call)
        record.fields["tenant"] = principal.tenant
        require(principal, GENERATE, request.model_name)
        if by_reference := uses_shared_memory(request):
            # Triton reads such a tensor from memory that the gateway cannot see, so no policy can.
            require(principal, ADMIN)
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
