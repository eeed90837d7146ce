"""Files that may change while the gateway runs are looked at every so often."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

LOGGER = logging.getLogger("tidegate")


@contextlib.asynccontextmanager
async def watching(
    seconds: float, fingerprint: Callable[[], object], reload: Callable[[], Awaitable[object]]
) -> AsyncIterator[None]:
    """While the block runs, ``reload`` when ``fingerprint``, looked at every so many ``seconds``, is another one.
    Never, if 0. The first one is taken at once. A reload may change what is looked at; then it is called once more."""
    if not seconds:
        yield
        return
    task = asyncio.create_task(_watch(seconds, fingerprint(), fingerprint, reload))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _watch(
    seconds: float, seen: object, fingerprint: Callable[[], object], reload: Callable[[], Awaitable[object]]
) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            now = await asyncio.to_thread(fingerprint)
            if now != seen:
                seen = now  # not what is there after the reload: it may have changed while it was read
                await reload()
        except Exception:  # whatever it was, the next change counts again
            LOGGER.exception("a changed file could not be taken up")


def stamps(paths: Iterable[Path]) -> tuple[object, ...]:
    """What changes when one of the files does."""
    return tuple(_stamp(each) for each in paths)


def _stamp(path: Path) -> object:
    try:
        stat = path.stat()
    except OSError as error:
        return error.errno
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
