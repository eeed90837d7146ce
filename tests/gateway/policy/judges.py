"""Moderators as users write them: what an entry point makes."""

from __future__ import annotations

import threading
import time
from typing import Any

from gateway.policy.verdict import Context, Span, Verdict


class Lenient:
    """Allows everything."""

    async def check(self, segment: str, context: Context) -> Verdict:
        """Allow."""
        return Verdict()


def lenient(options: dict[str, Any]) -> Lenient:
    """A factory."""
    return Lenient()


class Blocking:
    """An ordinary function: finds a word and says where."""

    def __init__(self, word: str, action: Any) -> None:
        self._word, self._action = word, action

    def check(self, segment: str, context: Context) -> Verdict:
        """The word, wherever it first stands."""
        time.sleep(0.001)
        place = segment.find(self._word)
        if place < 0:
            return Verdict()
        span = Span(place, place + len(self._word), "own", "custom", self._action)
        return Verdict(self._action, (span,), ("custom",), 0.75)


class Hanging:
    """An ordinary function that ends when it is told to."""

    def __init__(self) -> None:
        self.may_end = threading.Event()

    def check(self, segment: str, context: Context) -> Verdict:
        """Wait."""
        self.may_end.wait()
        return Verdict()


HANGING = Hanging()


def hanging(options: dict[str, Any]) -> Hanging:
    """A factory of the one that a test can let go."""
    return HANGING


def blocking(options: dict[str, Any]) -> Blocking:
    """A factory with options."""
    return Blocking(options["word"], options.get("action", "block"))


class Broken:
    """Never says anything."""

    async def check(self, segment: str, context: Context) -> Verdict:
        """Fail."""
        raise ValueError("not today")


def broken(options: dict[str, Any]) -> Broken:
    """A factory."""
    return Broken()


def failing(options: dict[str, Any]) -> Blocking:
    """A factory that fails."""
    raise ValueError("not today")


def wrong(options: dict[str, Any]) -> object:
    """A factory of something else."""
    return object()
