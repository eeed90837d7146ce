"""The record of every decision: JSON lines, each with the hash of the line before, so that a change, a gap or another
order shows. Lines hold who, when, which policy, and lengths and categories of what was found; the text only if
configured.

Files are rotated by size (``audit.jsonl``, ``audit.jsonl.1``, ...), the chain goes on from file to file and over
restarts, and all workers of a host write one chain. A line that a crash cut off is moved out of the way, and the next
line says so. Writing is a thread's work; what cannot be written is counted and, as configured, refuses the decision or
loses the record.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

GENESIS = "0" * 64
QUEUE_RECORDS = 10_000
RETRY_SECONDS = 0.5

LOGGER = logging.getLogger("tidegate")


class AuditError(Exception):
    """The record cannot be written; the message names the file."""


@dataclass(frozen=True)
class AuditSettings:
    """Where and how much: ``max_bytes`` a file, ``max_files`` of them beside the current one (older ones are
    removed)."""

    path: Path
    max_bytes: int = 64 << 20
    max_files: int = 8


class AuditLog:
    """Writes records in the background. While that fails (a full disk), ``broken`` is set and nothing more is taken;
    what was taken before waits and is written once it can be. ``on_loss`` hears of each that is lost, in the caller's
    thread or in the writer's; ``lost`` counts them."""

    def __init__(self, settings: AuditSettings, on_loss: Callable[[], None] = lambda: None) -> None:
        self.settings, self.lost, self.broken, self._on_loss = settings, 0, False, on_loss
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(QUEUE_RECORDS)
        self._closing = threading.Event()
        try:
            settings.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = settings.path.with_name(f"{settings.path.name}.lock").open("ab")
            self._file, self._size = _opened(settings.path)
            with _locked(self._lock):
                self._resume()
        except OSError as error:
            raise AuditError(f"{settings.path} cannot be written: {error.strerror}") from None
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def record(self, entry: dict[str, Any]) -> bool:
        """Add a record; False if it is lost. Never waits."""
        try:
            if self.broken:
                raise queue.Full
            self._queue.put_nowait({"time": round(time.time(), 3), **entry})
        except queue.Full:
            self._lose()
            return False
        return True

    def close(self) -> None:
        """Write what is waiting and close the file."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join()
        self._file.close()
        self._lock.close()

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            try:
                if not self._insist(partial(self._write, entry)):
                    self._lose()
                elif self._queue.empty():
                    self._insist(self._sync)
            except Exception:  # one record that cannot be put in words must not be the last
                LOGGER.exception("a record could not be written")
                self._lose()

    def _insist(self, step: Callable[[], None]) -> bool:
        """Until it is done; False if it still fails when the log is closed."""
        while True:
            try:
                step()
            except OSError as error:
                if not self.broken:
                    reason = error.strerror or type(error).__name__
                    LOGGER.error("the record cannot be written", extra={"fields": {"reason": reason}})
                self.broken = True
            else:
                self.broken = False
                return True
            if self._closing.wait(RETRY_SECONDS):
                return False

    def _lose(self) -> None:
        self.lost += 1
        self._on_loss()

    def _write(self, entry: dict[str, Any]) -> None:
        """Raises OSError, and what was written of the line then is taken back by the next attempt."""
        with _locked(self._lock):
            if self.broken or not self._is_as_left():
                self._resume()
            self._append(entry)

    def _is_as_left(self) -> bool:
        """Whether no other worker has written or rotated since."""
        try:
            there = self.settings.path.stat()
        except FileNotFoundError:
            return False
        return (there.st_ino, there.st_size) == (os.fstat(self._file.fileno()).st_ino, self._size)

    def _resume(self) -> None:
        """Go on behind the last whole line."""
        self._previous, note = _take_up(self.settings)
        self._file.close()
        self._file, self._size = _opened(self.settings.path)
        if note is not None:
            self._append(note)

    def _append(self, entry: dict[str, Any]) -> None:
        text = json.dumps({**entry, "previous": self._previous}, ensure_ascii=False, separators=(",", ":"))
        line = text.encode("utf-8", "backslashreplace")  # half a character, as JSON writes it
        if self._size and self._size + len(line) >= self.settings.max_bytes:
            self._rotate()
        if self._file.write(line + b"\n") != len(line) + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += len(line) + 1
        self._previous = hashlib.sha256(line).hexdigest()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())

    def _rotate(self) -> None:
        self._sync()
        path, count = self.settings.path, self.settings.max_files
        numbered(path, count).unlink(missing_ok=True)
        for number in range(count - 1, 0, -1):
            if numbered(path, number).exists():
                numbered(path, number).replace(numbered(path, number + 1))
        path.replace(numbered(path, 1))
        self._file.close()
        self._file, self._size = _opened(path)


@contextlib.contextmanager
def _locked(file: BinaryIO) -> Iterator[None]:
    """While the block runs, no other worker of this host writes."""
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _opened(path: Path) -> tuple[io.FileIO, int]:
    """The file to go on with, unbuffered so that what fails is known at once, and its size."""
    file = path.open("ab", buffering=0)
    return file, os.fstat(file.fileno()).st_size


def numbered(path: Path, number: int) -> Path:
    """The name of a rotated file; 1 is the youngest."""
    return path.with_name(f"{path.name}.{number}")


def _take_up(settings: AuditSettings) -> tuple[str, dict[str, Any] | None]:
    """The hash to go on from, and what to note if the last line was cut off, which is removed."""
    last, end, size = _last_line(settings.path)
    note = None
    if end < size:
        os.truncate(settings.path, end)
        note = {"time": round(time.time(), 3), "event": "cut_off_line_removed", "bytes": size - end}
    if not last:
        last, _, _ = _last_line(numbered(settings.path, 1))
    return (hashlib.sha256(last).hexdigest() if last else GENESIS), note


def _last_line(path: Path) -> tuple[bytes, int, int]:
    """The last whole line, where it ends, and the file's size."""
    if not path.exists():
        return b"", 0, 0
    with path.open("rb") as file:
        size, content, length = file.seek(0, os.SEEK_END), b"", 4096
        while content.count(b"\n") < 2 and len(content) < size:
            length = min(2 * length, size)
            file.seek(size - length)
            content = file.read(length)
    whole, _, rest = content.rpartition(b"\n")
    return whole.rpartition(b"\n")[2], size - len(rest), size


