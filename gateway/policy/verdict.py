"""What a policy says, in the words that every kind of check shares."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

Action = Literal["allow", "flag", "redact", "block"]
Direction = Literal["input", "output"]
ACTIONS: tuple[Action, ...] = ("allow", "flag", "redact", "block")
"""From the mildest to the strictest; the strictest that is found counts."""


@dataclass(frozen=True)
class Span:
    """A stretch of the text that was checked: characters ``start`` to ``end``, and why. ``source`` is the name of the
    list, the rule set or the moderator, ``category`` its own word for the reason."""

    start: int
    end: int
    source: str
    category: str
    action: Action

    def public(self) -> dict[str, str | int]:
        """For a response: everything but the text, which is not here."""
        return {
            "source": self.source,
            "category": self.category,
            "action": self.action,
            "start": self.start,
            "end": self.end,
        }


@dataclass(frozen=True)
class Verdict:
    """What a check says. ``score`` is the moderator's own (0 to 1), where it has one; ``error`` is set when the check
    could not be made and ``action`` is what the configuration says about that."""

    action: Action = "allow"
    spans: tuple[Span, ...] = ()
    categories: tuple[str, ...] = ()
    score: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Context:
    """Where a segment comes from. ``before`` is the text before it, as far as it is kept, for a judge that needs it;
    ``deadline`` the moment (monotonic seconds) when the request's time is over."""

    request_id: str
    tenant: str
    direction: Direction
    before: str = ""
    deadline: float = math.inf


class Moderator(Protocol):
    """A check that takes time: a service, a model, somebody's own code."""

    async def check(self, segment: str, context: Context) -> Verdict:
        """Judge ``segment``; spans are places in it. Any exception is a failed check."""


def strictest(actions: Iterable[Action]) -> Action:
    """The one that counts."""
    return max(actions, key=ACTIONS.index, default="allow")
