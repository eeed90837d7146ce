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
from gateway.policy.config import read_policy
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
    async with watch.watching(seconds, Files(path).stamps, changed):
        yield


async def reload(path: Path, engine: PolicyEngine, observer: ReloadObserver, services: Services | None = None) -> bool:
    """Read the policy anew and let it take over; False if it cannot be used."""
    try:
        policy = await load_aside(path, services, engine.policy.moderators)
    except Exception as error:  # noqa: BLE001 - moderators are made from somebody else's code
        reason = str(error) if isinstance(error, PolicyError) else type(error).__name__
        LOGGER.error("the policy on disk cannot be used; the old one stays", extra={"fields": {"reason": reason}})
        observer.reloaded(None)
        return False
    if (policy.digest, policy.moderators) != (engine.policy.digest, engine.policy.moderators):  # or a new secret
        engine.swap(policy)
        LOGGER.info("policy reloaded", extra={"fields": {"policy": policy.version}})
    observer.reloaded(policy.version)
    return True


class Files:
    """The policy file and the files that it names: those of the policy on disk, which need not be the one in force."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[object, ...] = ()
        self._named: list[Path] = []

    def stamps(self) -> tuple[object, ...]:
        """What changes when one of the files does."""
        seen = watch.stamps([self._path])
        if seen != self._seen:
            self._seen, self._named = seen, _named(self._path)
        return seen + watch.stamps(self._named)


def _named(path: Path) -> list[Path]:
    try:
        return [path.parent / name for name in read_policy(path).files()]
    except PolicyError:
        return []  # nothing but the policy file itself can mend it