@dataclass(frozen=True)
class Report:
    """What a check of the chain found: whole lines, and the first place where it is broken, with the reason."""

    lines: int
    broken: str | None


def verify(path: Path) -> Report:
    """Follow the chain through all files, oldest first. The oldest file's first line is taken as it is, unless it is
    the first of all. Raises :class:`AuditError` when there is nothing to read."""
    files = list(_files(path))
    if not files:
        raise AuditError(f"{path} does not exist")
    previous, count = None, 0
    for file in files:
        content = file.read_bytes()
        for number, line in enumerate(content.split(b"\n"), 1):
            if not line:
                continue
            where = f"{file.name}:{number}"
            try:
                claimed = json.loads(line)["previous"]
            except (ValueError, KeyError, TypeError):
                return Report(count, f"{where}: not a whole record")
            if previous is not None and claimed != previous:
                return Report(count, f"{where}: does not follow the line before it: one was changed, removed or moved")
            previous, count = hashlib.sha256(line).hexdigest(), count + 1
    return Report(count, None)


def _files(path: Path) -> Iterator[Path]:
    found = [
        numbered(path, int(each.suffix[1:])) for each in path.parent.glob(f"{path.name}.*") if each.suffix[1:].isdigit()
    ]
    yield from sorted(found, key=lambda each: -int(each.suffix[1:]))
    if path.exists():
        yield path
