"""Quotas from settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

from gateway.traffic.quotas.config import QuotaError, QuotaFile, read_quotas
from gateway.traffic.quotas.quotas import QuotaObserver, Quotas
from gateway.traffic.quotas.reload import ReloadObserver
from gateway.traffic.quotas.stores import LocalStore, MemoryAccounts, SharedAccounts, Store


class Observer(QuotaObserver, ReloadObserver, Protocol):
    """Who counts."""

    def quota_degraded(self, degraded: bool) -> None:
        """Redis has gone away, or is back."""

    def quota_admitted_without_redis(self) -> None:
        """A request was admitted without Redis."""


def open_quotas(
    file: Path | None,
    observer: Observer,
    *,
    lifetime_seconds: float,
    redis_url: str | None = None,
    on_redis_failure: Literal["local", "refuse"] = "local",
    directory: Path | None = None,
    workers: int = 1,
) -> Quotas:
    """Quotas of ``file``; of nothing without one. Accounts are in Redis if there is a URL, else, and while it is away,
    in ``directory`` if there is one, else in this process. A lease that nobody settles, for its gateway was killed, is
    forgotten after ``lifetime_seconds``: give more than a request's longest time. Raises :class:`QuotaError`.
    """
    read = _read(file) if file is not None else None
    if read is not None and workers > 1 and redis_url is None and directory is None:
        raise QuotaError(
            f"{workers} workers would each count by themselves: set TIDEGATE_QUOTA_DIRECTORY to a folder of this host, "
            "or TIDEGATE_REDIS_URL"
        )
    here = _shared(directory) if read is not None and directory is not None else MemoryAccounts()
    store: Store = LocalStore(here, lifetime_seconds)
    if read is not None and redis_url is not None:
        local = LocalStore(here, lifetime_seconds) if on_redis_failure == "local" else None
        store = _redis_store(redis_url, observer, lifetime_seconds, local)
    return Quotas(store, observer, read)


def _read(file: Path) -> QuotaFile:
    try:
        return read_quotas(file)
    except QuotaError as error:
        raise QuotaError(f"TIDEGATE_QUOTA_FILE: {error}") from None


def _shared(directory: Path) -> SharedAccounts:
    try:
        return SharedAccounts(directory)
    except OSError as error:
        raise QuotaError(f"TIDEGATE_QUOTA_DIRECTORY cannot be made: {error.strerror}") from None


def _redis_store(url: str, observer: Observer, lifetime_seconds: float, local: LocalStore | None) -> Store:
    try:
        from gateway.traffic.quotas.redis_store import RedisStore  # noqa: PLC0415 - only who has a Redis needs its client
    except ImportError:
        raise QuotaError("TIDEGATE_REDIS_URL needs the extra `redis`: pip install 'tidegate[redis]'") from None
    try:
        return RedisStore(url, lifetime_seconds, observer, local)
    except ValueError:
        raise QuotaError("TIDEGATE_REDIS_URL is no redis://, rediss:// or unix:// URL") from None
