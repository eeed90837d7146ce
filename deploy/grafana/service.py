"""Service overview: does it answer, how fast, and is it full?"""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from deploy.grafana.board import board, section
from deploy.grafana.panels import lines, number
from deploy.grafana.queries import ASKING, GATEWAY, MODEL, limit, or_none, quantiles, rate, seen, threshold, total

REFUSALS = {
    "token": "missing_token|invalid_token|token_expired|token_revoked|insufficient_scope",
    "policy": "prompt_rejected",
    "quota": "quota_exceeded",
    "full": "too_many_requests|overloaded|too_many_connections",
}
BUDGET = threshold("error_budget")
FAST, SLOW = 14.4, 3
"""How many times as fast as the budget allows: the factors of ErrorBudgetBurnsFast and of ErrorBudgetBurnsSlowly."""


def service() -> dashboard.Dashboard:
    """The dashboard."""
    each = board("tidegate-service", "Service overview", "Does it answer, how fast, and is it full?", "model")
    for add in (_numbers, _traffic, _speed, _room):
        add(each)
    return each


def _numbers(each: dashboard.Dashboard) -> None:
    section(
        each,
        "",
        number("Requests", "All that came in, those that were refused too.", "reqps", rate("tidegate_requests_total")),
        number(
            "Failing",
            "Share of requests that fail through our fault: statuses from 500 on, and refusals for want of room.",
            "percentunit",
            "tidegate:request_errors:ratio5m",
            steps=[(BUDGET, "orange"), (FAST * BUDGET, "red")],
            alert="ErrorBudgetBurnsFast",
        ),
        number(
            "Budget burnt, 3 days",
            f"How fast the error budget ({100 * BUDGET:g} %) is used: at 1, a month's is gone in a month.",
            "none",
            "tidegate:request_errors:ratio3d / tidegate:threshold:error_budget",
            steps=[(1, "orange"), (SLOW, "red")],
            alert="ErrorBudgetBurnsSlowly",
        ),
        number(
            "First text, p99",
            "From acceptance to the first text for the client, over five minutes; the slowest model.",
            "s",
            f"max(tidegate:time_to_first_token_seconds:p99_5m{{{MODEL}}})",
            steps=[(threshold("time_to_first_token_seconds"), "red")],
            alert="FirstTokenSlow",
        ),
        number("In flight", "Requests being served now.", "none", total("tidegate_requests_in_flight")),
        number(
            "Alerts firing",
            "Of Prometheus' rules; the graphs mark when they began.",
            "none",
            or_none('count(ALERTS{alertstate="firing"})'),
            steps=[(1, "red")],
        ),
    )


def _traffic(each: dashboard.Dashboard) -> None:
    refused = [
        (or_none(rate("tidegate_requests_total", where=f'outcome=~"{codes}"')), name)
        for name, codes in REFUSALS.items()
    ]
    section(
        each,
        "Traffic",
        lines(
            "Requests by route",
            "All that came in, those that were refused too.",
            "reqps",
            (seen("tidegate_requests_total", "route"), "{{route}}"),
            stacked=True,
        ),
        lines(
            "Failures and refusals",
            "What was not answered with text, by code (README has them all).",
            "reqps",
            (seen("tidegate_requests_total", "outcome", 'outcome!="ok"'), "{{outcome}}"),
            stacked=True,
            alert="ErrorBudgetBurnsFast",
        ),
        lines(
            "Refused by what",
            "Token: 401 and 403. Policy: what was asked. Quota: the tenant's. Full: too much at once.",
            "reqps",
            *refused,
        ),
    )


def _speed(each: dashboard.Dashboard) -> None:
    section(
        each,
        "Speed",
        lines(
            "Time to first text",
            "Accepted at the gateway to the first text for the client: queue, policy, prefill.",
            "s",
            *quantiles("tidegate_time_to_first_token_seconds", where=MODEL),
            limit("time_to_first_token_seconds"),
            alert="FirstTokenSlow",
            exemplars=True,
        ),
        lines(
            "Whole request",
            "Accepted to the last byte, of those that ask a model; mostly how long answers are.",
            "s",
            *quantiles("tidegate_request_duration_seconds", where=ASKING),
            exemplars=True,
        ),
        lines(
            "Between two texts",
            "While streaming; each of one token, unless the detokeniser or the policy had to wait.",
            "s",
            *quantiles("tidegate_inter_token_latency_seconds", where=MODEL),
        ),
    )


def _room(each: dashboard.Dashboard) -> None:
    free, cache = (total(f"tidegate_backend_kv_tokens_{kind}", "instance", MODEL) for kind in ("free", "capacity"))
    section(
        each,
        "Saturation",
        lines(
            "In flight and waiting",
            "Requests in the gateways, and those of them that wait in Triton for room in the batch.",
            "none",
            (total("tidegate_requests_in_flight"), "in flight"),
            (total("nv_inference_pending_request_count", where=MODEL), "waiting in Triton"),
            alert="QueueGrowing",
        ),
        lines(
            "How full",
            "CPU of each gateway in cores (one worker is full at 100 %), and the KV cache of each Triton.",
            "percentunit",
            (rate("process_cpu_seconds_total", "instance", GATEWAY), "CPU {{instance}}"),
            (f"1 - {free} / {cache}", "KV {{instance}}"),
        ),
        lines(
            "Memory of the gateways",
            "Resident, of all workers of an instance.",
            "bytes",
            (total("process_resident_memory_bytes", "instance", GATEWAY), "{{instance}}"),
        ),
        lines(
            "Up",
            "1 for each instance that answers its scrape.",
            "none",
            ('up{job=~"(tidegate/)?(gateway|triton)"}', "{{job}} {{instance}}"),
            width=12,
            most=1.2,
            alert="InstanceDown",
        ),
        lines(
            "Open files of the gateways",
            "Connections of clients, mostly.",
            "none",
            (total("process_open_fds", "instance", GATEWAY), "{{instance}}"),
            width=12,
        ),
    )
