"""Revocations that every replica shares: a sorted set in Redis, members like ``jti:…``, scores until when.

Each change counts up a version, so a look is one small GET, and the set is read only when it has changed. When Redis is
away, what it said last stays in force. When it comes back with less than it knew (a version that went down: it lost its
data), what it said before stays in force beside what it says now, until this process ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from math import inf
from typing import Any

import anyio
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.access.errors import AccessError
from gateway.access.observer import AccessObserver
from gateway.access.revocation import Revocations, RevokedLine

SET, VERSION = "tidegate:revoked", "tidegate:revoked:version"
TIMEOUT_SECONDS = 1.0
LOGGER = logging.getLogger("tidegate")


def connect(url: str) -> Redis:
    """A client that gives up soon: whoever asks will ask again. Raises :class:`AccessError` for what is no URL."""
    try:
        client: Redis = Redis.from_url(
            url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
    except ValueError:
        raise AccessError("TIDEGATE_REDIS_URL must be redis://, rediss:// or unix://") from None
    return client


class RedisRevocations:
    """Keeps :class:`Revocations` as Redis has them."""

    def __init__(self, client: Redis, revocations: Revocations, observer: AccessObserver) -> None:
        self._client, self._revocations, self._observer = client, revocations, observer
        self._version, self._last, self._lost = -1, dict[str, float](), dict[str, float]()
        self._away = False

    async def look(self) -> None:
        """Ask once, and take over what is new."""
        try:
            # Not asyncio.wait_for: up to Python 3.11 it may swallow a cancellation, and then nothing ends this.
            with anyio.fail_after(2 * TIMEOUT_SECONDS):
                await self._look()
        except (RedisError, OSError, ValueError) as error:
            if not self._away:
                fields = {"reason": type(error).__name__}
                LOGGER.error("revocations cannot be read from Redis; the last ones stay", extra={"fields": fields})
            self._away = True
        else:
            self._away = False
        self._observer.list_read("revocation_redis", ok=not self._away)

    async def follow(self, seconds: float) -> None:
        """Ask every so many ``seconds``, for ever."""
        while True:
            await asyncio.sleep(seconds)
            await self.look()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _look(self) -> None:
        version = int(await self._client.get(VERSION) or 0)
        if version == self._version:
            return
        if version < self._version:
            LOGGER.error("Redis has lost revocations; the last ones stay in this process")
            self._lost |= self._last
        members: Any = await self._client.zrange(SET, 0, -1, withscores=True)
        self._last = {str(name): float(end) for name, end in members}
        self._version = version
        self._revocations.replace("revocation_redis", _union(self._lost, self._last))


def _union(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: max(one.get(name, 0.0), other.get(name, 0.0)) for name in {*one, *other}}


async def revoke(url: str, entry: RevokedLine, now: float) -> None:
    """Add an entry for every replica, and drop what no longer counts. Raises :class:`AccessError`."""
    client = connect(url)
    try:
        async with client.pipeline(transaction=True) as together:
            together.zremrangebyscore(SET, "-inf", now)
            together.zadd(SET, {entry.name: "+inf" if entry.ends == inf else entry.ends}, gt=True)
            together.incr(VERSION)
            await together.execute()
    except (RedisError, OSError) as error:
        raise AccessError(f"Redis did not take the revocation: {type(error).__name__}") from None
    finally:
        await client.aclose()
