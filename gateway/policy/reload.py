"""A policy whose files change is read anew and takes the old one's place, without a dropped request.

It is built aside (:mod:`gateway.policy.aside`), so requests go on meanwhile; a policy that cannot be used changes
nothing and is counted.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Protocol

from gateway import watch
from gateway.policy.aside import load_aside
from gateway.policy.compiled import Policy
from gateway.policy.engine import PolicyEngine
from gateway.policy.errors import PolicyError
from gateway.policy.moderators import Services

LOGGER = logging.getLogger("tidegate")


class ReloadObserver(Protocol):
    """Who counts."""

    def reloaded(self, version: str | None) -> None:
        """A policy was read anew; None if it cannot be used and the old one stays."""


@contextlib.asynccontextmanager
async def watching(
    path: Path | None,
    seconds: float,
    engine: PolicyEngine,
    observer: ReloadObserver,
    services: Services | None = None,
) -> AsyncIterator[None]:
    """Look at the policy's files every so many ``seconds`` while the block runs; never, if 0 or without a file."""
    if path is None:
        yield
        return
    changed = partial(reload, path, engine, observer, services)
    async with watch.watching(seconds, lambda: fingerprint(path, engine.policy), changed):
        yield


async def reload(path: Path, engine: PolicyEngine, observer: ReloadObserver, services: Services | None = None) -> bool:
    """Read the policy anew and let it take over; False if it cannot be used."""
    try:
        policy = await load_aside(path, services)
    except PolicyError as error:
        LOGGER.error("the policy on disk cannot be used; the old one stays", extra={"fields": {"reason": str(error)}})
        observer.reloaded(None)
        return False
    if policy.digest != engine.policy.digest:
        engine.swap(policy)
        LOGGER.info("policy reloaded", extra={"fields": {"policy": policy.version}})
    observer.reloaded(policy.version)
    return True


def fingerprint(path: Path, policy: Policy) -> tuple[object, ...]:
    """What changes when one of the policy's files does."""
    names = [each.file for each in policy.file.lists] + [policy.file.allow.file if policy.file.allow else None]
    files = [path, *(path.parent / name for name in names if name)]
    return watch.stamps(files)
