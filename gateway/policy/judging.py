"""A segment before its moderators: all are asked at once, the strictest verdict counts, and redaction is done."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.policy.guard import Guarded
from gateway.policy.rules import Mask, merged
from gateway.policy.verdict import Action, Context, Span, Verdict, strictest


@dataclass(frozen=True)
class Judged:
    """What one moderator said, if it said anything but ``allow``, or could not."""

    moderator: str
    action: Action
    categories: tuple[str, ...]
    score: float | None
    error: str

    def public(self) -> dict[str, Any]:
        """For the response and the record."""
        found: dict[str, Any] = {"moderator": self.moderator, "action": self.action}
        found |= {"categories": list(self.categories)} if self.categories else {}
        found |= {"score": round(self.score, 4)} if self.score is not None else {}
        return found | ({"error": self.error} if self.error else {})


@dataclass(frozen=True)
class Outcome:
    """All of them together: the strictest action, the segment as it may leave, and who said what."""

    action: Action
    text: str
    judged: tuple[Judged, ...]


class Judge:
    """The moderators of one direction, each with a tenant's own action for what it finds."""

    def __init__(self, judges: Sequence[tuple[Guarded, Action | None]], mask: Mask) -> None:
        self._judges, self._mask = judges, mask

    async def judge(self, segment: str, context: Context) -> Outcome:
        """Ask them all about ``segment``."""
        if not segment.strip():
            return Outcome("allow", segment, ())
        verdicts = await asyncio.gather(*(each.check(segment, context) for each, _ in self._judges))
        actions, judged, spans = [], [], []
        for (each, override), verdict in zip(self._judges, verdicts, strict=True):
            action = override if override is not None and verdict.action != "allow" else verdict.action
            actions.append(action)
            if action != "allow" or verdict.error:
                judged.append(Judged(each.name, action, verdict.categories, verdict.score, verdict.error))
            if action == "redact":
                spans += _to_mask(each.name, segment, verdict)
        return Outcome(strictest(actions), self._masked(segment, spans), tuple(judged))

    def _masked(self, segment: str, spans: list[Span]) -> str:
        parts, place = [], 0
        for start, end, category, _ in merged(spans):
            parts += [segment[place:start], self._mask.over(segment[start:end], category)]
            place = end
        return "".join([*parts, segment[place:]])


def _to_mask(name: str, segment: str, verdict: Verdict) -> list[Span]:
    """The places that a moderator wants masked; all of the segment, if it names none."""
    category = verdict.categories[0] if verdict.categories else name
    inside = [span for span in verdict.spans if 0 <= span.start < span.end <= len(segment)]
    return inside or [Span(0, len(segment), name, category, "redact")]
