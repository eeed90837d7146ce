"""Keys from a URL: fetched at the start and every so often, and when a token names a ``kid`` that is not known, or is
not signed with the key that was found for it without one.

However many such tokens come, the set is not fetched more often than every ``jwks_least_seconds``; those who ask
meanwhile share the fetch that runs, up to :data:`MAX_WAITING` of them, and the others are answered from what is known.
A fetch that fails changes nothing: the last good set stays in force, and the observer is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable

import anyio
import httpx

from gateway.access.errors import AccessError
from gateway.access.issuers import IssuerPart
from gateway.access.keys import Key, KeySet, key_set
from gateway.access.observer import AccessObserver
from gateway.errors import IdentityUnavailable

MAX_BYTES = 256 << 10
MAX_WAITING = 32
LOGGER = logging.getLogger("tidegate")


class FetchedKeys:
    """The keys of ``part.jwks_url``. ``on_change`` is called when the keys are others than before.
    Raises :class:`AccessError` for what is no URL."""

    def __init__(self, part: IssuerPart, observer: AccessObserver, *, development: bool) -> None:
        self._part, self._observer, self._development = part, observer, development
        try:
            self._url = httpx.URL(str(part.jwks_url))
        except httpx.InvalidURL:
            raise AccessError("jwks_url must be a URL: https://HOST/PATH") from None
        self.on_change: Callable[[], None] = lambda: None
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            timeout=part.jwks_timeout_seconds,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )
        self._keys: KeySet | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._waiting, self._failing = 0, True
        self._next = 0.0
        observer.jwks_refreshed_every(part.name, part.jwks_refresh_seconds)

    @property
    def known(self) -> bool:
        """Whether they were ever fetched."""
        return self._keys is not None

    async def find(self, kid: str | None, algorithm: str, unfit: Key | None = None) -> Key | None:
        """The one key for such a token, fetched if need be. Raises :class:`IdentityUnavailable` if none ever was."""
        if self._keys is None or unfit is not None or not self._keys.knows(kid, algorithm):
            await self.refresh()
        if self._keys is None:
            raise IdentityUnavailable
        found = self._keys.find(kid, algorithm)
        return None if found is not None and unfit is not None and found.digest == unfit.digest else found

    async def refresh(self) -> None:
        """Fetch, unless that was tried a moment ago. Never raises for what is at the other end."""
        if self._fetching is None:
            if time.monotonic() < self._next:
                return
            self._next = time.monotonic() + self._part.jwks_least_seconds
            self._fetching = asyncio.create_task(self._fetch())
            self._fetching.add_done_callback(self._fetched)
        if self._waiting < MAX_WAITING:
            self._waiting += 1
            try:
                await asyncio.wait([self._fetching])  # a client that leaves takes nothing from the others
            finally:
                self._waiting -= 1

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Fetch every so often while the block runs, and sooner after a fetch that failed."""
        task = asyncio.create_task(self._repeat())
        try:
            yield
        finally:
            for each in (task, self._fetching):
                if each is not None:
                    each.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await each
            await self._client.aclose()

    async def _repeat(self) -> None:
        while True:
            part = self._part
            await asyncio.sleep(part.jwks_least_seconds if self._failing else part.jwks_refresh_seconds)
            await self.refresh()

    def _fetched(self, task: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        try:
            with anyio.fail_after(self._part.jwks_timeout_seconds):
                content = await self._content()
            keys = await asyncio.to_thread(
                key_set, content, self._part.algorithms, published=True, development=self._development
            )
        except (httpx.HTTPError, AccessError, TimeoutError) as error:
            reason = str(error) if isinstance(error, AccessError) else type(error).__name__
            fields = {"issuer": self._part.name, "reason": reason, "kept": self._keys is not None}
            LOGGER.error("the issuer's keys could not be fetched", extra={"fields": fields})
            self._failing = True
            self._observer.jwks_fetched(self._part.name, ok=False)
            return
        before, self._keys, self._failing = self._keys, keys, False
        self._observer.jwks_fetched(self._part.name, ok=True)
        if before is not None and before.digests != keys.digests:
            LOGGER.info("the issuer's keys have changed", extra={"fields": {"issuer": self._part.name}})
            self.on_change()

    async def _content(self) -> bytes:
        content = b""
        async with self._client.stream("GET", self._url) as response:
            if response.status_code != 200:
                raise AccessError(f"the URL answers with status {response.status_code}")
            async for part in response.aiter_raw():
                content += part
                if len(content) > MAX_BYTES:
                    raise AccessError(f"the URL answers with more than {MAX_BYTES} bytes")
        return content
