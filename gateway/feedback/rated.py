"""Answers that may be rated: remembered when they begin, claimed once.

Remembering costs the request a place in a queue; a thread writes what has gathered :data:`WRITE_SECONDS` later. So
whoever looks for an answer that is not there looks again after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import queue
import threading
import time
from typing import Literal, NamedTuple, Protocol

from gateway.errors import FeedbackExists, FeedbackUnavailable, RequestNotFound

LOGGER = logging.getLogger("tidegate")
WRITE_SECONDS = 0.05
LOOKS = 4
QUEUED = 20_000
BATCH = 1000


class Given(NamedTuple):
    """Who answered the request that was rated."""

    model: str
    version: str


class Remembered(NamedTuple):
    """One answer: a digest of whose it is and of its request's id, and who answered."""

    key: bytes
    model: str
    version: str


class AnswerStore(Protocol):
    """Where answers are kept, for all workers. Called from threads, and may take a while."""

    def write(self, answers: list[Remembered]) -> None:
        """Keep them for their time; one that has been rated stays rated. Raises :class:`StoreError`."""

    def claim(self, key: bytes) -> Given | Literal["unknown", "claimed"]:
        """Rate the answer, which works once. Raises :class:`StoreError`."""

    def close(self) -> None:
        """The end."""


class StoreError(Exception):
    """The store is away."""


class RatedObserver(Protocol):
    """Who counts."""

    def rated(self, model: str, version: str, score: int) -> None:
        """Somebody gave an answer a score."""

    def answers_forgotten(self, count: int) -> None:
        """Answers could not be remembered."""


class RatedAnswers:
    """The use case. A subject of a tenant can name its own answers only: whose an answer is, is part of its key."""

    def __init__(self, store: AnswerStore, observer: RatedObserver) -> None:
        self._store, self._observer = store, observer
        self._queue: queue.SimpleQueue[tuple[str, str, str, str, str] | None] = queue.SimpleQueue()
        self._away = False
        self._thread = threading.Thread(target=self._run, name="feedback", daemon=True)
        self._thread.start()

    def remember(self, tenant: str, subject: str, request_id: str, model: str, version: str) -> None:
        """An answer begins. Never waits; under an overload of the store the answer is forgotten, and counted."""
        if self._queue.qsize() >= QUEUED:
            self._observer.answers_forgotten(1)
        else:
            self._queue.put((tenant, subject, request_id, model, version))

    async def rate(self, tenant: str, subject: str, request_id: str, score: int) -> Given:
        """Count a score. Raises :class:`RequestNotFound`, :class:`FeedbackExists`, :class:`FeedbackUnavailable`."""
        key = _key(tenant, subject, request_id)
        for look in range(LOOKS):
            if look:
                await asyncio.sleep(WRITE_SECONDS * 2)  # another worker may be about to write it
            try:
                found = await asyncio.to_thread(self._store.claim, key)
            except StoreError:
                raise FeedbackUnavailable from None
            if found == "claimed":
                raise FeedbackExists
            if found != "unknown":
                self._observer.rated(found.model, found.version, score)
                return found
        raise RequestNotFound(field="request_id")

    async def close(self) -> None:
        """Write what is waiting."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._store.close()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            time.sleep(WRITE_SECONDS)  # what comes meanwhile is written with it
            batch, ends = [first], False
            with contextlib.suppress(queue.Empty):
                while len(batch) < BATCH:
                    each = self._queue.get_nowait()
                    if each is None:
                        ends = True
                        break
                    batch.append(each)
            self._write(batch)
            if ends:
                return

    def _write(self, batch: list[tuple[str, str, str, str, str]]) -> None:
        answers = [Remembered(_key(*whose), model, version) for *whose, model, version in batch]
        try:
            self._store.write(answers)
        except StoreError as error:
            if not self._away:
                LOGGER.error("feedback: answers cannot be remembered", extra={"fields": {"reason": str(error)}})
            self._away = True
            self._observer.answers_forgotten(len(batch))
        else:
            self._away = False


def _key(tenant: str, subject: str, request_id: str) -> bytes:
    """16 bytes for the three; none of them can be read from it, and no two can pass for another two."""
    digest = hashlib.blake2b(digest_size=16)
    for each in (tenant, subject, request_id):
        encoded = each.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(4, "little") + encoded)
    return digest.digest()
