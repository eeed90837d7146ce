"""Who asks: a JWT becomes a principal, or is refused.

The algorithm is fixed by configuration and never taken from the token. A verified token is remembered until it
expires, by the hash of its text, since checking a signature costs more than the rest of the admission.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import jwt

from gateway.errors import Forbidden, MissingToken, TokenExpired, Unauthenticated

MAX_TOKEN_CHARACTERS = 8192
REMEMBERED_TOKENS = 4096
REQUIRED_CLAIMS = ["exp", "aud", "iss", "sub"]


@dataclass(frozen=True)
class Principal:
    """Who the token names, and what they may do. ``expires_at`` is in seconds since the epoch."""

    subject: str
    tenant: str
    scopes: frozenset[str]
    expires_at: float
    tenant_class: str = ""

    def require(self, scope: str) -> None:
        """Raises :class:`Forbidden` when the scope is not granted."""
        if scope not in self.scopes:
            raise Forbidden(f"the token does not carry the scope '{scope}'")


class TokenVerifier:
    """Checks bearer tokens against one key."""

    def __init__(self, *, key: str, algorithm: str, audience: str, issuer: str, leeway_seconds: int) -> None:
        self._key, self._algorithm = key, algorithm
        self._audience, self._issuer, self._leeway = audience, issuer, leeway_seconds
        self._verified: OrderedDict[bytes, Principal] = OrderedDict()

    def authenticate(self, authorization: str | None) -> Principal:
        """The principal of an ``Authorization`` header. Raises :class:`Unauthenticated` and its kin."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise MissingToken
        token = token.strip()
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise Unauthenticated(f"the bearer token is longer than {MAX_TOKEN_CHARACTERS} characters")
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        known = self._verified.get(digest)
        if known is None:
            known = self._verify(token)
            self._remember(digest, known)
        if known.expires_at + self._leeway <= time.time():
            raise TokenExpired
        return known

    def _verify(self, token: str) -> Principal:
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[self._algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway,
                options={"require": REQUIRED_CLAIMS},
            )
        except jwt.ExpiredSignatureError:
            raise TokenExpired from None
        except jwt.InvalidAudienceError:
            raise Unauthenticated("the token is not meant for this service (aud)") from None
        except jwt.InvalidIssuerError:
            raise Unauthenticated("the token comes from another issuer (iss)") from None
        except jwt.MissingRequiredClaimError as error:
            raise Unauthenticated(f"the token lacks the claim '{error.claim}'") from None
        except (jwt.InvalidTokenError, ValueError):
            raise Unauthenticated from None
        return _principal(claims)

    def _remember(self, digest: bytes, principal: Principal) -> None:
        self._verified[digest] = principal
        while len(self._verified) > REMEMBERED_TOKENS:
            self._verified.popitem(last=False)


def _principal(claims: dict[str, Any]) -> Principal:
    """Scopes come as OAuth's space-separated ``scope`` or as a list in ``scopes``."""
    scope, scopes = claims.get("scope", ""), claims.get("scopes", [])
    if not isinstance(scope, str) or not isinstance(scopes, list):
        raise Unauthenticated("the token's scope must be a string, its scopes a list")
    granted = frozenset(scope.split()) | {each for each in scopes if isinstance(each, str)}
    return Principal(str(claims["sub"]), str(claims.get("tenant", "")), granted, float(claims["exp"]))


def mint(key: str, *, audience: str, issuer: str, subject: str, tenant: str, scope: str, lifetime_seconds: int) -> str:
    """A development token, HS256."""
    now = int(time.time())
    claims = {"sub": subject, "tenant": tenant, "scope": scope, "aud": audience, "iss": issuer}
    return jwt.encode({**claims, "iat": now, "exp": now + lifetime_seconds}, key, algorithm="HS256")
