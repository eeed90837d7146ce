"""Who asks, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.errors import Forbidden

GENERATE: Final = "generate"
MODELS_READ: Final = "models:read"
MODERATE: Final = "moderate"
ADMIN: Final = "admin"
UNPROVEN: Final = ".candidate"
"""How the name ends under which a rollout loads a version to prove it."""


@dataclass(frozen=True)
class Principal:
    """Who a credential names. ``expires_at`` is in seconds since the epoch; ``token_id`` is a token's ``jti`` or an API
    key's id, empty if there is none; ``tenant_class`` names the tenant's quota and priority, empty for the default.

    ``tenant`` and ``tenant_class`` are short and plain enough for a log field (:data:`gateway.access.claims.NAME`).
    """

    subject: str
    tenant: str
    scopes: frozenset[str]
    expires_at: float
    token_id: str = ""
    tenant_class: str = ""

    def may(self, scope: str, model: str | None = None) -> bool:
        """Whether the scope is granted: for every model as ``scope``, for one as ``scope:MODEL``. A version that is
        being proven is no model for everybody: it has to be named."""
        if model is None:
            return scope in self.scopes
        return f"{scope}:{model}" in self.scopes or (scope in self.scopes and not model.endswith(UNPROVEN))

    def require(self, scope: str, model: str | None = None) -> None:
        """Raises :class:`Forbidden` when the scope is not granted (for ``model``, where one is named)."""
        if not self.may(scope, model):
            where = "" if model is None else " for this model"
            raise Forbidden(f"the token does not carry the scope '{scope}'{where}")
