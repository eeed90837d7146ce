"""One issuer of tokens: its keys, and what it says of a token's bearer."""

from __future__ import annotations

from typing import Any, Protocol

import jwt

from gateway.access.claims import principal_of
from gateway.access.issuers import IssuerPart
from gateway.access.keys import Key, KeySet
from gateway.access.principal import Principal
from gateway.errors import TokenExpired, Unauthenticated

MAX_KID = 256
REQUIRED_CLAIMS = ("exp", "aud", "iss", "sub")


class Keys(Protocol):
    """Where an issuer's keys come from."""

    @property
    def known(self) -> bool:
        """Whether there are any yet."""

    async def find(self, kid: str | None, algorithm: str, unfit: Key | None = None) -> Key | None:
        """The one key for such a token, if there is one; ``unfit`` has been found before, and is not it. Suspends only
        to fetch; raises IdentityUnavailable if no key could ever be fetched."""


class FixedKeys:
    """Keys from settings or files."""

    known = True

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys

    async def find(self, kid: str | None, algorithm: str, unfit: Key | None = None) -> Key | None:
        """The one key for such a token, if there is one."""
        return self._keys.find(kid, algorithm) if unfit is None else None


class Issuer:
    """Checks the tokens of one issuer against its keys."""

    def __init__(self, part: IssuerPart, keys: Keys) -> None:
        self.part, self.keys = part, keys
        self._accepts = part.accepts()
        self._required = [*REQUIRED_CLAIMS, *part.required_claims]

    async def verify(self, token: str, header: dict[str, Any]) -> tuple[Principal, float]:
        """The principal, and the second until which the token counts, leeway included. Of the header only ``alg`` and
        ``kid`` are read: a key or a URL that a token brings along (jwk, jku, x5u, x5c) is nothing to go by.
        Raises :class:`Unauthenticated` and its kin, and what :meth:`Keys.find` raises."""
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._accepts:
            raise Unauthenticated
        if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KID):
            raise Unauthenticated
        principal = principal_of(await self._signed(token, kid, algorithm), self.part)
        return principal, principal.expires_at + self.part.leeway_seconds

    async def _signed(self, token: str, kid: str | None, algorithm: str) -> dict[str, Any]:
        """The claims, checked with the one key for them. One that was found without a ``kid`` may have been rotated."""
        key = await self.keys.find(kid, algorithm)
        while key is not None:
            try:
                return self._claims(token, key)
            except jwt.InvalidSignatureError:
                named = kid is not None and kid == key.kid
                key = None if named else await self.keys.find(kid, algorithm, unfit=key)
        raise Unauthenticated

    def _claims(self, token: str, key: Key) -> dict[str, Any]:
        """Raises jwt's InvalidSignatureError where another key might do."""
        try:
            return jwt.decode(
                token,
                key.jwk,
                algorithms=[key.algorithm],
                audience=self.part.audience,
                issuer=self.part.issuer,
                leeway=self.part.leeway_seconds,
                options={"require": self._required},
            )
        except jwt.InvalidSignatureError:
            raise
        except jwt.ExpiredSignatureError:
            raise TokenExpired from None
        except jwt.ImmatureSignatureError:
            raise Unauthenticated("the token is not valid yet (nbf, iat); compare the clocks") from None
        except jwt.InvalidAudienceError:
            raise Unauthenticated("the token is not meant for this service (aud)") from None
        except jwt.InvalidIssuerError:
            raise Unauthenticated("the token comes from another issuer (iss)") from None
        except jwt.MissingRequiredClaimError as error:
            raise Unauthenticated(f"the token lacks the claim '{error.claim}'") from None
        except (jwt.PyJWTError, ValueError, TypeError):
            raise Unauthenticated from None
