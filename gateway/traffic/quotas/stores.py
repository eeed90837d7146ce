"""Where accounts are kept without Redis: in this process, or in files that the workers of a host share."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Protocol

import orjson

from gateway.traffic.quotas.account import Account, Reply
from gateway.traffic.quotas.config import Limits

SWEPT_EVERY = 1024
OPEN_FILES = 256
LENGTH = struct.Struct("<I")


Later = Coroutine[Any, Any, Reply | None]


class Store(Protocol):
    """Who keeps accounts: either answers at once, or with a coroutine. ``low_water`` is how many tokens before its end
    a lease is to ask for more."""

    low_water: int

    def admit(
        self, tenant: str, limits: Limits, lease: str, want: int, need: int
    ) -> Reply | Coroutine[Any, Any, Reply]:
        """As :meth:`Account.admit`. Raises :class:`gateway.errors.QuotaUnavailable`."""

    def extend(self, tenant: str, limits: Limits, lease: str, used: int, want: int) -> Reply | Later:
        """As :meth:`Account.extend`; None if nobody can say."""

    def settle(self, tenant: str, limits: Limits, lease: str, used: int) -> Reply | Later:
        """As :meth:`Account.settle`; None if it will be done later."""

    async def close(self) -> None:
        """The end."""


class Accounts(Protocol):
    """Where a :class:`LocalStore` finds an account."""

    def opened(self, tenant: str) -> contextlib.AbstractContextManager[Account]:
        """The tenant's account, to be read and changed by nobody else meanwhile."""

    def close(self) -> None:
        """The end."""


class LocalStore:
    """Accounts at hand: every answer comes at once, so a stream stops exactly where its quota does."""

    low_water = 0

    def __init__(self, accounts: Accounts, lifetime_seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._accounts, self._lifetime, self._clock = accounts, lifetime_seconds, clock

    def admit(self, tenant: str, limits: Limits, lease: str, want: int, need: int) -> Reply:
        """See :class:`Store`."""
        with self._accounts.opened(tenant) as account:
            now = self._clock()
            return account.admit(limits, lease, want, need, now=now, expires=now + self._lifetime)

    def extend(self, tenant: str, limits: Limits, lease: str, used: int, want: int) -> Reply:
        """See :class:`Store`."""
        with self._accounts.opened(tenant) as account:
            return account.extend(limits, lease, used, want, self._clock())

    def settle(self, tenant: str, limits: Limits, lease: str, used: int) -> Reply:
        """See :class:`Store`."""
        with self._accounts.opened(tenant) as account:
            return account.settle(limits, lease, used, self._clock())

    async def close(self) -> None:
        """See :class:`Store`."""
        self._accounts.close()


class MemoryAccounts:
    """In this process; a restart forgets them."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}

    @contextlib.contextmanager
    def opened(self, tenant: str) -> Iterator[Account]:
        """The tenant's account."""
        account = self._accounts.get(tenant)
        if account is None:
            if len(self._accounts) % SWEPT_EVERY == SWEPT_EVERY - 1:
                self._accounts = {name: each for name, each in self._accounts.items() if not each.idle}
            account = self._accounts[tenant] = Account()
        yield account

    def close(self) -> None:
        """Nothing to free."""


class SharedAccounts:
    """One small file for each tenant, locked while it is changed; what is in it outlives a worker and a restart.

    A file is the length of the account and the account as JSON. One that cannot be read is an empty account: it is only
    written whole, so that would be somebody else's doing.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._open: OrderedDict[str, int] = OrderedDict()

    @contextlib.contextmanager
    def opened(self, tenant: str) -> Iterator[Account]:
        """The tenant's account, locked."""
        descriptor = self._descriptor(tenant)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            account = decoded(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
            yield account
            os.pwrite(descriptor, encoded(account), 0)
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _descriptor(self, tenant: str) -> int:
        descriptor = self._open.get(tenant)
        if descriptor is None:
            name = hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()
            descriptor = os.open(self._directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._open[tenant] = descriptor
            if len(self._open) > OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(tenant)
        return descriptor

    def close(self) -> None:
        """Close the files."""
        while self._open:
            os.close(self._open.popitem()[1])


def encoded(account: Account) -> bytes:
    """The account as a file has it."""
    state = (account.level, account.filled, account.running, account.minute, account.day)
    text = orjson.dumps(state, option=orjson.OPT_NON_STR_KEYS)
    return LENGTH.pack(len(text)) + text


def decoded(content: bytes) -> Account:
    """An account of :func:`encoded`; an empty one of anything else."""
    try:
        (length,) = LENGTH.unpack_from(content)
        level, filled, running, minute, day = orjson.loads(content[LENGTH.size : LENGTH.size + length])
        return Account(
            level,
            filled,
            running,
            {int(slot): tokens for slot, tokens in minute.items()},
            {int(slot): tokens for slot, tokens in day.items()},
            sum([one[0] for one in running.values()]),
        )
    except (struct.error, ValueError, TypeError, LookupError, AttributeError):
        return Account()
