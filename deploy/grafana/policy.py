"""Policy: what was decided, by what, how long text was held for it, and whether the checks themselves work."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from deploy.grafana.board import board, section
from deploy.grafana.panels import Panel, bars, lines, listing, number
from deploy.grafana.queries import grown, or_none, quantiles, rate, total

DECISIONS = "tidegate_policy_decisions_total"
MATCHES = "tidegate_policy_matches_total"
CHECKS = "tidegate_moderator_duration_seconds"
FAILED_OPEN = "tidegate_policy_failed_open_total"
SIDES = {"input": "asked", "output": "answered"}


def policy() -> dashboard.Dashboard:
    """The dashboard."""
    each = board("tidegate-policy", "Policy", "What was decided, by what, and whether the checks work.")
    for add in (_numbers, _decisions, _moderators, _files):
        add(each)
    return each


def _blocked(side: str, what: str) -> Panel:
    blocked = or_none(grown(DECISIONS, where=f'direction="{side}", action="block"'))
    every = grown(DECISIONS, where=f'direction="{side}"')
    text = f"Share of what was {what} that the policy blocked, over the range shown."
    return number(f"Blocked of what is {what}", text, "percentunit", f"{blocked} / {every}")


def _numbers(each: dashboard.Dashboard) -> None:
    section(
        each,
        "",
        *(_blocked(side, what) for side, what in SIDES.items()),
        number(
            "Failed open",
            "Checks that failed while their text passed, over the range shown.",
            "none",
            or_none(grown(FAILED_OPEN)),
            steps=[(1, "red")],
            alert="PolicyFailingOpen",
        ),
        number(
            "Breakers open",
            "Moderators that are left alone after failures.",
            "none",
            or_none("count(max by (moderator) (tidegate_moderator_breaker_open) > 0)"),
            steps=[(1, "red")],
            alert="ModeratorBreakerOpen",
        ),
        number(
            "Reload failing",
            "Gateways whose files hold a policy that cannot be used.",
            "none",
            total("tidegate_policy_reload_failing"),
            steps=[(1, "red")],
            alert="PolicyReloadFailing",
        ),
        number(
            "Audit records lost",
            "Decisions that could not be written to the record, over the range shown.",
            "none",
            grown("tidegate_audit_lost_records_total"),
            steps=[(1, "red")],
            alert="AuditRecordsLost",
        ),
    )


def _found(side: str, what: str) -> Panel:
    text = "Whole texts a second by the strictest action that was found; ordinary ones (allow) left out."
    found = rate(DECISIONS, "action", f'direction="{side}", action!="allow"')
    return lines(f"What is {what}", text, "none", (found, "{{action}}"), stacked=True)


def _decisions(each: dashboard.Dashboard) -> None:
    section(
        each,
        "Decisions",
        *(_found(side, what) for side, what in SIDES.items()),
        lines(
            "Held back",
            "Most characters that were held back at once, of an answer.",
            "none",
            *quantiles("tidegate_policy_held_characters"),
        ),
        bars(
            "Top lists and patterns",
            "Matches over the range shown.",
            "none",
            f"topk(10, {grown(MATCHES, 'source')})",
            "{{source}}",
        ),
        bars(
            "Top categories",
            "Matches over the range shown.",
            "none",
            f"topk(10, {grown(MATCHES, 'category')})",
            "{{category}}",
        ),
        lines(
            "Matches a second",
            "By direction and action. One text may have several.",
            "none",
            (rate(MATCHES, "direction, action"), "{{direction}} {{action}}"),
            stacked=True,
        ),
    )


def _moderators(each: dashboard.Dashboard) -> None:
    section(
        each,
        "Moderators",
        lines(
            "Time of a check",
            "Waiting for a turn included.",
            "s",
            *quantiles(CHECKS, "moderator"),
        ),
        lines(
            "Checks a second, by outcome",
            "An action is a verdict; deadline, overloaded, open and failed are checks that came to none.",
            "none",
            (rate(f"{CHECKS}_count", "moderator, outcome"), "{{moderator}} {{outcome}}"),
            stacked=True,
            alert="ModeratorBreakerOpen",
        ),
        lines(
            "Failed open, a second",
            "Checks that failed while their text passed, as on_error says.",
            "none",
            (rate(FAILED_OPEN, "moderator, outcome"), "{{moderator}} {{outcome}}"),
            alert="PolicyFailingOpen",
        ),
    )


def _files(each: dashboard.Dashboard) -> None:
    section(
        each,
        "The policy's files and the record",
        listing(
            "In force",
            "One row is as it should be; more: gateways differ.",
            "count by (version) (tidegate_policy_info)",
            "version",
            "Value",
            alert="PolicyReloadFailing",
        ),
        lines(
            "Reloads",
            "Changes of the files that were taken up (ok) or refused.",
            "none",
            ("sum by (outcome) (increase(tidegate_policy_reloads_total[$__rate_interval]))", "{{outcome}}"),
            alert="PolicyReloadFailing",
        ),
        lines(
            "Records lost",
            "Of decisions, since the gateway started.",
            "none",
            (total("tidegate_audit_lost_records_total", "instance"), "{{instance}}"),
            alert="AuditRecordsLost",
        ),
    )
