"""What the use case asks: may this be asked, and what of this may be answered. The same for every surface.

The policy in force is one reference; a reload replaces it at once, and whoever started with the old one ends with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.policy.compiled import Policy
from gateway.policy.rules import Rules, RuleStream
from gateway.policy.verdict import Action, Context, Direction, Span, strictest


class Observer(Protocol):
    """Who counts."""

    def matched(self, direction: Direction, span: Span) -> None:
        """A match of a list or pattern."""

    def decided(self, direction: Direction, action: Action) -> None:
        """What was decided about a whole input or output."""


@dataclass(frozen=True)
class InputDecision:
    """What may be asked. ``texts`` are what was written, redacted where the policy says so; ``spans`` are of each."""

    action: Action
    texts: list[str]
    spans: list[list[Span]]

    def report(self) -> dict[str, Any]:
        """For the response, when asked for: what was found and where, never the text."""
        matches = [{"text": place, **_public(span)} for place, spans in enumerate(self.spans) for span in spans]
        return {"action": self.action, "matches": matches}


@dataclass
class OutputGuard:
    """What may leave of one answer. Feed it as it comes; ``blocked`` says that nothing more may."""

    context: Context
    _rules: Rules
    _observer: Observer
    _stream: RuleStream = field(init=False)
    _counted: int = 0
    _done: bool = False

    def __post_init__(self) -> None:
        self._stream = RuleStream(self._rules)

    @property
    def blocked(self) -> bool:
        """Whether the answer has to end here."""
        return self._stream.blocked is not None

    def feed(self, piece: str) -> str:
        """What may leave now."""
        text = self._stream.feed(piece)
        if len(self._stream.spans) > self._counted or self.blocked:
            self._count()
        return text

    def finish(self) -> str:
        """What may leave at the end."""
        text = self._stream.finish()
        self._count()
        self._decide()
        return text

    @property
    def action(self) -> Action:
        """The strictest that was found so far."""
        return strictest(span.action for span in self._stream.spans)

    def report(self) -> dict[str, Any]:
        """As :meth:`InputDecision.report`; places are in the model's own text."""
        return {"action": self.action, "matches": [_public(span) for span in self._stream.spans]}

    def _count(self) -> None:
        for span in self._stream.spans[self._counted :]:
            self._observer.matched("output", span)
        self._counted = len(self._stream.spans)
        if self.blocked:
            self._decide()

    def _decide(self) -> None:
        if not self._done:
            self._done = True
            self._observer.decided("output", self.action)


def _public(span: Span) -> dict[str, Any]:
    return {
        "source": span.source,
        "category": span.category,
        "action": span.action,
        "start": span.start,
        "end": span.end,
    }


class PolicyEngine:
    """The policy in force, and who counts what it decides."""

    def __init__(self, policy: Policy, observer: Observer) -> None:
        self.policy, self._observer = policy, observer

    def swap(self, policy: Policy) -> None:
        """From now on, ``policy``."""
        self.policy = policy

    def check_input(self, texts: Sequence[str], context: Context) -> InputDecision:
        """Whether ``texts``, all that a user wrote, may be asked."""
        rules = self.policy.rules("input", context.tenant)
        spans = [rules.check(text) for text in texts]
        for each in spans:
            for span in each:
                self._observer.matched("input", span)
        action = strictest(span.action for each in spans for span in each)
        self._observer.decided("input", action)
        redacted = [rules.redacted(text, each) if each else text for text, each in zip(texts, spans, strict=True)]
        return InputDecision(action, redacted, spans)

    def output(self, context: Context) -> OutputGuard:
        """A guard for one answer, under the policy of now."""
        return OutputGuard(context, self.policy.rules("output", context.tenant), self._observer)
