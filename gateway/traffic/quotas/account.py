"""One tenant's account: who runs, what is held for them, what was spent. Arithmetic without a clock or lock of its own.

``account.lua`` is the same for Redis; a test holds the two to each other.

Tokens that a lease may use are *held* from the moment of its admission and become *spent* when it reports them; a
report stamps them with its time. What may still be used is ``limit - spent in the window - held``. Spent tokens are
summed in slots of a window, and a slot counts until all of it is older than the window: so no span of the window's
length ever sees more than the limit, and a token is free again after at most one slot more than the window.

Requests are drawn from a bucket of as many as may come in a second, refilled at that rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gateway.traffic.quotas.config import KINDS, Kind, Limits

FAIR_TOKENS = 64
"""Beyond what it needs, a lease is given an eighth of what is left, so that one request with a large ``max_tokens``
does not shut the others out; but up to so many tokens if they are there, so that eighths do not become crumbs."""
SHARE = 8
HELD_SECONDS = 1.0
"""When to ask again for what running streams hold: they may end at any time."""
NEVER = -1.0
"""The wait of a request that is larger than its limit."""


@dataclass(frozen=True)
class Window:
    """``slots`` slots of ``slot_seconds``."""

    slot_seconds: int
    slots: int

    @property
    def seconds(self) -> int:
        """Its length."""
        return self.slot_seconds * self.slots


MINUTE, DAY = Window(1, 60), Window(900, 96)
WINDOWS: dict[Kind, Window] = {"tokens_per_minute": MINUTE, "tokens_per_day": DAY}


@dataclass(frozen=True)
class Reply:
    """What an account says. ``granted`` is the total that the lease may use (None: any number) and 0 when it is
    refused; then ``refused`` names the limit and ``wait`` the seconds until it has room, or NEVER. ``left`` and
    ``frees`` are, by limit, what may still be used and in how many seconds more of it frees; None where none is set."""

    granted: int | None
    refused: Kind | None
    wait: float
    left: tuple[int | None, ...]
    frees: tuple[float | None, ...]


Running = tuple[int, int, float]
"""One lease: tokens held for it, tokens charged to it, and when it is forgotten should nobody settle it. A plain tuple,
since a file of accounts is read and written at every step."""


@dataclass
class Account:
    """The state. ``minute`` and ``day`` have spent tokens by slot, oldest first; ``running`` has leases by name, oldest
    first, and ``held`` what they hold together."""

    level: float = 0.0
    filled: float = 0.0
    running: dict[str, Running] = field(default_factory=dict)
    minute: dict[int, int] = field(default_factory=dict)
    day: dict[int, int] = field(default_factory=dict)
    held: int = 0

    def admit(self, limits: Limits, lease: str, want: int, need: int, *, now: float, expires: float) -> Reply:
        """Hold up to ``want`` tokens for a new lease, and not fewer than ``need``, or refuse it and change nothing."""
        self._forget(now)
        waits = dict(self._waits(limits, need, now))
        if waits:
            kind = max(waits, key=lambda each: math.inf if waits[each] == NEVER else waits[each])
            return self._reply(limits, 0, now, kind, waits[kind])
        self.level -= 1
        grant = self._share(limits, want, need, now)
        self.running[lease] = grant or 0, 0, expires
        self.held += grant or 0
        return self._reply(limits, grant, now)

    def extend(self, limits: Limits, lease: str, used: int, want: int, now: float) -> Reply:
        """Charge what a lease has used by now and hold up to ``want`` tokens more for it, if there are any."""
        self._forget(now)
        one = self.running.get(lease)
        if one is None:
            return self._reply(limits, used, now)
        held, charged, expires = one
        unused = max(0, charged + held - used)
        self.held += unused - held
        self._charge(used - charged, now)
        more = self._share(limits, want, 1, now)
        self.held += more or 0
        self.running[lease] = unused + (more or 0), used, expires
        return self._reply(limits, None if more is None else used + unused + more, now)

    def settle(self, limits: Limits, lease: str, used: int, now: float) -> Reply:
        """The lease has ended: charge what it really used and let go of the rest. Again, it changes nothing."""
        one = self.running.pop(lease, None)
        if one is not None:
            self.held -= one[0]
            self._charge(used - one[1], now)
        self._forget(now)
        return self._reply(limits, used, now)

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost without it, up to a bucket that is not full yet."""
        return not self.running and not self.day

    def _waits(self, limits: Limits, need: int, now: float) -> list[tuple[Kind, float]]:
        """The limits that have no room, with the seconds until they have."""
        found: list[tuple[Kind, float]] = []
        rate = limits.requests_per_second
        if rate is not None:
            self.level = min(float(rate), self.level + max(0.0, now - self.filled) * rate)
            self.filled = now
            if self.level < 1:
                found.append(("requests_per_second", (1 - self.level) / rate))
        if limits.concurrent_streams is not None and len(self.running) >= limits.concurrent_streams:
            found.append(("concurrent_streams", HELD_SECONDS))
        for kind, limit, window, slots in self._windows(limits):
            room = limit - sum(slots.values()) - self.held
            if need > limit:
                found.append((kind, NEVER))
            elif room < need:
                found.append((kind, _until_freed(slots, window, need - room, now)))
        return found

    def _share(self, limits: Limits, want: int, need: int, now: float) -> int | None:
        """How many tokens to hold now; None where no limit counts tokens."""
        rooms = [limit - sum(slots.values()) - self.held for _, limit, _, slots in self._windows(limits)]
        if not rooms:
            return None
        room = max(0, min(rooms))
        return min(want, max(room // SHARE, min(room, need - 1 + FAIR_TOKENS)))

    def _charge(self, tokens: int, now: float) -> None:
        if tokens:
            for window, slots in ((MINUTE, self.minute), (DAY, self.day)):
                slot = int(now // window.slot_seconds)
                slots[slot] = slots.get(slot, 0) + tokens

    def _forget(self, now: float) -> None:
        """Slots out of their window, or from before a clock was set back; leases that nobody settled."""
        for window, slots in ((MINUTE, self.minute), (DAY, self.day)):
            current = int(now // window.slot_seconds)
            while slots and (oldest := next(iter(slots))) < current - window.slots:
                del slots[oldest]
            while slots and (newest := next(reversed(slots))) > current + 1:
                del slots[newest]
        while self.running and (first := self.running[lease := next(iter(self.running))])[2] <= now:
            self.held -= first[0]
            del self.running[lease]

    def _windows(self, limits: Limits) -> list[tuple[Kind, int, Window, dict[int, int]]]:
        """The windows that have a limit."""
        found: list[tuple[Kind, int, Window, dict[int, int]]] = []
        if limits.tokens_per_minute is not None:
            found.append(("tokens_per_minute", limits.tokens_per_minute, MINUTE, self.minute))
        if limits.tokens_per_day is not None:
            found.append(("tokens_per_day", limits.tokens_per_day, DAY, self.day))
        return found

    def _reply(
        self, limits: Limits, granted: int | None, now: float, refused: Kind | None = None, wait: float = 0.0
    ) -> Reply:
        left: dict[Kind, int] = {}
        frees: dict[Kind, float] = {}
        if limits.requests_per_second is not None:
            left["requests_per_second"], frees["requests_per_second"] = max(0, int(self.level)), 1.0
        if limits.concurrent_streams is not None:
            left["concurrent_streams"] = max(0, limits.concurrent_streams - len(self.running))
        for kind, limit, window, slots in self._windows(limits):
            left[kind] = max(0, min(limit, limit - sum(slots.values()) - self.held))
            frees[kind] = _until_freed(slots, window, 1, now) if slots else float(window.seconds)
        order = [left.get(kind) for kind in KINDS], [frees.get(kind) for kind in KINDS]
        return Reply(granted, refused, wait, tuple(order[0]), tuple(order[1]))


def _until_freed(slots: dict[int, int], window: Window, tokens: int, now: float) -> float:
    """Seconds until so many tokens have left the window, or, if fewer are in it, until all have."""
    freed, wait = 0, HELD_SECONDS
    for slot in sorted(slots):
        freed += slots[slot]
        wait = max(0.0, (slot + window.slots + 1) * window.slot_seconds - now)
        if freed >= tokens:
            break
    return wait
