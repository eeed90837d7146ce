"""What one request may use."""

from __future__ import annotations

import asyncio
import uuid
from typing import Protocol

from gateway.traffic.quotas.account import FAIR_TOKENS, Reply
from gateway.traffic.quotas.config import UNLIMITED, Limits
from gateway.traffic.quotas.headers import fields

ANY_NUMBER = 1 << 62
REPORT_TOKENS = 256
"""A stream reports after so many tokens, so that they are stamped with about the time when they were used."""
LEAST_LOW_WATER = 4


class Lessor(Protocol):
    """Who gave the lease."""

    def extend(self, lease: Lease, more: int) -> Reply | asyncio.Task[Reply | None]:
        """Report, and ask for more."""

    def stopped(self) -> None:
        """It is used up."""

    async def settle(self, lease: Lease) -> Reply | None:
        """It has ended."""


class Lease:
    """What one request may use.

    It holds ``granted`` tokens in all and asks for more as they run out: at once where accounts are at hand,
    ``low_water`` tokens before the end where the answer takes a while (Redis).
    """

    def __init__(self, lessor: Lessor, tenant: str, tenant_class: str, estimated: int, low_water: int) -> None:
        self.name = uuid.uuid4().hex
        self.tenant, self.tenant_class, self.estimated = tenant, tenant_class, estimated
        self.used, self.granted = 0, ANY_NUMBER
        self.priority = 0
        """The tenant's place in Triton's queue: 1 goes first, 0 is the model's default."""
        self._lessor, self._low_water = lessor, low_water
        self._mark = ANY_NUMBER
        self._ask = False
        self._asked: asyncio.Task[Reply | None] | None = None
        self._state: tuple[Limits, Reply] | None = None
        self._stopped = self._settled = False

    @property
    def headers(self) -> dict[str, str]:
        """``RateLimit-Policy`` and ``RateLimit`` as things stand; none where nothing is limited."""
        return fields(*self._state) if self._state is not None else {}

    def opened(self, reply: Reply, limits: Limits) -> None:
        """The store has admitted it."""
        self._take_over(reply, limits)

    def take(self, tokens_so_far: int) -> bool:
        """Whether more may be used after ``tokens_so_far``, prompt and answer together, which are used already. False
        means: hand out what has come, and stop here with ``finish_reason`` ``quota``."""
        self.used = tokens_so_far
        if tokens_so_far < self._mark:
            return True
        return self._at_the_mark()

    async def settle(self, total_tokens: int | None = None) -> None:
        """Charge ``total_tokens``, or what was taken, and give back the rest. Once; later calls do nothing."""
        if self._settled:
            return
        self._settled = True
        if total_tokens is not None:
            self.used = total_tokens
        if self._state is None:
            return
        reply = await self._lessor.settle(self)
        if reply is not None:
            self._state = self._state[0], reply

    def _at_the_mark(self) -> bool:
        if self._asked is not None:
            return True  # the answer is on its way; it takes a few tokens' time at most
        if self._ask:
            more = self.estimated - self.granted
            if more <= 0:
                more = FAIR_TOKENS if self.used >= self.granted else 0
            answer = self._lessor.extend(self, more)
            if isinstance(answer, asyncio.Task):
                self._asked = answer
                answer.add_done_callback(self._answered)
                return True
            self._take_over(answer)
        if self.used < self.granted:
            return True
        if not self._stopped:
            self._stopped = True
            self._lessor.stopped()
        return False

    def _answered(self, task: asyncio.Task[Reply | None]) -> None:
        self._asked = None
        if not self._settled:
            reply = None if task.cancelled() else task.result()
            self._take_over(reply)

    def _take_over(self, reply: Reply | None, limits: Limits | None = None) -> None:
        """What is granted from now on, and when to ask again. No reply: nothing more than there was."""
        if reply is not None:
            known = limits or (self._state[0] if self._state is not None else UNLIMITED)
            first = self._state is None
            self._state = known, reply
            granted = ANY_NUMBER if reply.granted is None else reply.granted
            self.granted = granted if first else max(self.granted, granted)
        enough = self.granted >= self.estimated and self.used < self.granted
        low = 0 if enough else min(self._low_water, (self.granted - self.used) // 2)
        self._ask = reply is not None and (enough or not self._low_water or low >= LEAST_LOW_WATER)
        self._mark = min(self.granted - low, self.used + REPORT_TOKENS) if self._ask else self.granted
