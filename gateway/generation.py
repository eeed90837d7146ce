"""The use case: admit a request, then stream its answer.

It knows no HTTP and no gRPC. Everything that may refuse happens in :meth:`Generation.start`, which returns only when
the first response is there, so that a refusal can still be a status.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from gateway.access import GENERATE, Principal
from gateway.answer import Answer, Ask, Prompt, Values, Verdicts, guarded
from gateway.errors import (
    InvalidRequest,
    ModelNotFound,
    PromptRejected,
    TritonUnavailable,
    UpstreamError,
)
from gateway.feedback import RatedAnswers
from gateway.logprobs import LogprobGate
from gateway.policy.engine import InputDecision, PolicyEngine
from gateway.policy.verdict import Context
from gateway.telemetry import Telemetry
from gateway.telemetry.answers import AnswerRecord
from gateway.template import render, without_special_tokens
from gateway.tracing import Operation, stage
from gateway.traffic.admission import Admission, Place
from gateway.traffic.quotas import Lease, Quotas
from gateway.triton import ModelInfo, TritonClient
from gateway.triton.contract import LATER, Value

COMES_AS_ONE_TOKENS = 32
"""An answer of no more, for a client that waits for the whole, is one response of Triton: much cheaper to relay."""


class Generation:
    """The line from a principal and a prompt to Triton and back, the same for every surface."""

    def __init__(
        self,
        triton: TritonClient,
        policy: PolicyEngine,
        admission: Admission,
        quotas: Quotas,
        telemetry: Telemetry,
        *,
        default_model: str,
        allow_special_tokens: bool,
        rated: RatedAnswers | None = None,
    ) -> None:
        self._triton, self._policy, self._admission, self._telemetry = triton, policy, admission, telemetry
        self._quotas, self._rated = quotas, rated
        self.default_model, self._allow_special_tokens = default_model, allow_special_tokens

    async def start(self, principal: Principal, ask: Ask) -> Answer:
        """Admit and ask Triton. Raises :class:`gateway.errors.GatewayError`; nothing is running in Triton then."""
        return await self.begin(await self.admit(principal, ask))

    def require_possible(self, principal: Principal, ask: Ask, answers: int) -> None:
        """Refuse so many answers to one request as the tenant may never have at once. Raises
        :class:`gateway.errors.QuotaExceeded`."""
        principal.require(GENERATE, ask.model)
        self._quotas.require_possible(principal.tenant, principal.tenant_class, answers)

    async def admit(self, principal: Principal, ask: Ask, answers: int = 1) -> Admitted:
        """Everything before Triton, for so many answers to one prompt; each is then begun, or the rest released. Raises
        :class:`gateway.errors.GatewayError`."""
        principal.require(GENERATE, ask.model)
        self._admission.require_time(ask.seconds_left())
        leases: list[Lease] = []
        try:
            for _ in range(answers):
                leases.append(await self._lease(principal, ask))
            info = await self._info(ask.model)
            context = Context(ask.request_id, principal.tenant, "input", deadline=ask.deadline)
            return await self._written(principal, ask, leases, context=context, info=info)
        except BaseException:
            await _released(ask, leases)
            raise

    async def _written(
        self, principal: Principal, ask: Ask, leases: list[Lease], *, context: Context, info: ModelInfo
    ) -> Admitted:
        """The request in the form of the model's version, and checked. Raises
        :class:`gateway.errors.GatewayError`."""
        _require_inputs(info, ask.parameters)
        with stage(ask.trace, "policy.input"):
            prompt, decision = await self._checked(ask, info, context)
        with stage(ask.trace, "template"):
            values = {**_rendered(prompt, info), **ask.parameters}
        return Admitted(principal, ask, leases, values, context, decision, info)

    async def _lease(self, principal: Principal, ask: Ask) -> Lease:
        """The tenant's leave to use tokens. Raises :class:`gateway.errors.QuotaExceeded`."""
        prompt, most = ask.tokens()
        lease = await self._quotas.admit(principal.tenant, principal.tenant_class, most, prompt)
        ask.headers.update(lease.headers)
        return lease

    async def begin(self, admitted: Admitted, number: int = 0, changes: Values | None = None) -> Answer:
        """Ask Triton for answer ``number``, with ``changes`` of its parameters. All but a request's first answer take a
        place of their own among those in flight: ``changes`` is None for that one. Raises
        :class:`gateway.errors.GatewayError`."""
        ask, lease = admitted.ask, admitted.leases[number]
        place = None
        try:
            if changes is not None:
                place = self._admission.enter()
            answer = await self._asked(admitted, lease, changes or {}, place)
            anew = await self._written_anew(admitted, answer)
            if anew is not None:
                admitted, answer = anew, await self._asked(anew, lease, changes or {}, place)
            self._began(admitted, answer.version)
            return answer
        except BaseException:
            if place is not None:
                place.leave()
            await _released(ask, [lease])
            raise

    async def _asked(self, admitted: Admitted, lease: Lease, changes: Values, place: Place | None) -> Answer:
        ask, values = admitted.ask, admitted.values | changes
        # An answer that comes as one cannot be stopped: not where the quota ends, nor where the policy blocks.
        if lease.granted < lease.estimated or cast("int", values["max_tokens"]) > COMES_AS_ONE_TOKENS:
            values["stream"] = True
        seconds = ask.seconds_left()
        record = self._record(admitted)
        deltas = self._triton.generate(
            ask.model, ask.request_id, values, seconds, lease.priority, metadata=record.metadata
        )
        policy = self._policy.policy.version
        guard = self._policy.output(replace(admitted.context, direction="output"), json="json_schema" in values)
        gate = LogprobGate(guard) if "logprobs" in values else None
        verdicts = Verdicts(policy, admitted.decision, guard) if ask.include_policy else None
        text = guarded(deltas, guard, lease, gate, ask.trace)
        answer = Answer(ask, lease, record, text, policy_version=policy, verdicts=verdicts, place=place)
        await answer.wait_for_first()
        return answer

    async def _written_anew(self, admitted: Admitted, answer: Answer) -> Admitted | None:
        """When a rollout came between and another version answers than the one that the prompt was written for, and it
        wants another prompt: that prompt. ``answer`` is stopped then; nothing of it has been sent yet."""
        written_for = admitted.info
        if not written_for.version or answer.version == written_for.version:
            return None
        try:
            info = await self._triton.info(admitted.ask.model, anew=True)
            if info.writes_as(written_for):
                return None
            await answer.stop()
            return await self._written(
                admitted.principal, admitted.ask, admitted.leases, context=admitted.context, info=info
            )
        except BaseException:
            await answer.close()
            raise

    def _record(self, admitted: Admitted) -> AnswerRecord:
        ask = admitted.ask
        operation: Operation = "chat" if ask.prompt.text is None else "text_completion"
        return self._telemetry.answering(
            ask.model,
            admitted.principal.tenant,
            ask.accepted,
            ask.trace,
            operation=operation,
            parameters=ask.parameters,
        )

    def _began(self, admitted: Admitted, version: str) -> None:
        """An answer has begun: count who gives it, and remember that it may be rated."""
        ask, principal = admitted.ask, admitted.principal
        self._telemetry.answered_by(ask.model, version, admitted.info)
        if self._rated is not None:
            self._rated.remember(principal.tenant, principal.subject, ask.request_id, ask.model, version)

    async def _info(self, model: str) -> ModelInfo:
        """What the model says of itself. The gateway's own model is expected to be there: it is only away; another one
        is there if it can be asked."""
        try:
            return await self._triton.info(model)
        except ModelNotFound:
            if model == self.default_model:
                raise TritonUnavailable from None
            raise
        except UpstreamError:
            if model == self.default_model:
                raise
            raise ModelNotFound(
                "this model does not generate text; GET /v1/models lists those that do", field="model"
            ) from None

    async def _checked(self, ask: Ask, info: ModelInfo, context: Context) -> tuple[Prompt, InputDecision]:
        """The prompt as it may be asked. Special tokens are taken out before the check, so that they cannot hide a word
        by splitting it; they come back only where they are allowed and nothing was redacted."""
        prompt, version = ask.prompt, self._policy.policy.version
        written = [without_special_tokens(each, info.special_tokens) for each in prompt.written()]
        decision = await self._policy.check_input(written, context)
        if decision.action == "block":
            report = {"version": version, "input": decision.report()} if ask.include_policy else None
            raise PromptRejected(field="text_input" if prompt.text is not None else "messages", policy=report)
        if prompt.text is None:
            contents = zip(prompt.messages, decision.texts, strict=True)
            return Prompt(None, tuple({**message, "content": text} for message, text in contents)), decision
        as_written = self._allow_special_tokens and decision.action != "redact"
        return (prompt if as_written else Prompt(decision.texts[0])), decision


