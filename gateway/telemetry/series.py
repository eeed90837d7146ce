"""Every Prometheus series of the gateway, declared once. docs/metrics.md documents them; a test holds the page to this.

Labels come from closed sets, never from what a client sends. One instance an app, so that two apps in one process do
not share series. How a gauge of several workers becomes one number is its ``multiprocess_mode``: ``live...`` forgets a
worker that has ended.
"""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from gateway.traffic.quotas.config import KINDS

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 30.0, 60.0, 120.0)
SHORT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.4, 1.0, 2.5, 5.0, 10.0)

Mode = Literal["livesum", "livemin", "livemax"]

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which says nothing new


Child = TypeVar("Child", Counter, Gauge, Histogram)


class Children(Generic[Child]):
    """The children of a series by their labels, found with one look-up. Labels are closed sets, so there is a bound."""

    def __init__(self, series: Child) -> None:
        self._series: Child = series
        self._known: dict[tuple[str, ...], Child] = {}

    def __call__(self, *labels: str) -> Child:
        """The child; made if it is new."""
        child = self._known.get(labels)
        if child is None:
            child = self._known[labels] = self._series.labels(*labels)
        return child


class Series:
    """The series, by what they are about."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests()
        self._answers()
        self._tenants()
        self._policy()
        self._access()
        self._quotas()

    def _requests(self) -> None:
        self.requests = self._counter("requests", "Requests by route and outcome code", "route", "outcome")
        self.in_flight = self._gauge("requests_in_flight", "Requests being served", "livesum")
        self.grpc_streams = self._gauge(
            "grpc_streams_open", "ModelStreamInfer streams that are open, idle ones too", "livesum"
        )
        self.duration = self._histogram("request_duration_seconds", "Accepted to last byte, by route", "route")

    def _answers(self) -> None:
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "Accepted to first text for the client", "model"
        )
        self.inter_token = self._histogram(
            "inter_token_latency_seconds",
            "Between two streamed texts, each of one token unless held back",
            "model",
            buckets=SHORT_SECONDS,
        )
        self.triton_first_response = self._histogram(
            "triton_first_response_seconds",
            "From the call to Triton to its first response: queue and prefill",
            "model",
        )
        self.triton = self._histogram(
            "triton_duration_seconds", "From the call to Triton to its last response", "model"
        )
        self.tokens = self._counter("tokens", "Tokens read and generated", "model", "token_type")
        self.wasted_tokens = self._counter(
            "wasted_tokens", "Tokens generated for answers that did not reach their end", "model"
        )
        self.answers = self._counter(
            "answers", "Answers that began, by how they ended", "model", "model_version", "finish_reason"
        )
        self.model_info = self._gauge(
            "model_info",
            "1 for the version that answered last",
            "livemax",
            "model",
            "model_version",
            "precision",
            "accuracy_gate",
        )
        self.feedback = self._counter("feedback", "Scores that people gave", "model", "model_version", "score")
        self.feedback_lost = self._counter("feedback_lost_answers", "Answers that cannot be rated: not remembered")

    def _tenants(self) -> None:
        self.tenant_tokens = self._counter(
            "tenant_tokens", "Tokens by tenant; the first ones by name", "tenant", "model", "token_type"
        )
        self.tenant_cost = self._counter(
            "tenant_cost", "What the tokens cost, in the currency of the prices", "tenant", "model"
        )

    def _policy(self) -> None:
        self.policy_decisions = self._counter(
            "policy_decisions", "Inputs and outputs by what the policy decided", "direction", "action"
        )
        self.policy_matches = self._counter(
            "policy_matches",
            "Matches by list, pattern or moderator, category, action and direction",
            "source",
            "category",
            "action",
            "direction",
        )
        self.held_characters = self._histogram(
            "policy_held_characters",
            "Most characters that were held back at once in an answer",
            buckets=(0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000),
        )
        self.moderator_seconds = self._histogram(
            "moderator_duration_seconds", "Checks of moderators by outcome", "moderator", "outcome"
        )
        self.failed_open = self._counter(
            "policy_failed_open", "Checks that failed while their text passed, as on_error says", "moderator", "outcome"
        )
        self.breaker_open = self._gauge(
            "moderator_breaker_open", "1 while a moderator is left alone after failures", "livemax", "moderator"
        )
        self.audit_lost = self._counter("audit_lost_records", "Records of decisions that could not be written")
        self.policy_info = self._gauge("policy_info", "1 for the policy in force", "livemax", "version")
        self.policy_reloads = self._counter("policy_reloads", "Policies read anew, by outcome", "outcome")
        for outcome in ("ok", "refused"):
            self.policy_reloads.labels(outcome)
        self.policy_reload_failing = self._gauge(
            "policy_reload_failing", "1 while the files hold a policy that cannot be used", "livemax"
        )

    def _access(self) -> None:
        self.jwks_fetches = self._counter("jwks_fetches", "Fetches of an issuer's keys by outcome", "issuer", "outcome")
        self.jwks_good = self._gauge(
            "jwks_last_success_timestamp_seconds",
            "When an issuer's keys were last fetched well; 0 is never",
            "livemin",
            "issuer",
        )
        self.jwks_refresh = self._gauge(
            "jwks_refresh_seconds", "How often an issuer's keys are to be fetched", "livemax", "issuer"
        )
        self.list_good = self._gauge(
            "access_list_last_success_timestamp_seconds",
            "When a list of revocations or API keys was last read well; 0 is never",
            "livemin",
            "source",
        )
        self.api_key_expiry = self._gauge(
            "api_key_first_expiry_timestamp_seconds",
            "When the first API key in force expires; 0 without one",
            "livemax",
        )

        self.certificate_expiry = self._gauge(
            "certificate_expiry_timestamp_seconds", "When the doors' certificate ends; NaN without TLS", "livemin"
        )
        self.certificate_expiry.set(float("nan"))

    def _quotas(self) -> None:
        self.quota_refusals = self._counter("quota_refusals", "Requests refused by a quota, by limit", "limit")
        for kind in KINDS:
            self.quota_refusals.labels(kind)
        self.quota_stops = self._counter("quota_stopped_streams", "Answers ended because a quota was used up")
        self.quota_tokens = self._counter("quota_tokens", "Tokens charged to quotas")
        self.quota_is_degraded = self._gauge(
            "quota_degraded", "1 while Redis is away and quotas are not shared", "livemax"
        )
        self.quota_degraded_requests = self._counter("quota_degraded_requests", "Requests admitted without Redis")
        self.quota_reload_failing = self._gauge(
            "quota_reload_failing", "1 while the file holds quotas that cannot be used", "livemax"
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"tidegate_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, mode: Mode, *labels: str) -> Gauge:
        return Gauge(f"tidegate_{name}", text, labels, registry=self.registry, multiprocess_mode=mode)

    def _histogram(self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
        return Histogram(f"tidegate_{name}", text, labels, registry=self.registry, buckets=buckets)
