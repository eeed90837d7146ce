"""What happened: every Prometheus series of the gateway, and JSON log lines.

Labels come from closed sets, never from what a client sends. One instance an app, so that two apps in one process do
not share series.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from gateway.access.observer import Source
from gateway.policy.verdict import Action, Direction, Span
from gateway.traffic.quotas.config import KINDS, Kind

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 30.0, 60.0, 120.0)
SHORT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.4, 1.0, 2.5)
LOGGER = logging.getLogger("tidegate")


class Telemetry:
    """The series. Names are documented in docs/metrics.md; a test holds that page to this class."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.requests = Counter(
            "tidegate_requests", "Requests by route and outcome code", ["route", "outcome"], registry=self.registry
        )
        self.in_flight = Gauge("tidegate_requests_in_flight", "Requests being served", registry=self.registry)
        self.duration = Histogram(
            "tidegate_request_duration_seconds",
            "Accepted to last byte, by route",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "tidegate_time_to_first_token_seconds",
            "Accepted to first text for the client",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.inter_token = Histogram(
            "tidegate_inter_token_latency_seconds",
            "Between two streamed texts, each of one token unless held back",
            buckets=SHORT_SECONDS,
            registry=self.registry,
        )
        self.triton = Histogram(
            "tidegate_triton_duration_seconds",
            "From the call to Triton to its last response",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.triton_first_response = Histogram(
            "tidegate_triton_first_response_seconds",
            "From the call to Triton to its first response: queue and prefill",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.tokens = Counter(
            "tidegate_tokens", "Tokens by direction: prompt or completion", ["direction"], registry=self.registry
        )
        self.policy_decisions = Counter(
            "tidegate_policy_decisions",
            "Inputs and outputs by what the policy decided",
            ["direction", "action"],
            registry=self.registry,
        )
        self.policy_matches = Counter(
            "tidegate_policy_matches",
            "Matches by list or pattern, category, action and direction",
            ["source", "category", "action", "direction"],
            registry=self.registry,
        )
        self.moderator_seconds = Histogram(
            "tidegate_moderator_duration_seconds",
            "Checks of moderators by outcome",
            ["moderator", "outcome"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.failed_open = Counter(
            "tidegate_policy_failed_open",
            "Checks that failed while their text passed, as on_error says",
            ["moderator", "outcome"],
            registry=self.registry,
        )
        self.breaker_open = Gauge(
            "tidegate_moderator_breaker_open",
            "1 while a moderator is left alone after failures",
            ["moderator"],
            registry=self.registry,
        )
        self.audit_lost = Gauge(
            "tidegate_audit_lost_records", "Records of decisions that could not be written", registry=self.registry
        )
        self.jwks_fetches = Counter(
            "tidegate_jwks_fetches",
            "Fetches of an issuer's keys by outcome",
            ["issuer", "outcome"],
            registry=self.registry,
        )
        self.jwks_good = Gauge(
            "tidegate_jwks_last_success_timestamp_seconds",
            "When an issuer's keys were last fetched well; 0 is never",
            ["issuer"],
            registry=self.registry,
        )
        self.list_good = Gauge(
            "tidegate_access_list_last_success_timestamp_seconds",
            "When a list of revocations or API keys was last read well; 0 is never",
            ["source"],
            registry=self.registry,
        )
        self.api_key_expiry = Gauge(
            "tidegate_api_key_first_expiry_timestamp_seconds",
            "When the first API key in force expires; 0 without one",
            registry=self.registry,
        )
        self.policy_info = Gauge(
            "tidegate_policy_info", "1 for the policy in force", ["version"], registry=self.registry
        )
        self.policy_reloads = Counter(
            "tidegate_policy_reloads", "Policies read anew, by outcome", ["outcome"], registry=self.registry
        )
        for outcome in ("ok", "refused"):
            self.policy_reloads.labels(outcome)
        self.policy_reload_failing = Gauge(
            "tidegate_policy_reload_failing",
            "1 while the files hold a policy that cannot be used",
            registry=self.registry,
        )
        self.grpc_streams = Gauge(
            "tidegate_grpc_streams_open",
            "ModelStreamInfer streams that are open, idle ones too",
            registry=self.registry,
        )
        self.certificate_expiry = Gauge(
            "tidegate_certificate_expiry_timestamp_seconds",
            "When the doors' certificate ends; NaN without TLS",
            registry=self.registry,
        )
        self.certificate_expiry.set(float("nan"))
        self.quota_refusals = Counter(
            "tidegate_quota_refusals", "Requests refused by a quota, by limit", ["limit"], registry=self.registry
        )
        for kind in KINDS:
            self.quota_refusals.labels(kind)
        self.quota_stops = Counter(
            "tidegate_quota_stopped_streams", "Answers ended because a quota was used up", registry=self.registry
        )
        self.quota_tokens = Counter("tidegate_quota_tokens", "Tokens charged to quotas", registry=self.registry)
        self.quota_is_degraded = Gauge(
            "tidegate_quota_degraded", "1 while Redis is away and quotas are not shared", registry=self.registry
        )
        self.quota_degraded_requests = Counter(
            "tidegate_quota_degraded_requests", "Requests admitted without Redis", registry=self.registry
        )
        self.quota_reload_failing = Gauge(
            "tidegate_quota_reload_failing",
            "1 while the file holds quotas that cannot be used",
            registry=self.registry,
        )
        self.prompt_tokens = self.tokens.labels("prompt")
        self.completion_tokens = self.tokens.labels("completion")

    def matched(self, direction: Direction, span: Span) -> None:
        """A match of a list or pattern."""
        self.policy_matches.labels(span.source, span.category, span.action, direction).inc()

    def decided(self, direction: Direction, action: Action) -> None:
        """What the policy decided about a whole input or output."""
        self.policy_decisions.labels(direction, action).inc()

    def checked(self, moderator: str, outcome: str, seconds: float) -> None:
        """A moderator's check ended."""
        self.moderator_seconds.labels(moderator, outcome).observe(seconds)

    def let_through(self, moderator: str, outcome: str) -> None:
        """A check failed, and the text passes all the same."""
        self.failed_open.labels(moderator, outcome).inc()

    def breaker(self, moderator: str, is_open: bool) -> None:
        """A moderator's breaker opened or closed."""
        self.breaker_open.labels(moderator).set(is_open)

    def policy_in_force(self, version: str) -> None:
        """Name the policy that counts from now on."""
        self.policy_info.clear()
        self.policy_info.labels(version).set(1)

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

    def list_read(self, source: Source, ok: bool) -> None:
        """A list of identity was looked at; what it says is in force, unless it could not be read."""
        good = self.list_good.labels(source)
        if ok:
            good.set_to_current_time()

    def api_keys_expire(self, first: float | None) -> None:
        """When the first API key in force expires."""
        self.api_key_expiry.set(first or 0.0)

    def exposition(self) -> bytes:
        """The text for Prometheus."""
        return generate_latest(self.registry)


class JsonFormatter(logging.Formatter):
    """One JSON object a line. What a caller passes as ``extra={"fields": {...}}`` becomes its keys."""

    def format(self, record: logging.LogRecord) -> str:
        """The line. An exception is named by its type and place, not by its text, which could carry user input."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
            line["at"] = _place(record.exc_info[2])
        return json.dumps(line, ensure_ascii=False)


def _place(traceback: Any) -> list[str]:
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename.rsplit('/', 2)[-1]}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return frames[-8:]


def configure_logging(level: str) -> None:
    """All loggers of the process write JSON lines to stdout."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