@dataclass(frozen=True)
class Admitted:
    """A request that may be asked: a lease for each of its answers, its tensors, and what the policy said."""

    principal: Principal
    ask: Ask
    leases: list[Lease]
    values: Values
    context: Context
    decision: InputDecision
    info: ModelInfo

    async def release(self) -> None:
        """Give back what no answer was begun for; what runs, or has ended, is charged. Safe to call again."""
        await _released(self.ask, self.leases)


async def _released(ask: Ask, leases: Sequence[Lease]) -> None:
    for lease in leases:
        await lease.settle()
        ask.headers.update(lease.headers)


def _require_inputs(info: ModelInfo, parameters: dict[str, Value]) -> None:
    """Raises :class:`InvalidRequest` for what the model's version is too old to take."""
    missing = LATER.intersection(parameters) - info.inputs
    if missing:
        field = min(missing).removesuffix("_tokens").removesuffix("_values")
        raise InvalidRequest(
            f"{field}: the published version of this model does not take it; leave it out, or build the model again",
            field=field,
        )


def _rendered(prompt: Prompt, info: ModelInfo) -> dict[str, Value]:
    """The prompt in the model's form."""
    if prompt.text is not None:
        return {"text_input": prompt.text, "add_special_tokens": True}
    text = render(info.chat_template, list(prompt.messages), info.bos_token, info.eos_token)
    return {"text_input": text, "add_special_tokens": False}
