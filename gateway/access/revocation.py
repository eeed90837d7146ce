"""What has been taken back before its time: tokens by ``jti`` (or API keys by id), subjects, whole tenants.

The lists come from a file and from Redis; what is in force is their union. A source that is away takes nothing back:
what it said last stays in force.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from gateway.access.errors import AccessError
from gateway.access.observer import Source
from gateway.access.principal import Principal

Value = Annotated[str, Field(min_length=1, max_length=255)]


class RevokedLine(BaseModel):
    """A line of the file: one of ``jti``, ``sub`` and ``tenant``, and optionally when it stops to count."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    jti: Value | None = None
    sub: Value | None = None
    tenant: Value | None = None
    until: AwareDatetime | None = None

    @model_validator(mode="after")
    def _one(self) -> RevokedLine:
        if (self.jti, self.sub, self.tenant).count(None) != 2:
            raise ValueError("give exactly one of jti, sub and tenant")
        return self

    @property
    def name(self) -> str:
        """Kind and value in one text: how the entry is written in Redis."""
        kind = "jti" if self.jti is not None else "sub" if self.sub is not None else "tenant"
        return f"{kind}:{self.jti or self.sub or self.tenant}"

    @property
    def ends(self) -> float:
        """Seconds since the epoch; infinite if it counts for ever."""
        return inf if self.until is None else self.until.timestamp()


def merged(entries: Iterable[RevokedLine]) -> dict[str, float]:
    """By name, until when."""
    ends: dict[str, float] = {}
    for entry in entries:
        ends[entry.name] = max(entry.ends, ends.get(entry.name, 0.0))
    return ends


class Revocations:
    """The union of all lists. ``unread`` names the sources that have not said anything yet: until they have, nobody is
    let in, since nobody knows who should be kept out."""

    def __init__(self, sources: Iterable[Source] = ()) -> None:
        self.unread: set[Source] = set(sources)
        self._lists: dict[Source, Mapping[str, float]] = {}
        self._ends: dict[str, float] = {}

    def replace(self, source: Source, ends: Mapping[str, float]) -> None:
        """What ``source`` says now."""
        self._lists[source] = ends
        together: dict[str, float] = {}
        for each in self._lists.values():
            for name, end in each.items():
                together[name] = max(end, together.get(name, 0.0))
        self._ends = together
        self.unread.discard(source)

    def covers(self, principal: Principal, now: float) -> bool:
        """Whether this principal has been taken back."""
        ends = self._ends
        if not ends:
            return False
        return (
            ends.get(f"jti:{principal.token_id}", 0.0) > now
            or ends.get(f"sub:{principal.subject}", 0.0) > now
            or ends.get(f"tenant:{principal.tenant}", 0.0) > now
        )


def append(path: Path, entry: RevokedLine) -> None:
    """Add a line, as one write that is on disk when this returns. Raises :class:`AccessError`."""
    given = entry.model_dump(exclude_none=True, exclude={"until"})
    if entry.until is not None:
        given["until"] = datetime.fromtimestamp(entry.until.timestamp(), UTC).isoformat(timespec="seconds")
    append_line(path, json.dumps(given, ensure_ascii=False))


def append_line(path: Path, line: str) -> None:
    """Add a line to a file that may be read at any moment; a new file is its owner's. Raises :class:`AccessError`."""
    try:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(file).st_size
            before = b"\n" if size and os.pread(file, 1, size - 1) != b"\n" else b""
            os.write(file, before + line.encode() + b"\n")
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise AccessError(f"{path} cannot be written: {error.strerror}") from None


def in_hours(hours: float, option: str) -> datetime:
    """So many hours from now, on the second. Raises :class:`AccessError` that blames ``option``."""
    now = datetime.now(UTC)
    try:
        end = (now + timedelta(hours=hours)).replace(microsecond=0)
    except (ValueError, OverflowError):
        end = now
    if end <= now:
        raise AccessError(f"{option} must be a time to come: a number above 0, and no end after the year 9999")
    return end
