"""The bound on requests in flight, and whether a newcomer could be answered in its time.

By Little's law a request spends ``in flight / rate of completion`` in the system. While the rate is known, a newcomer
that would spend more than its deadline allows is refused at once: waiting would cost it its time and others theirs.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from gateway.errors import Overloaded, TooManyRequests

REMEMBERED, WINDOW_SECONDS = 64, 20.0
LEAST_KNOWN = 8
"""Completions before the rate counts for anything."""
SLOW_WINDOW_SECONDS = 120.0
"""So long the latest ones are remembered where there are no more, for answers that take minutes. They count while at
least as many requests run: of few it cannot be said that they wait for each other."""
MARGIN = 1.25
"""A rate is an estimate: a newcomer needs this much more time than it says."""
MOST_SECONDS = 60


class Admission:
    """Counts requests in and out. ``most`` may be in flight; the rest is refused with a ``Retry-After`` that says how
    fast they drain."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self.running = 0
        self._completions: deque[float] = deque(maxlen=REMEMBERED)

    def require_room(self) -> None:
        """Raises :class:`TooManyRequests` while every place is taken."""
        if self.running >= self._most:
            message = f"{self._most} requests run at once already, as many as may; retry after a moment"
            raise TooManyRequests(message, retry_after_seconds=self._seconds_to_drain(self.running / 2))

    def enter(self) -> Place:
        """Take a place. Raises :class:`TooManyRequests`; then there is none to give back."""
        self.require_room()
        if self.running == 0:
            self._completions.clear()  # an idle gap is no rate
        self.running += 1
        return Place(self)

    def left(self, *, served: bool) -> None:
        """A place is free again; for :class:`Place`."""
        self.running -= 1
        if served:
            self._completions.append(self._clock())

    def require_time(self, seconds: float) -> None:
        """Refuse who entered but could not be answered within ``seconds``. Raises :class:`Overloaded`."""
        rate = self.rate()
        if rate is not None and MARGIN * self.running / rate > seconds:
            excess = self.running - seconds * rate / MARGIN
            raise Overloaded(retry_after_seconds=self._seconds_to_drain(excess))

    def rate(self) -> float | None:
        """Completions a second, lately; None while too few are known."""
        known, now = self._completions, self._clock()
        while known and now - known[0] > (WINDOW_SECONDS if len(known) > LEAST_KNOWN else SLOW_WINDOW_SECONDS):
            known.popleft()
        if len(known) < LEAST_KNOWN or (now - known[0] > WINDOW_SECONDS and self.running < LEAST_KNOWN):
            return None
        return (len(known) - 1) / max(now - known[0], 1e-3)

    def _seconds_to_drain(self, requests: float) -> int:
        rate = self.rate()
        return min(max(math.ceil(requests / rate), 1), MOST_SECONDS) if rate else 1


class Place:
    """One of those in flight."""

    __slots__ = ("_admission",)

    def __init__(self, admission: Admission) -> None:
        self._admission: Admission | None = admission

    def leave(self, *, served: bool = False) -> None:
        """Give it back; later calls do nothing. Only what was ``served`` by the model tells how fast it is."""
        if self._admission is not None:
            self._admission.left(served=served)
            self._admission = None
