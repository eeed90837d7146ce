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
MOST_RECORDED_CHARACTERS = 10_000
"""Of one decision's texts, where they are recorded at all."""
OTHER = "other"
MOST_RECORDED = 100
"""Matches of one decision that the record lists; it says how many there are."""


class Observer(Protocol):
    """Who counts."""

    def matched(self, direction: Direction, source: str, category: str, action: Action, times: int) -> None:
        """So many matches of a list or pattern, or what a moderator found."""

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
    recorded; ``records_text`` has the record hold the texts too."""

    def __init__(
        self,
        policy: Policy,
        observer: Observer,
        recorder: Recorder | None = None,
        *,
        unrecorded_blocks: bool = False,
        records_text: bool = False,
    ) -> None:
        self.policy, self._observer, self._recorder = policy, observer, recorder
        self._unrecorded_blocks, self._records_text = unrecorded_blocks, records_text
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
        found = _Found(action, [span for each in spans for span in each], judged, texts)
        self._count(policy, "input", found)
        if not self._record(policy, context, found):
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
            found = _Found(guard.action, guard.spans, guard.judged, [guard.written])
            self._observer.held_back(guard.most_held)
            self._count(policy, "output", found)
            return self._record(policy, context, found)

        remembers = MOST_RECORDED_CHARACTERS + 1 if self._recorder is not None and self._records_text else 0
        return OutputGuard(context, rules, judges, ended, json=json, remembers=remembers)

    def _count(self, policy: Policy, direction: Direction, found: _Found) -> None:
        """A moderator's categories are its own, and labels come from closed sets: one that the policy does not name is
        ``other``."""
        kinds = Counter((span.source, span.category, span.action) for span in found.spans)
        for each in found.judged:
            if not each.error:
                named = {category if category in policy.categories else OTHER for category in each.categories}
                kinds.update((each.moderator, category, each.action) for category in named or {OTHER})
        for (source, category, action), times in kinds.items():
            self._observer.matched(direction, source, category, action, times)
        self._observer.decided(direction, found.action)

    def _record(self, policy: Policy, context: Context, found: _Found) -> bool:
        """Whether the decision is recorded, or need not be."""
        if self._recorder is None:
            return True
        matches = [
            {"source": span.source, "category": span.category, "action": span.action, "length": span.end - span.start}
            for span in found.spans[:MOST_RECORDED]
        ]
        entry = {
            "request_id": context.request_id,
            "tenant": context.tenant,
            "policy": policy.version,
            "direction": context.direction,
            "action": found.action,
            "matches": matches,
            **({"matches_in_all": len(found.spans)} if len(found.spans) > MOST_RECORDED else {}),
            "moderators": [each.public() for each in found.judged],
            **(_bounded(found.texts) if self._records_text else {}),
        }
        return self._recorder.record(entry) or not self._unrecorded_blocks


@dataclass(frozen=True)
class _Found:
    """What the record is told of one decision."""

    action: Action
    spans: Sequence[Span]
    judged: Sequence[Judged]
    texts: Sequence[str]


def _bounded(texts: Sequence[str]) -> dict[str, Any]:
    left, kept = MOST_RECORDED_CHARACTERS, []
    for text in texts:
        kept.append(text[:left])
        left -= len(kept[-1])
    return {"texts": kept, **({"texts_cut": True} if kept != list(texts) else {})}


def _hold(moderators: Iterable[Guarded]) -> None:
    for each in moderators:
        each.hold()


def _release(moderators: Iterable[Guarded]) -> None:
    for each in moderators:
        each.release()


def _spans(rules: Rules, texts: Sequence[str]) -> list[list[Span]]:
    return [rules.check(text) for text in texts]
