"""What the other parts tell of themselves, into the series."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.access.observer import Source
from gateway.errors import failures_of_ours
from gateway.policy.verdict import Action, Direction
from gateway.telemetry.answers import AnswerRecord, Business, ModelSeries
from gateway.telemetry.exposition import Exposition
from gateway.telemetry.prices import Price
from gateway.telemetry.series import Children, Series
from gateway.telemetry.tenants import Tenants
from gateway.tracing import Operation, RequestTrace
from gateway.traffic.quotas.config import Kind
from gateway.triton import ModelInfo
from gateway.triton.contract import Value

FAILURES = tuple(sorted(failures_of_ours()))


class Telemetry(Series):
    """The series, and who may write to them. ``tenants`` are counted by name, as far as there is room; ``prices`` are
    those of models that cost something. After :func:`gateway.telemetry.sharing.share` it shows every worker's."""

    def __init__(self, tenants: Tenants | None = None, prices: dict[str, Price] | None = None) -> None:
        super().__init__()
        self._business = Business(self, tenants or Tenants(), prices or {})
        self._requests_of, self._duration_of = Children(self.requests), Children(self.duration)
        self._decisions_of = Children(self.policy_decisions)
        self._models: dict[str, ModelSeries] = {}
        self._info: dict[str, tuple[str, str, str, str]] = {}
        self._policy_version: str | None = None
        self._exposition = Exposition(self)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """The series for Prometheus as its ``Accept`` header wants them, and the content type."""
        return self._exposition.render(accept)

    def serves(self, route: str) -> None:
        """There is such a route. Its failures are series from now on: the first one would not count in a rate if its
        series were born with it."""
        for outcome in FAILURES:
            self._requests_of(route, outcome)

    def served(self, route: str, outcome: str, seconds: float, trace: RequestTrace | None = None) -> None:
        """A request has ended."""
        self._requests_of(route, outcome).inc()
        self._duration_of(route).observe(seconds, None if trace is None else trace.exemplar)

    def answering(
        self,
        model: str,
        tenant: str,
        accepted: float,
        trace: RequestTrace | None,
        *,
        operation: Operation,
        parameters: Mapping[str, Value],
    ) -> AnswerRecord:
        """Triton is about to be asked for an answer to a request that was accepted at ``accepted``."""
        series = self._models.get(model)
        if series is None:
            series = self._models[model] = ModelSeries(self, model)
        span = None if trace is None else trace.triton(model, operation, parameters)
        return AnswerRecord(model, tenant, accepted, series=series, business=self._business, span=span)

    def answered_by(self, model: str, version: str, info: ModelInfo) -> None:
        """This version of the model has answered. What ``info`` says may be of the version before, for a moment."""
        if info.version and info.version != version:
            return
        labels = (model, version, info.precision, info.accuracy_gate)
        before = self._info.get(model)
        if before != labels:
            if before is not None:
                self.model_info.labels(*before).set(0)
            self.model_info.labels(*labels).set(1)
            self._info[model] = labels

    def rated(self, model: str, version: str, score: int) -> None:
        """Somebody gave an answer a score."""
        self.feedback.labels(model, version, score).inc()

    def answers_forgotten(self, count: int) -> None:
        """Answers could not be remembered, so nobody can rate them."""
        self.feedback_lost.inc(count)

    def matched(self, direction: Direction, source: str, category: str, action: Action, times: int) -> None:
        """So many matches of a list or pattern, or what a moderator found."""
        self.policy_matches.labels(source, category, action, direction).inc(times)

    def decided(self, direction: Direction, action: Action) -> None:
        """What the policy decided about a whole input or output."""
        self._decisions_of(direction, action).inc()

    def held_back(self, characters: int) -> None:
        """The most that the policy held back of an answer at once."""
        self.held_characters.observe(characters)

    def checked(self, moderator: str, outcome: str, seconds: float) -> None:
        """A moderator's check ended."""
        self.moderator_seconds.labels(moderator, outcome).observe(seconds)

    def let_through(self, moderator: str, outcome: str) -> None:
        """A check failed, and the text passes all the same."""
        self.failed_open.labels(moderator, outcome).inc()

    def breaker(self, moderator: str, is_open: bool) -> None:
        """A moderator's breaker opened or closed."""
        self.breaker_open.labels(moderator).set(is_open)

    def record_lost(self) -> None:
        """A record of a decision could not be written."""
        self.audit_lost.inc()

    def policy_in_force(self, version: str) -> None:
        """Name the policy that counts from now on."""
        if self._policy_version is not None:
            self.policy_info.labels(self._policy_version).set(0)
        self.policy_info.labels(version).set(1)
        self._policy_version = version

    def reloaded(self, version: str | None) -> None:
        """A policy was read anew; None if it cannot be used."""
        self.policy_reloads.labels("ok" if version else "refused").inc()
        self.policy_reload_failing.set(0 if version else 1)
        if version:
            self.policy_in_force(version)

    def quota_refused(self, kind: Kind) -> None:
        """A request was not admitted."""
        self.quota_refusals.labels(kind).inc()

    def quota_stopped(self) -> None:
        """An answer was ended."""
        self.quota_stops.inc()

    def quota_charged(self, tokens: int) -> None:
        """A request was settled."""
        self.quota_tokens.inc(tokens)

    def quota_degraded(self, degraded: bool) -> None:
        """Redis has gone away, or is back."""
        self.quota_is_degraded.set(degraded)

    def quota_admitted_without_redis(self) -> None:
        """A request was admitted without Redis."""
        self.quota_degraded_requests.inc()

    def quotas_reloaded(self, used: bool) -> None:
        """The file of quotas was read anew; not used if it is bad."""
        self.quota_reload_failing.set(not used)

    def jwks_fetched(self, issuer: str, ok: bool) -> None:
        """An issuer's keys were fetched, or could not be."""
        self.jwks_fetches.labels(issuer, "ok" if ok else "failed").inc()
        good = self.jwks_good.labels(issuer)
        if ok:
            good.set_to_current_time()

    def jwks_refreshed_every(self, issuer: str, seconds: float) -> None:
        """How often an issuer's keys are to be fetched."""
        self.jwks_refresh.labels(issuer).set(seconds)

    def list_read(self, source: Source, ok: bool) -> None:
        """A list of identity was looked at; what it says is in force, unless it could not be read."""
        good = self.list_good.labels(source)
        if ok:
            good.set_to_current_time()

    def api_keys_expire(self, first: float | None) -> None:
        """When the first API key in force expires."""
        self.api_key_expiry.set(first or 0.0)
