"""A request that may be asked: what it is, how it is answered, until when."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property

from tritonclient.grpc import service_pb2 as pb

from gateway.access import Principal
from gateway.answer import BYTES_A_TOKEN, Answer, Ask
from gateway.edge_grpc.asking import Answers, ask_of
from gateway.edge_grpc.calls import Limits, Record
from gateway.edge_grpc.messages import EMPTY_FINAL
from gateway.errors import DeadlineExceeded
from gateway.policy.verdict import Context
from gateway.triton import Delta, Description


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
        return ask_of(
            self.request, record.request_id, limits, self.deadline, record.accepted, trace=record.trace, stream=stream
        )

    def answers(self) -> Answers:
        """What its responses look like. Raises :class:`gateway.errors.InvalidField`."""
        return Answers(self.request)

    def context(self) -> Context:
        """For the policy."""
        return Context(self.record.request_id, self.principal.tenant, "input", deadline=self.deadline)

    def wire(self, priority: int, *, stream: bool) -> bytes:
        """The bytes for Triton: those that came, and behind them what the gateway decides. Protobuf merges what
        follows into what was there, so nothing is written anew. The place in Triton's queue is the tenant's and not the
        client's to choose, and in a stream the end of a request has to be told."""
        added = pb.ModelInferRequest()
        if priority or "priority" in self.request.parameters:
            added.parameters["priority"].uint64_param = priority
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

    @cached_property
    def prompt_tokens(self) -> int:
        """An estimate for a text model, which does not count them; none for tensors."""
        if self.kind is not Kind.SPEAKS:
            return 0
        written, raws = 0, self.request.raw_input_contents
        for place, tensor in enumerate(self.request.inputs):
            if self.model.is_text(tensor.name, tensor.datatype, self.model.text_inputs):
                written += len(raws[place]) if raws else sum(map(len, tensor.contents.bytes_contents))
        return written // BYTES_A_TOKEN

    @property
    def wants_empty_final(self) -> bool:
        """Whether the client asks for a last response even if it has no outputs."""
        return EMPTY_FINAL in self.request.parameters and self.request.parameters[EMPTY_FINAL].bool_param
