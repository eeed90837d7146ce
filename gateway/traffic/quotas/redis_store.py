"""Accounts in Redis, for any number of gateways: each step is one script, so it is one round trip and atomic.

While Redis is away it is asked once a second and no more, so it costs one request its time-out and the others nothing.
Meanwhile this process, or host, keeps accounts of its own, or refuses. What running leases used is charged when Redis
is back.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from importlib.resources import files
from typing import Any, Literal, NamedTuple, Protocol

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.errors import QuotaUnavailable
from gateway.traffic.quotas.account import Reply
from gateway.traffic.quotas.config import KINDS, Limits
from gateway.traffic.quotas.stores import LocalStore

LOGGER = logging.getLogger("tidegate")
TIMEOUT_SECONDS = 0.3
AGAIN_SECONDS = 1.0
MOST_UNSETTLED = 10_000
LOW_WATER_TOKENS = 32
"""A lease asks for more so long before its end: at 100 tokens/s the answer has 300 ms."""

OnFailure = Literal["local", "refuse"]


class Holder(NamedTuple):
    """Whose lease it is."""

    tenant: str
    limits: Limits
    lease: str


class RedisObserver(Protocol):
    """Who counts."""

    def quota_degraded(self, degraded: bool) -> None:
        """Redis has gone away, or is back."""

    def quota_admitted_without_redis(self) -> None:
        """A request was admitted without Redis."""


class RedisStore:
    """Accounts at ``url``. ``local`` keeps them meanwhile; None: requests are refused meanwhile. ``now`` replaces
    Redis's own clock in tests."""

    low_water = LOW_WATER_TOKENS

    def __init__(
        self, url: str, lifetime_seconds: float, observer: RedisObserver, local: LocalStore | None, now: str = ""
    ) -> None:
        self._redis = Redis.from_url(
            url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._script = self._redis.register_script(files(__package__).joinpath("account.lua").read_text("utf-8"))
        self._lifetime, self._observer, self._local = lifetime_seconds, observer, local
        self.now = now
        self._away_until = 0.0
        self._admitted_here: set[str] = set()
        self._unsettled: deque[tuple[Holder, int]] = deque(maxlen=MOST_UNSETTLED)
        self._settling: asyncio.Task[None] | None = None

    async def admit(self, tenant: str, limits: Limits, lease: str, want: int, need: int) -> Reply:
        """See :class:`gateway.traffic.quotas.stores.Store`."""
        reply = await self._ask("admit", Holder(tenant, limits, lease), want, need)
        if reply is not None:
            return reply
        if self._local is None:
            raise QuotaUnavailable
        reply = self._local.admit(tenant, limits, lease, want, need)
        if reply.refused is None:
            self._admitted_here.add(lease)
            self._observer.quota_admitted_without_redis()
        return reply

    async def extend(self, tenant: str, limits: Limits, lease: str, used: int, want: int) -> Reply | None:
        """See :class:`gateway.traffic.quotas.stores.Store`. A lease from Redis, when it is away, goes on to what its
        request asked for, or, where requests are refused meanwhile, to what it holds."""
        if self._local is not None and lease in self._admitted_here:
            return self._local.extend(tenant, limits, lease, used, want)
        reply = await self._ask("extend", Holder(tenant, limits, lease), want, used)
        if reply is None and self._local is not None:
            nothing = (None,) * len(KINDS)
            return Reply(used + want, None, 0.0, nothing, nothing)
        return reply

    async def settle(self, tenant: str, limits: Limits, lease: str, used: int) -> Reply | None:
        """See :class:`gateway.traffic.quotas.stores.Store`."""
        if self._local is not None and lease in self._admitted_here:
            self._admitted_here.discard(lease)
            return self._local.settle(tenant, limits, lease, used)
        reply = await self._ask("settle", Holder(tenant, limits, lease), 0, used)
        if reply is None:
            self._unsettled.append((Holder(tenant, limits, lease), used))
        return reply

    async def close(self) -> None:
        """Close the connections; settle before what could not be."""
        if self._settling is not None:
            await self._settling
        await self._settle_the_rest()
        await self._redis.aclose()
        if self._local is not None:
            await self._local.close()

    async def _ask(self, action: str, holder: Holder, want: int, number: int) -> Reply | None:
        """Redis's answer; None if it is away."""
        was_away = bool(self._away_until)
        if was_away:
            if time.monotonic() < self._away_until:
                return None
            self._away_until = time.monotonic() + AGAIN_SECONDS  # who comes meanwhile does not wait too
        reply = await self._call(action, holder, want, number)
        if reply is not None and was_away:
            self._away_until = 0.0
            self._observer.quota_degraded(False)
            LOGGER.info("quotas: Redis is back")
            self._settling = asyncio.create_task(self._settle_the_rest())
        return reply

    async def _call(self, action: str, holder: Holder, want: int, number: int) -> Reply | None:
        key = "tidegate:quota:" + hashlib.sha256(holder.tenant.encode("utf-8", "surrogatepass")).hexdigest()
        bounds = [-1 if each is None else each for each in holder.limits.values()]
        try:
            answer = await self._script(
                keys=[key], args=[action, holder.lease, want, number, self._lifetime, *bounds, self.now]
            )
        except (TimeoutError, RedisError, OSError) as error:
            if not self._away_until:
                LOGGER.error("quotas: Redis is away", extra={"fields": {"reason": type(error).__name__}})
                self._observer.quota_degraded(True)
            self._away_until = time.monotonic() + AGAIN_SECONDS
            if action == "admit":  # it may have been, after our time: then nothing was used
                self._unsettled.append((holder, 0))
            return None
        return _reply(answer)

    async def _settle_the_rest(self) -> None:
        """What ended while Redis was away. Redis knows which leases are still open, so nothing is charged twice."""
        while self._unsettled:
            holder, used = self._unsettled.popleft()
            if await self._call("settle", holder, 0, used) is None:
                self._unsettled.appendleft((holder, used))
                return


def _reply(answer: list[Any]) -> Reply:
    granted, refused, wait, *rest = answer
    left, frees = rest[: len(KINDS)], [float(each) for each in rest[len(KINDS) :]]
    return Reply(
        None if granted < 0 else granted,
        KINDS[refused - 1] if refused else None,
        float(wait),
        tuple(None if each < 0 else each for each in left),
        tuple(None if each < 0 else each for each in frees),
    )
