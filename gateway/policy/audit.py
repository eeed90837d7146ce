"""The record of every decision: JSON lines, each with the hash of the line before, so that a change, a gap or another
order shows. Lines hold who, when, which policy, and lengths and categories of what was found; the text only if
configured.

Files are rotated by size (``audit.jsonl``, ``audit.jsonl.1``, ...), the chain goes on from file to file and over
restarts. A line that a crash cut off is moved out of the way, and the next line says so. Writing is a thread's work;
a full queue is counted and, as configured, refuses the decision or loses the record.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GENESIS = "0" * 64
QUEUE_RECORDS = 10_000


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
    """Writes records in the background. ``on_loss`` hears of each that found the queue full or the disk unwritable, in
    the caller's thread or in the writer's; ``lost`` counts them."""

    def __init__(self, settings: AuditSettings, on_loss: Callable[[], None] = lambda: None) -> None:
        self.settings, self.lost, self._on_loss = settings, 0, on_loss
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(QUEUE_RECORDS)
        try:
            settings.path.parent.mkdir(parents=True, exist_ok=True)
            self._previous, note = _resume(settings)
            self._file = settings.path.open("ab")
        except OSError as error:
            raise AuditError(f"{settings.path} cannot be written: {error.strerror}") from None
        if note is not None:
            self._write(note)
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def record(self, entry: dict[str, Any]) -> bool:
        """Add a record; False if it is lost. Never waits."""
        try:
            self._queue.put_nowait({"time": round(time.time(), 3), **entry})
        except queue.Full:
            self._lose()
            return False
        return True

    def close(self) -> None:
        """Write what is waiting and close the file."""
        self._queue.put(None)
        self._thread.join()
        self._file.close()

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            try:
                self._write(entry)
                if self._queue.empty():
                    os.fsync(self._file.fileno())
            except OSError:
                self._lose()

    def _lose(self) -> None:
        self.lost += 1
        self._on_loss()

    def _write(self, entry: dict[str, Any]) -> None:
        line = json.dumps({**entry, "previous": self._previous}, ensure_ascii=False, separators=(",", ":")).encode()
        if self._file.tell() and self._file.tell() + len(line) >= self.settings.max_bytes:
            self._rotate()
        self._file.write(line + b"\n")
        self._file.flush()
        self._previous = hashlib.sha256(line).hexdigest()

    def _rotate(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
        path, count = self.settings.path, self.settings.max_files
        numbered(path, count).unlink(missing_ok=True)
        for number in range(count - 1, 0, -1):
            if numbered(path, number).exists():
                numbered(path, number).replace(numbered(path, number + 1))
        path.replace(numbered(path, 1))
        self._file = path.open("ab")


def numbered(path: Path, number: int) -> Path:
    """The name of a rotated file; 1 is the youngest."""
    return path.with_name(f"{path.name}.{number}")


def _resume(settings: AuditSettings) -> tuple[str, dict[str, Any] | None]:
    """The hash to go on from, and what to note if the last line was cut off."""
    path = settings.path
    content = path.read_bytes() if path.exists() else b""
    whole, newline, rest = content.rpartition(b"\n")
    note = None
    if rest:
        with path.open("r+b") as file:
            file.truncate(len(whole) + len(newline))
        note = {"time": round(time.time(), 3), "event": "cut_off_line_removed", "bytes": len(rest)}
    if not whole:
        older = numbered(path, 1)
        whole = older.read_bytes().rstrip(b"\n") if older.exists() else b""
    last = whole.rsplit(b"\n", 1)[-1]
    return (hashlib.sha256(last).hexdigest() if last else GENESIS), note


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
