"""What an answer of a model is counted as. Children of series are looked up once for a model, never for a token."""

from __future__ import annotations

import time

from gateway.telemetry.prices import Price
from gateway.telemetry.series import Children, Series
from gateway.telemetry.tenants import Tenants
from gateway.tracing import TritonSpan
from gateway.triton import Delta

FINISH_REASONS = frozenset({"stop", "length", "content_filter", "quota"})
LEFT, FAILED, OTHER = "cancelled", "error", "other"
"""How else an answer ends: its client left, something broke or its time was over, the model says what nobody knows."""


class ModelSeries:
    """The series of one model."""

    def __init__(self, series: Series, model: str) -> None:
        self.first_token = series.first_token.labels(model)
        self.inter_token = series.inter_token.labels(model)
        self.first_response = series.triton_first_response.labels(model)
        self.triton = series.triton.labels(model)
        self.input = series.tokens.labels(model, "input")
        self.output = series.tokens.labels(model, "output")
        self.wasted = series.wasted_tokens.labels(model)


class Business:
    """Who used how much, and how answers end."""

    def __init__(self, series: Series, tenants: Tenants, prices: dict[str, Price]) -> None:
        self._tenants, self._prices = tenants, prices
        self._answers, self._tokens = Children(series.answers), Children(series.tenant_tokens)
        self._cost = Children(series.tenant_cost)

    def used(self, tenant: str, model: str, input_tokens: int, output_tokens: int) -> None:
        """Charge the tenant."""
        if not self._tenants.most:
            return
        label = self._tenants.label(tenant)
        self._tokens(label, model, "input").inc(input_tokens)
        self._tokens(label, model, "output").inc(output_tokens)
        price = self._prices.get(model)
        if price is not None:
            self._cost(label, model).inc(price.of(input_tokens, output_tokens))

    def ended(self, model: str, version: str, reason: str) -> None:
        """An answer has ended."""
        self._answers(model, version, reason).inc()


class AnswerRecord:
    """One answer, from the call to Triton on. ``accepted`` is when its request was, in monotonic seconds; ``span`` is
    its part of the trace, if there is one."""

    __slots__ = ("_accepted", "_business", "_called", "_exemplar", "_model", "_previous", "_series", "_span", "_tenant")

    def __init__(
        self,
        model: str,
        tenant: str,
        accepted: float,
        *,
        series: ModelSeries,
        business: Business,
        span: TritonSpan | None,
    ) -> None:
        self._model, self._tenant, self._accepted = model, tenant, accepted
        self._series, self._business, self._span = series, business, span
        self._exemplar = None if span is None else span.exemplar
        self._called = time.monotonic()
        self._previous = 0.0

    @property
    def metadata(self) -> tuple[tuple[str, str], ...] | None:
        """What Triton is to be told, so that it goes on with the trace."""
        return None if self._span is None else self._span.metadata

    def responded(self) -> None:
        """Triton has said something."""
        self._series.first_response.observe(time.monotonic() - self._called)
        if self._span is not None:
            self._span.first_response()

    def sent(self) -> None:
        """Text is on its way to the client."""
        now = time.monotonic()
        if self._previous:
            self._series.inter_token.observe(now - self._previous)
        else:
            self._series.first_token.observe(now - self._accepted, self._exemplar)
        self._previous = now

    def ended(self, last: Delta | None, *, failed: bool) -> None:
        """The answer is over; ``last`` is what came last, if anything did. Counted once, later calls do nothing."""
        if not self._called:
            return
        reason = "" if last is None else last.finish_reason
        if reason not in FINISH_REASONS:
            reason = OTHER if reason else FAILED if failed else LEFT
        self._spent(last, reason)
        if last is not None:
            if reason in (LEFT, FAILED):
                self._series.wasted.inc(last.completion_tokens)
            self._business.ended(self._model, last.model_version, reason)
            self._business.used(self._tenant, self._model, last.prompt_tokens, last.completion_tokens)

    def taken_back(self, last: Delta | None) -> None:
        """Nothing of the answer was given to anybody, and another one is asked for in its place."""
        if self._called:
            self._spent(last, LEFT)

    def _spent(self, last: Delta | None, reason: str) -> None:
        called, self._called = self._called, 0.0
        if last is not None:
            self._series.triton.observe(time.monotonic() - called)
            self._series.input.inc(last.prompt_tokens)
            self._series.output.inc(last.completion_tokens)
        if self._span is not None:
            usage = ("", 0, 0) if last is None else (last.model_version, last.prompt_tokens, last.completion_tokens)
            self._span.end(reason, *usage)
