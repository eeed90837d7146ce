"""Opaque keys for tenants without an identity provider: ``tg_ID_SECRET``, in a file of JSON lines, hashed.

The secret has 256 random bits. SHA-256 is right for that: bcrypt and its kin slow down guessing where a secret can be
guessed, as a password can; nobody guesses 256 bits, and a slow hash would only be a way to keep the gateway busy.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from gateway.access.claims import NAME
from gateway.access.principal import Principal
from gateway.errors import TokenExpired, Unauthenticated

PREFIX = "tg_"
Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]


class ApiKeyLine(BaseModel):
    """A line of the file: the key's hash, who it is for, what it may do, when it ends."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    id: str = Field(pattern=r"^[0-9a-f]{16}$", description="Stands in the key, and can be revoked as a jti.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the whole key, in hexadecimal.")
    tenant: Name
    subject: Annotated[str, Field(pattern=r"^[\x20-\x7e]{1,255}$")]
    scopes: list[Annotated[str, Field(pattern=r"^\S{1,255}$")]]
    tenant_class: Annotated[str, Field(pattern=f"^({NAME.pattern})?$")] = ""
    expires: AwareDatetime


@dataclass(frozen=True)
class _Known:
    digest: bytes
    principal: Principal


class ApiKeys:
    """The keys in force."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._nobody = secrets.token_bytes(32)  # what an unknown id is compared with, so that it takes as long

    def replace(self, lines: Iterable[ApiKeyLine]) -> None:
        """These and no others."""
        self._known = {
            line.id: _Known(
                bytes.fromhex(line.sha256),
                Principal(
                    line.subject,
                    line.tenant,
                    frozenset(line.scopes),
                    line.expires.timestamp(),
                    line.id,
                    line.tenant_class,
                ),
            )
            for line in lines
        }

    def first_expiry(self) -> float | None:
        """When the first key that still counts ends, in seconds since the epoch; None if none does."""
        now = time.time()
        ends = [each.principal.expires_at for each in self._known.values()]
        return min((end for end in ends if end > now), default=None)

    def verify(self, key: str) -> Principal:
        """Whose key this is. Raises :class:`Unauthenticated`, the same for an unknown id and for a wrong secret, and
        :class:`TokenExpired`, which only the holder of the key can see."""
        known = self._known.get(key.removeprefix(PREFIX).partition("_")[0])
        digest = hashlib.sha256(key.encode("ascii")).digest()
        if not hmac.compare_digest(digest, self._nobody if known is None else known.digest) or known is None:
            raise Unauthenticated
        if known.principal.expires_at <= time.time():
            raise TokenExpired
        return known.principal


def new_key() -> tuple[str, str, str]:
    """A key, its id and its hash."""
    key_id = secrets.token_hex(8)
    key = f"{PREFIX}{key_id}_{secrets.token_urlsafe(32)}"
    return key, key_id, hashlib.sha256(key.encode("ascii")).hexdigest()


def written(line: ApiKeyLine) -> str:
    """The line as it stands in the file."""
    return json.dumps(line.model_dump(mode="json", exclude_defaults=True))
