"""The claims of a verified token become a principal. Whatever could reach a log line or a label is bounded here."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import jwt

from gateway.access.issuers import IssuerPart
from gateway.access.principal import Principal
from gateway.errors import Unauthenticated

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}")
NAME_RULE = "1 to 128 letters, digits and . _ : @ / + -, the first a letter or digit"
MAX_TEXT = 255
LAST_SECOND = 253_402_300_799  # of the year 9999


def principal_of(claims: Mapping[str, Any], part: IssuerPart) -> Principal:
    """Raises :class:`Unauthenticated` for a claim that is not what it should be."""
    tenant = _name(claimed(claims, part.tenant_claim), "tenant")
    if not tenant and part.tenant_required:
        raise Unauthenticated("the token names no tenant")
    if part.tenants is not None and tenant not in part.tenants:
        raise Unauthenticated("the token names a tenant that its issuer may not speak for")
    return Principal(
        subject=_text(claims["sub"], "sub", least=1),
        tenant=tenant,
        scopes=_scopes(claims, part),
        expires_at=_seconds(claims),
        token_id=_text(claims.get("jti", ""), "jti"),
        tenant_class=_name(claimed(claims, part.class_claim), "tenant class"),
    )


def claimed(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of this name (names may be URLs, so one that is there as it stands comes first), or the one that a
    dotted path leads to; None if there is none."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _name(value: Any, what: str) -> str:
    if value is None or value == "":
        return ""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not NAME.fullmatch(text):
        raise Unauthenticated(f"the token's {what} must be {NAME_RULE}")
    return text


def _text(value: Any, claim: str, *, least: int = 0) -> str:
    if not isinstance(value, str) or not least <= len(value) <= MAX_TEXT or not value.isprintable():
        raise Unauthenticated(f"the token's {claim} must be {least} to {MAX_TEXT} printable characters")
    return value


def _seconds(claims: Mapping[str, Any]) -> float:
    """PyJWT takes strings for the three times too; RFC 7519 does not."""
    for claim in ("exp", "nbf", "iat"):
        value = claims.get(claim, 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LAST_SECOND:
            raise Unauthenticated(f"the token's {claim} must be seconds since the epoch")
    return float(int(claims["exp"]))


def _scopes(claims: Mapping[str, Any], part: IssuerPart) -> frozenset[str]:
    """OAuth's space-separated ``scope`` and a list in ``scopes``, or what the configured claim holds, either way."""
    if part.scope_claim is not None:
        found = claimed(claims, part.scope_claim)
        granted = found.split() if isinstance(found, str) else found or []
    else:
        scope, granted = claims.get("scope", ""), claims.get("scopes", [])
        if not isinstance(scope, str) or not isinstance(granted, list):
            raise Unauthenticated("the token's scope must be a string, its scopes a list")
        granted = [*scope.split(), *granted]
    if not isinstance(granted, list) or not all(isinstance(each, str) for each in granted):
        raise Unauthenticated("the token's scopes must be a string or a list of strings")
    most = part.scopes
    return frozenset(each for each in granted if most is None or each in most or each.partition(":")[0] in most)


def mint(key: str, *, audience: str, issuer: str, subject: str, tenant: str, scope: str, lifetime_seconds: int) -> str:
    """A development token, HS256."""
    now = int(time.time())
    claims = {"sub": subject, "tenant": tenant, "scope": scope, "aud": audience, "iss": issuer}
    return jwt.encode({**claims, "iat": now, "exp": now + lifetime_seconds}, key, algorithm="HS256")
