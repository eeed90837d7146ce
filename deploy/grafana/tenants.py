"""Tenants and business: who uses how much, what it costs, whether they get what they came for, and what they say."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from deploy.grafana.board import board, section
from deploy.grafana.panels import bars, lines, listing, number
from deploy.grafana.queries import MODEL, TENANT, grown, or_none, rate, total

WHO = f"{TENANT}, {MODEL}"
TOKENS, COST = "tidegate_tenant_tokens_total", "tidegate_tenant_cost_total"
ANSWERS, FEEDBACK = "tidegate_answers_total", "tidegate_feedback_total"


def tenants() -> dashboard.Dashboard:
    """The dashboard."""
    text = "Who uses how much, what it costs, and whether they are content."
    each = board("tidegate-tenants", "Tenants and business", text, "model", "tenant")
    for add in (_numbers, _use, _limits, _content):
        add(each)
    return each


def mean_score(by: str, window: str) -> str:
    """Mean of the scores 1 to 5 that people gave in the window; nothing where nobody did."""
    every = f"sum by ({by}) (increase({FEEDBACK}{{{MODEL}}}[{window}]))"
    stars = (f'sum by ({by}) (increase({FEEDBACK}{{{MODEL}, score="{score}"}}[{window}]))' for score in range(1, 6))
    weighed = (f"{score} * ({given} or 0 * {every})" for score, given in enumerate(stars, start=1))
    return f"({' + '.join(weighed)}) / ({every} > 0)"


def _numbers(each: dashboard.Dashboard) -> None:
    completed = grown(ANSWERS, where=f'{MODEL}, finish_reason="stop"')
    section(
        each,
        "",
        number("Tokens", "Read and generated, over the range shown.", "short", grown(TOKENS, where=WHO)),
        number("Cost", "Over the range shown, in the currency of the prices.", "none", grown(COST, where=WHO)),
        number("Answers", "That began, over the range shown.", "short", grown(ANSWERS, where=MODEL)),
        number(
            "Completed",
            "Answers that the model itself ended (finish_reason stop), of all that began.",
            "percentunit",
            f"{or_none(completed)} / {grown(ANSWERS, where=MODEL)}",
        ),
        number("Mean score", "What people gave, 1 to 5, over the range shown.", "none", mean_score("", "$__range")),
        number(
            "Refused by quota",
            "Requests, over the range shown.",
            "short",
            grown("tidegate_quota_refusals_total"),
        ),
    )


def _use(each: dashboard.Dashboard) -> None:
    section(
        each,
        "Use and cost",
        lines(
            "Tokens a second, by tenant",
            "Read and generated. Tenants beyond the first ones seen are together `other`.",
            "none",
            (rate(TOKENS, "tenant", WHO), "{{tenant}}"),
            stacked=True,
        ),
        lines(
            "Cost an hour, by tenant",
            "At the present rate, in the currency of the prices.",
            "none",
            (f"3600 * {rate(COST, 'tenant', WHO)}", "{{tenant}}"),
            stacked=True,
        ),
        listing(
            "Cost over the range shown",
            "By tenant and model, in the currency of the prices.",
            f"sort_desc({grown(COST, 'tenant, model', WHO)})",
            "tenant",
            "model",
            "Value",
        ),
        bars(
            "Top tenants",
            "Tokens over the range shown.",
            "short",
            f"topk(10, {grown(TOKENS, 'tenant', WHO)})",
            "{{tenant}}",
            width=12,
        ),
        lines(
            "Read and generated, a second",
            "Tokens by model and type.",
            "none",
            (rate("tidegate_tokens_total", "model, token_type", MODEL), "{{model}} {{token_type}}"),
            width=12,
            stacked=True,
        ),
    )


def _limits(each: dashboard.Dashboard) -> None:
    section(
        each,
        "Quotas",
        lines(
            "Refused, by limit",
            "Requests that were not admitted (429 quota_exceeded).",
            "reqps",
            (rate("tidegate_quota_refusals_total", "limit"), "{{limit}}"),
            stacked=True,
        ),
        lines(
            "Answers ended by a quota, a second",
            "They end at the very token that uses it up.",
            "none",
            (rate("tidegate_quota_stopped_streams_total"), "answers"),
        ),
        lines(
            "Redis",
            "Gateways that count alone, and what they admit meanwhile.",
            "none",
            (total("tidegate_quota_degraded"), "gateways without Redis"),
            (rate("tidegate_quota_degraded_requests_total"), "admitted without it, a second"),
            alert="QuotaDegraded",
        ),
    )


def _content(each: dashboard.Dashboard) -> None:
    section(
        each,
        "Do they get what they came for?",
        lines(
            "How answers end, a second",
            "stop: by the model; length: by max_tokens; content_filter: by the policy; quota: by the tenant's.",
            "none",
            (rate(ANSWERS, "finish_reason", MODEL), "{{finish_reason}}"),
            stacked=True,
        ),
        lines(
            "Mean score by version",
            "What people gave (POST /feedback), 1 to 5, over a quarter of an hour.",
            "none",
            (mean_score("model, model_version", "15m"), "{{model}} version {{model_version}}"),
            most=5,
        ),
        bars(
            "Scores by version",
            "How often each was given, over the range shown.",
            "short",
            grown(FEEDBACK, "model_version, score", MODEL),
            "version {{model_version}}: {{score}}",
        ),
    )
