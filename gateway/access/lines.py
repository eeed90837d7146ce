"""A file of JSON lines that others append to, read anew when it changes.

Blank lines and lines that begin with ``#`` say nothing. A line that does not hold is left out and reported with its
number; the others count, since a slip of the pen in one line must not keep another from taking effect.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from gateway.access.errors import AccessError, first_problem, read_text
from gateway.watch import stamps

MAX_BYTES = 64 << 20
Line = TypeVar("Line", bound=BaseModel)


@dataclass(frozen=True)
class Lines(Generic[Line]):
    """What the file held when it looked like ``stamp``; ``problems`` name file, line and field."""

    stamp: object
    entries: list[Line]
    problems: list[str]


def read_lines(path: Path, model: type[Line]) -> Lines[Line]:
    """Read the file. Raises :class:`AccessError` if it cannot be read at all."""
    stamp = stamps([path])
    with contextlib.suppress(OSError):  # what cannot be read says so below
        if path.stat().st_size > MAX_BYTES:
            raise AccessError(f"{path} is larger than {MAX_BYTES} bytes")
    entries, problems = [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            entries.append(model.model_validate_json(line))
        except ValidationError as error:
            problems.append(f"{path}:{number}: {first_problem(error, 'the line')}")
    return Lines(stamp, entries, problems)


async def follow(
    path: Path,
    model: type[Line],
    seconds: float,
    first: Lines[Line],
    *,
    apply: Callable[[list[Line]], None],
    report: Callable[[list[str]], None],
) -> None:
    """Look at the file every so many ``seconds``, for ever, and hand what is new to ``apply``. ``report`` hears of
    every look, with what is wrong with the file as it is now. The file system is asked in a thread: it may hang."""
    last = first
    while True:
        await asyncio.sleep(seconds)
        try:
            if await asyncio.to_thread(stamps, [path]) != last.stamp:
                last = await asyncio.to_thread(read_lines, path, model)
                apply(last.entries)
        except AccessError as error:
            report([str(error)])
        else:
            report(last.problems)
