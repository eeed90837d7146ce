"""The door: a credential in, a principal out.

A verified token is remembered until it expires, by the hash of its text, since checking a signature costs more than the
rest of the admission. What is remembered is forgotten when an issuer's keys change, and revocations are asked about it
each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import jwt

from gateway.access.api_keys import PREFIX, ApiKeys
from gateway.access.issuer import Issuer
from gateway.access.principal import Principal
from gateway.access.revocation import Revocations
from gateway.errors import IdentityUnavailable, MissingToken, TokenExpired, TokenRevoked, Unauthenticated

MAX_TOKEN_CHARACTERS = 8192
REMEMBERED_TOKENS = 4096
Background = Callable[[], contextlib.AbstractAsyncContextManager[None]]


class Authenticator:
    """Tells who asks. ``background`` is what must run meanwhile: fetches, watches."""

    def __init__(
        self,
        issuers: Iterable[Issuer],
        api_keys: ApiKeys | None = None,
        revocations: Revocations | None = None,
        background: Iterable[Background] = (),
    ) -> None:
        self._issuers = {each.part.issuer: each for each in issuers}
        self._api_keys, self._revocations = api_keys, revocations or Revocations()
        self._background = tuple(background)
        self._verified: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps keys and lists fresh while the block runs."""
        async with contextlib.AsyncExitStack() as stack:
            for each in self._background:
                await stack.enter_async_context(each())
            yield

    async def authenticate(self, authorization: str | None, api_key: str | None = None) -> Principal:
        """The principal of an ``Authorization`` value, or of an ``X-API-Key`` value. Suspends only to fetch keys of an
        issuer. Raises :class:`Unauthenticated` and its kin, and :class:`IdentityUnavailable` while keys or revocations
        could not be read even once."""
        token = _credential(authorization, api_key)
        now = time.time()
        if token.startswith(PREFIX):
            if self._api_keys is None:
                raise Unauthenticated
            principal = self._api_keys.verify(token)
        else:
            digest = hashlib.sha256(token.encode("ascii")).digest()
            known = self._verified.get(digest)
            if known is None:
                known = await self._verify(token)
                self._remember(digest, known)
            principal, end = known
            if end <= now:
                self._verified.pop(digest, None)
                raise TokenExpired
        if self._revocations.unread:
            raise IdentityUnavailable
        if self._revocations.covers(principal, now):
            raise TokenRevoked
        return principal

    def not_ready(self) -> str | None:
        """Why nobody can be let in at all, if so."""
        if self._revocations.unread:
            return "the revocations have not been read yet"
        if any(each.keys.known for each in self._issuers.values()):
            return None
        if self._api_keys is not None and self._api_keys.first_expiry() is not None:
            return None
        return "no issuer's keys have been fetched yet, and there is no API key that counts"

    def forget(self) -> None:
        """Verify every token anew: keys have changed."""
        self._verified.clear()

    async def _verify(self, token: str) -> tuple[Principal, float]:
        """The issuer is the one that the token names; whether that is true, its keys tell."""
        try:
            unverified: dict[str, Any] = jwt.decode_complete(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError, TypeError):
            raise Unauthenticated from None
        named = unverified["payload"].get("iss")
        if named is None:
            raise Unauthenticated("the token lacks the claim 'iss'")
        issuer = self._issuers.get(named) if isinstance(named, str) else None
        if issuer is None:
            raise Unauthenticated("the token comes from another issuer (iss)")
        return await issuer.verify(token, unverified["header"])

    def _remember(self, digest: bytes, known: tuple[Principal, float]) -> None:
        """The oldest make room; a token that is in use is soon back."""
        self._verified[digest] = known
        while len(self._verified) > REMEMBERED_TOKENS:
            self._verified.popitem(last=False)


def _credential(authorization: str | None, api_key: str | None) -> str:
    """The one credential that was sent. Raises :class:`MissingToken` and :class:`Unauthenticated`."""
    if api_key is not None:
        if authorization is not None:
            raise Unauthenticated("send either Authorization or X-API-Key, not both")
        token = api_key.strip()
        if not token.startswith(PREFIX):
            raise Unauthenticated(f"X-API-Key takes keys that begin with {PREFIX}; send a token as Authorization")
    else:
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise MissingToken
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise Unauthenticated(f"the credential is longer than {MAX_TOKEN_CHARACTERS} characters")
    if not token.isascii():
        raise Unauthenticated
    return token
