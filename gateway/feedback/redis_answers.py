"""Answers in Redis, for any number of gateways. Two keys each: who answered, and that it was rated."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from gateway.feedback.rated import Given, Remembered, StoreError

TIMEOUT_SECONDS = 1.0
PREFIX = "tidegate:answer:"
SEPARATOR = "\n"


class RedisAnswers:
    """At ``url``; each for ``seconds``."""

    def __init__(self, url: str, seconds: float) -> None:
        self._milliseconds = int(seconds * 1000)
        self._redis = Redis.from_url(
            url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )

    def write(self, answers: list[Remembered]) -> None:
        """See :class:`gateway.feedback.rated.AnswerStore`."""
        with _translated():
            pipeline = self._redis.pipeline(transaction=False)
            for each in answers:
                pipeline.set(PREFIX + each.key.hex(), each.model + SEPARATOR + each.version, px=self._milliseconds)
            pipeline.execute()

    def claim(self, key: bytes) -> Given | Literal["unknown", "claimed"]:
        """See :class:`gateway.feedback.rated.AnswerStore`. Who sets the second key has rated; a reply that is lost on
        its way leaves it set, so a score may be lost then and never counts twice."""
        name = PREFIX + key.hex()
        with _translated():
            found = cast("str | None", self._redis.get(name))
            if found is None:
                return "unknown"
            if not self._redis.set(f"{name}:rated", "1", nx=True, px=self._milliseconds):
                return "claimed"
        model, _, version = found.partition(SEPARATOR)
        return Given(model, version)

    def close(self) -> None:
        """See :class:`gateway.feedback.rated.AnswerStore`."""
        self._redis.close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreError(f"Redis: {type(error).__name__}") from None
