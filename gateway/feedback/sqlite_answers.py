"""Answers without Redis: a SQLite file that the workers of a host share, or in memory."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from gateway.feedback.rated import Given, Remembered, StoreError

NAME = "answers.sqlite"
BUSY_SECONDS = 2.0
SWEPT_EVERY = 64
SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key BLOB PRIMARY KEY, model TEXT NOT NULL, version TEXT NOT NULL, ends REAL NOT NULL, rated INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_ends ON answers (ends);
"""
WRITE = """
INSERT INTO answers VALUES (?, ?, ?, ?, 0) ON CONFLICT (key) DO UPDATE
SET model = excluded.model, version = excluded.version, ends = excluded.ends, rated = 0
WHERE NOT answers.rated OR answers.ends <= ?
"""


class SqliteAnswers:
    """At most about ``most`` answers, for ``seconds`` each; the oldest go first. ``directory`` is shared, None is this
    process's memory. Raises :class:`StoreError`."""

    def __init__(
        self, directory: Path | None, seconds: float, most: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._seconds, self._most, self._clock = seconds, most, clock
        self._lock, self._writes = threading.Lock(), 0
        with _translated():
            self._database = sqlite3.connect(
                _file(directory), timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.executescript(SCHEMA)

    def write(self, answers: list[Remembered]) -> None:
        """See :class:`gateway.feedback.rated.AnswerStore`."""
        now = self._clock()
        rows = [(each.key, each.model, each.version, now + self._seconds, now) for each in answers]
        with self._lock, _translated(), self._transaction():
            self._database.executemany(WRITE, rows)
            if self._writes % SWEPT_EVERY == 0:
                self._sweep()
            self._writes += 1

    def claim(self, key: bytes) -> Given | Literal["unknown", "claimed"]:
        """See :class:`gateway.feedback.rated.AnswerStore`."""
        with self._lock, _translated(), self._transaction():
            row = self._database.execute(
                "SELECT model, version, rated FROM answers WHERE key = ? AND ends > ?", (key, self._clock())
            ).fetchone()
            if row is None:
                return "unknown"
            if row[2]:
                return "claimed"
            self._database.execute("UPDATE answers SET rated = 1 WHERE key = ?", (key,))
            return Given(row[0], row[1])

    def close(self) -> None:
        """See :class:`gateway.feedback.rated.AnswerStore`."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._database.close()

    def _sweep(self) -> None:
        self._database.execute("DELETE FROM answers WHERE ends <= ?", (self._clock(),))
        (count,) = self._database.execute("SELECT count(*) FROM answers").fetchone()
        if count > self._most:
            self._database.execute(
                "DELETE FROM answers WHERE key IN (SELECT key FROM answers ORDER BY ends LIMIT ?)",
                (count - self._most,),
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Nobody else writes meanwhile, in any process."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


def _file(directory: Path | None) -> str:
    if directory is None:
        return ":memory:"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(directory / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(f"{directory / NAME}: {error.strerror}") from None
    return str(directory / NAME)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(type(error).__name__) from None
