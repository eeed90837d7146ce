"""What the use case asks: may this be asked, and what of this may be answered. The same for every surface.

The policy in force is one reference; a reload replaces it at once, and whoever started with the old one ends with it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.errors import RecordUnavailable
from gateway.policy.compiled import Policy
from gateway.policy.guard import Guarded
from gateway.policy.judging import Judge, Judged
from gateway.policy.output import OutputGuard
from gateway.policy.rules import Rules
from gateway.policy.verdict import Action, Context, Direction, Span, strictest

LONG_CHARACTERS = 2_000
"""Longer inputs are checked in a thread, so that nobody else waits for them: a match takes some 10 us."""
MOST_RECORDED = 100
"""Matches of one decision that the record lists; it says how many there are."""


class Observer(Protocol):
    """Who counts."""

    def matched(self, direction: Direction, source: str, category: str, action: Action, times: int) -> None:
        """So many matches of a list or pattern."""

    def held_back(self, characters: int) -> None:
        """The most characters of an answer that were held back at once."""

    def decided(self, direction: Direction, action: Action) -> None:
        """What was decided about a whole input or output."""


class Recorder(Protocol):
    """Who keeps the record of decisions."""

    def record(self, entry: dict[str, Any]) -> bool:
        """Add to the record; False if that is not possible."""


@dataclass(frozen=True)
class InputDecision:
    """What may be asked. ``texts`` are what was written, redacted where the policy says so; ``spans`` are of each."""

    action: Action
    texts: list[str]
    spans: list[list[Span]]
    judged: tuple[Judged, ...] = ()

    def report(self) -> dict[str, Any]:
        """For the response, when asked for: what was found and where, never the text."""
        matches = [{"text": place, **span.public()} for place, spans in enumerate(self.spans) for span in spans]
        return {"action": self.action, "matches": matches, "moderators": [each.public() for each in self.judged]}


class PolicyEngine:
    """The policy in force, who counts what it decides, and who records it. ``unrecorded_blocks`` refuses what cannot be
    recorded."""

    def __init__(
        self, policy: Policy, observer: Observer, recorder: Recorder | None = None, *, unrecorded_blocks: bool = False
    ) -> None:
        self.policy, self._observer, self._recorder = policy, observer, recorder
        self._unrecorded_blocks = unrecorded_blocks
        _hold(policy.moderators)

    def swap(self, policy: Policy) -> None:
        """From now on, ``policy``. Moderators that only the old one has are closed with the last request that asks
        them."""
        _hold(policy.moderators)
        before, self.policy = self.policy, policy
        names = {each.name for each in policy.moderators}
        for each in before.moderators:
            if each.name not in names:
                each.forget()
        _release(before.moderators)

    async def close(self) -> None:
        """Nothing is asked any more."""
        for each in self.policy.moderators:
            await each.close()

    async def check_input(self, texts: Sequence[str], context: Context) -> InputDecision:
        """Whether ``texts``, all that a user wrote, may be asked. Raises
        :class:`~gateway.errors.RecordUnavailable`."""
        policy = self.policy
        rules = policy.rules("input", context.tenant)
        if sum(map(len, texts)) > LONG_CHARACTERS:
            spans = await asyncio.to_thread(_spans, rules, texts)
        else:
            spans = _spans(rules, texts)
        action = strictest(span.action for each in spans for span in each)
        redacted = [rules.redacted(text, each) if each else text for text, each in zip(texts, spans, strict=True)]
        judged: tuple[Judged, ...] = ()
        judges = policy.judges("input", context.tenant)
        if judges and action != "block":
            judge, asked = Judge(judges, rules.mask), [each for each, _ in judges]
            _hold(asked)
            try:
                verdicts = await asyncio.gather(*(judge.judge(text, context) for text in redacted))
            finally:
                _release(asked)
            redacted = [verdict.text for verdict in verdicts]
            judged = tuple(each for verdict in verdicts for each in verdict.judged)
            action = strictest([action, *(verdict.action for verdict in verdicts)])
        decision = InputDecision(action, redacted, spans, judged)
        self._count("input", (span for each in spans for span in each))
        self._observer.decided("input", action)
        if not self._record(policy, context, action, [span for each in spans for span in each], judged):
            raise RecordUnavailable
        return decision

    def output(self, context: Context, *, json: bool = False) -> OutputGuard:
        """A guard for one answer, under the policy of now; ``json`` if the answer is JSON."""
        policy = self.policy
        rules, judges = policy.rules("output", context.tenant), policy.judges("output", context.tenant)
        asked = [each for each, _ in judges]
        _hold(asked)

        def ended(guard: OutputGuard) -> bool:
            _release(asked)
            self._count("output", guard.spans)
            self._observer.held_back(guard.most_held)
            self._observer.decided("output", guard.action)
            return self._record(policy, context, guard.action, guard.spans, tuple(guard.judged))

        return OutputGuard(context, rules, judges, ended, json=json)

    def _count(self, direction: Direction, spans: Iterable[Span]) -> None:
        kinds = Counter((span.source, span.category, span.action) for span in spans)
        for (source, category, action), times in kinds.items():
            self._observer.matched(direction, source, category, action, times)

    def _record(
        self, policy: Policy, context: Context, action: Action, spans: Sequence[Span], judged: Sequence[Judged]
    ) -> bool:
        """Whether the decision is recorded, or need not be."""
        if self._recorder is None:
            return True
        found = [
            {"source": span.source, "category": span.category, "action": span.action, "length": span.end - span.start}
            for span in spans[:MOST_RECORDED]
        ]
        entry = {
            "request_id": context.request_id,
            "tenant": context.tenant,
            "policy": policy.version,
            "direction": context.direction,
            "action": action,
            "matches": found,
            **({"matches_in_all": len(spans)} if len(spans) > MOST_RECORDED else {}),
            "moderators": [each.public() for each in judged],
        }
        return self._recorder.record(entry) or not self._unrecorded_blocks


def _hold(moderators: Iterable[Guarded]) -> None:
    for each in moderators:
        each.hold()


def _release(moderators: Iterable[Guarded]) -> None:
    for each in moderators:
        each.release()


def _spans(rules: Rules, texts: Sequence[str]) -> list[list[Span]]:
    return [rules.check(text) for text in texts]
