"""A file of quotas that changes is read anew, without a restart; what tenants have used stays.

A file that cannot be used changes nothing and is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Protocol

from gateway import watch
from gateway.traffic.quotas.config import QuotaError, read_quotas
from gateway.traffic.quotas.quotas import Quotas

LOGGER = logging.getLogger("tidegate")


class ReloadObserver(Protocol):
    """Who counts."""

    def quotas_reloaded(self, used: bool) -> None:
        """The file was read anew; not used if it is bad, and the old one stays."""


@contextlib.asynccontextmanager
async def watching(path: Path | None, seconds: float, quotas: Quotas, observer: ReloadObserver) -> AsyncIterator[None]:
    """Look at the file every so many ``seconds`` while the block runs; never, if 0 or without one."""
    if path is None:
        yield
        return
    async with watch.watching(seconds, lambda: watch.stamps([path]), partial(reload, path, quotas, observer)):
        yield


async def reload(path: Path, quotas: Quotas, observer: ReloadObserver) -> bool:
    """Read the file anew and let it count; False if it cannot be used."""
    try:
        quotas.file = await asyncio.to_thread(read_quotas, path)
    except QuotaError as error:
        LOGGER.error("the quotas on disk cannot be used; the old ones stay", extra={"fields": {"reason": str(error)}})
        observer.quotas_reloaded(False)
        return False
    LOGGER.info("quotas reloaded")
    observer.quotas_reloaded(True)
    return True
