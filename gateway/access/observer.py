"""Who counts what happens to keys and lists; :class:`gateway.telemetry.Telemetry` does."""

from __future__ import annotations

from typing import Literal, Protocol

Source = Literal["revocation_file", "revocation_redis", "api_keys"]


class AccessObserver(Protocol):
    """Told of every look, so that an alert can tell when the last good one was."""

    def jwks_fetched(self, issuer: str, ok: bool) -> None:
        """An issuer's key set was fetched; if not ``ok``, the last good one stays in force."""

    def jwks_refreshed_every(self, issuer: str, seconds: float) -> None:
        """How often an issuer's key set is to be fetched."""

    def list_read(self, source: Source, ok: bool) -> None:
        """A list was looked at and what it says is in force; if not ``ok``, what it said last."""

    def api_keys_expire(self, first: float | None) -> None:
        """When the first of the API keys in force expires, in seconds since the epoch; None if there are none."""
