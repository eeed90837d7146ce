"""What the tests of quotas share: an observer that remembers, a clock, a file, coroutines that must not wait."""

from __future__ import annotations

import re
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from gateway.traffic.quotas import QuotaFile, Quotas
from gateway.traffic.quotas.stores import LocalStore, MemoryAccounts

Result = TypeVar("Result")
START = 1_800_000_000.0
"""A whole minute, and the beginning of a slot of a day."""


class Observed:
    """Remembers what was counted."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.charged = 0
        self.stops = 0
        self.degraded: list[bool] = []
        self.without_redis = 0
        self.reloads: list[bool] = []

    def quota_refused(self, kind: str) -> None:
        """Not admitted."""
        self.refused.append(kind)

    def quota_stopped(self) -> None:
        """Told to stop."""
        self.stops += 1

    def quota_charged(self, tokens: int) -> None:
        """Settled."""
        self.charged += tokens

    def quota_degraded(self, degraded: bool) -> None:
        """Redis went or came."""
        self.degraded.append(degraded)

    def quota_admitted_without_redis(self) -> None:
        """Admitted locally."""
        self.without_redis += 1

    def quotas_reloaded(self, used: bool) -> None:
        """Read anew."""
        self.reloads.append(used)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        """The time."""
        return self.now


def at_once(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine that never waits for anything."""
    try:
        work.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    raise AssertionError("it waits")


def limits(**values: int) -> QuotaFile:
    """A file with one class."""
    return QuotaFile.model_validate({"default": "all", "classes": {"all": values}})


def in_memory(clock: Clock, observed: Observed | None = None, **values: int) -> Quotas:
    """Quotas of one class, in this process."""
    return Quotas(LocalStore(MemoryAccounts(), 1e9, clock), observed or Observed(), limits(**values))


def left(headers: dict[str, str]) -> dict[str, int]:
    """What ``RateLimit`` says is left, by limit."""
    return {name: int(number) for name, number in re.findall(r'"(\w+)";r=(\d+)', headers["RateLimit"])}


def write(path: Path, text: str) -> Path:
    """A file."""
    path.write_text(text, encoding="utf-8")
    return path
