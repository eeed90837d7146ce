"""One request and its running answer: what is asked, what may leave of what comes back, and what ends with it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

from gateway.errors import DeadlineExceeded, GatewayError
from gateway.logprobs import LogprobGate
from gateway.policy.engine import InputDecision
from gateway.policy.output import OutputGuard
from gateway.telemetry.answers import AnswerRecord
from gateway.tracing import RequestTrace, pieces
from gateway.traffic.admission import Place
from gateway.traffic.quotas import Lease
from gateway.triton import Delta
from gateway.triton.contract import Value

Values = dict[str, Value]
CONTENT_FILTER = "content_filter"
QUOTA = "quota"
BYTES_A_TOKEN, TOKENS_A_MESSAGE = 4, 4
"""For an estimate of the prompt; the model's own count settles it."""


@dataclass(frozen=True)
class Prompt:
    """What is asked: a text, or a conversation (``messages`` of role and content) for the chat template."""

    text: str | None = None
    messages: tuple[dict[str, str], ...] = ()

    def written(self) -> list[str]:
        """Every text that a user wrote."""
        return [self.text] if self.text is not None else [message["content"] for message in self.messages]


@dataclass(frozen=True)
class Ask:
    """One accepted request. ``model`` is a name in Triton; ``parameters`` go to it by tensor name. ``accepted`` and
    ``deadline`` are in monotonic seconds: whatever the request waits for is paid out of that one budget."""

    request_id: str
    model: str
    prompt: Prompt
    parameters: dict[str, Value]
    deadline: float
    accepted: float = field(default_factory=time.monotonic)
    include_policy: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    """What the answer, or the refusal, is to say of the tenant's quota; for whoever sends it."""
    trace: RequestTrace | None = None

    def tokens(self) -> tuple[int, int]:
        """An estimate of the prompt's, and the most that prompt and answer may come to."""
        written = sum(len(text.encode("utf-8", "surrogatepass")) for text in self.prompt.written())
        prompt = written // BYTES_A_TOKEN + TOKENS_A_MESSAGE * len(self.prompt.messages)
        return prompt, prompt + int(cast("int", self.parameters["max_tokens"]))

    def seconds_left(self) -> float:
        """Of the budget. Raises :class:`DeadlineExceeded` when there is none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded
        return left


@dataclass(frozen=True)
class Verdicts:
    """What the policy found, for a client that asks."""

    version: str
    input: InputDecision
    output: OutputGuard

    def report(self) -> dict[str, Any]:
        """The field ``policy`` of an answer."""
        return {"version": self.version, "input": self.input.report(), "output": self.output.report()}


async def guarded(
    deltas: AsyncIterator[Delta],
    guard: OutputGuard,
    lease: Lease,
    gate: LogprobGate | None,
    trace: RequestTrace | None,
) -> AsyncGenerator[Delta, None]:
    """The answer as it may leave. A blocked one ends with ``content_filter``, one that has used up its quota with
    ``quota``, and the model is stopped."""
    judging = pieces(trace, "policy.output")
    try:
        async for delta in deltas:
            reason = delta.finish_reason
            if not lease.take(delta.prompt_tokens + delta.completion_tokens) and not reason:
                reason = QUOTA
            with judging:
                text = await guard.feed(delta.text, last=bool(reason))
            logprobs = gate.passed(delta, text) if gate is not None else ()
            if guard.blocked:
                yield replace(delta, text=text, finish_reason=CONTENT_FILTER, logprobs=logprobs)
                return
            yield replace(delta, text=text, finish_reason=reason, logprobs=logprobs)
            if reason == QUOTA:
                return
    finally:
        guard.close()
        judging.end(guard.action)
        if isinstance(deltas, AsyncGenerator):
            await deltas.aclose()


class Answer:
    """A running answer. Iterate it to its end, or close it: either frees everything in Triton."""

    def __init__(
        self,
        ask: Ask,
        lease: Lease,
        record: AnswerRecord,
        deltas: AsyncIterator[Delta],
        *,
        policy_version: str,
        verdicts: Verdicts | None = None,
        place: Place | None = None,
    ) -> None:
        self._ask, self._lease = ask, lease
        self.model, self.request_id, self.verdicts = ask.model, ask.request_id, verdicts
        self.policy_version, self._place = policy_version, place
        self._record, self._deltas = record, deltas
        self._failed = False
        self._unheard: int | None = None
        """What to charge when nothing has come."""
        self._first: Delta | None = None
        self.version = ""
        self.last: Delta | None = None

    async def wait_for_first(self) -> None:
        """Wait until Triton has answered something. Raises what it refused with."""
        try:
            self._first = await anext(self._deltas)
        except BaseException as error:
            self._failed = isinstance(error, GatewayError)
            if not self._failed or isinstance(error, DeadlineExceeded):  # the model read the prompt, and nobody waited
                self._unheard = self._ask.tokens()[0]
            await self.close()
            raise
        self.last = self._first
        self.version = self._first.model_version
        self._record.responded()

    async def __aiter__(self) -> AsyncGenerator[Delta, None]:
        """The responses, the first one included."""
        assert self._first is not None, "wait_for_first() comes before"  # noqa: S101 - a contract of this module
        try:
            async for delta in self._with_first(self._first):
                self.last = delta
                if delta.text:
                    self._record.sent()
                yield delta
        except GatewayError:
            self._failed = True
            raise
        finally:
            await self.close()

    async def _with_first(self, first: Delta) -> AsyncIterator[Delta]:
        yield first
        if not first.finish_reason:
            async for delta in self._deltas:
                yield delta

    async def close(self) -> None:
        """Cancel what still runs, settle the quota and count what was spent. Safe to call again."""
        try:
            await self._stop_deltas()
        finally:
            await self._lease.settle(self._unheard)
            self._ask.headers.update(self._lease.headers)
        self._record.ended(self.last, failed=self._failed)
        if self._place is not None:
            self._place.leave(served=self.last is not None and bool(self.last.finish_reason))

    async def stop(self) -> None:
        """Cancel what still runs; quota and place stay, for the request to be asked again."""
        await self._stop_deltas()
        self._record.taken_back(self.last)

    async def _stop_deltas(self) -> None:
        if isinstance(self._deltas, AsyncGenerator):
            with contextlib.suppress(RuntimeError):  # "already running": its own task is closing it
                await self._deltas.aclose()
