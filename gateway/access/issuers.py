"""Who may sign tokens, as data: one YAML file. An error names file, line and field."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from gateway.access.errors import AccessError
from gateway.yaml_file import YamlFileError, read_yaml

Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$")]
Text = Annotated[str, Field(min_length=1, max_length=512)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class KeyPart(_Part):
    """One key, and the one algorithm that it is for."""

    algorithm: Algorithm
    file: str | None = Field(default=None, description="PEM public key, or HS secret; beside the issuers file.")
    value: SecretStr | None = Field(default=None, description="The same right here; for public keys.")
    kid: Text | None = Field(default=None, description="The `kid` of its tokens; without one it serves any `kid`.")

    @model_validator(mode="after")
    def _one_source(self) -> KeyPart:
        if (self.file is None) == (self.value is None):
            raise ValueError("give exactly one of file and value")
        return self


class IssuerPart(_Part):
    """One issuer of tokens."""

    name: Name = Field(description="Appears in metrics and log lines.")
    issuer: Text = Field(description="Required `iss`.")
    audience: list[Text] = Field(min_length=1, description="One of them must be in `aud`.")
    keys: list[KeyPart] = Field(default=[], description="Keys from files.")
    jwks_file: str | None = Field(default=None, description="A JSON Web Key Set, beside the issuers file.")
    jwks_url: str | None = Field(default=None, description="A JSON Web Key Set that is fetched; https.")
    algorithms: list[Algorithm] = Field(
        default=[], description="For keys of a set. A key that names none is for the first of these that it can do."
    )
    jwks_refresh_seconds: float = Field(default=300.0, ge=1, le=86_400, description="How often the set is fetched.")
    jwks_least_seconds: float = Field(
        default=10.0, ge=0.1, le=3600, description="Least time between two fetches, whatever tokens ask for."
    )
    jwks_timeout_seconds: float = Field(default=3.0, gt=0, le=30, description="Of one fetch, from first to last byte.")
    leeway_seconds: float = Field(default=5.0, ge=0, le=300, description="Clock difference that is tolerated.")
    required_claims: list[Text] = Field(default=[], description="Beside exp, aud, iss and sub.")
    tenant_claim: Text = Field(default="tenant", description="A claim's name, or a path: `org.tenant`.")
    tenant_required: bool = Field(default=True, description="Refuse a token without it; else the tenant is empty.")
    tenants: list[Text] | None = Field(default=None, description="The only tenants that this issuer may name.")
    class_claim: Text = Field(default="tenant_class", description="Names the tenant's quota and priority.")
    scope_claim: Text | None = Field(
        default=None, description="A string or list of scopes, instead of `scope` and `scopes`."
    )
    scopes: list[Text] | None = Field(default=None, description="All that its tokens can grant; others are ignored.")

    @model_validator(mode="after")
    def _keys_and_algorithms(self) -> IssuerPart:
        if (bool(self.keys), self.jwks_file is not None, self.jwks_url is not None).count(True) != 1:
            raise ValueError("give exactly one of keys, jwks_file and jwks_url")
        if bool(self.keys) == bool(self.algorithms):
            raise ValueError("algorithms is required with jwks_file or jwks_url; with keys it stands at each key")
        if self.jwks_url is not None:
            if any(each.startswith("HS") for each in self.algorithms):
                raise ValueError("a secret (HS256, HS384, HS512) is never fetched from a URL; give it as a file")
            if urlsplit(self.jwks_url).scheme not in ("http", "https") or not urlsplit(self.jwks_url).hostname:
                raise ValueError("jwks_url must be a URL: https://HOST/PATH")
        return self

    def accepts(self) -> frozenset[str]:
        """Every algorithm that a token of this issuer may name."""
        return frozenset([*self.algorithms, *(each.algorithm for each in self.keys)])


class IssuersFile(_Part):
    """The whole file."""

    issuers: list[IssuerPart] = Field(min_length=1)

    @model_validator(mode="after")
    def _once(self) -> IssuersFile:
        for what, values in (("name", [e.name for e in self.issuers]), ("issuer", [e.issuer for e in self.issuers])):
            if len(set(values)) < len(values):
                raise ValueError(f"two issuers have the same {what}")
        return self


def read_issuers(path: Path) -> IssuersFile:
    """Read and check the file. Raises :class:`AccessError`."""
    try:
        return read_yaml(path, IssuersFile)
    except YamlFileError as error:
        raise AccessError(f"TIDEGATE_ISSUERS_FILE: {error}") from None


def is_safe(url: str, *, development: bool) -> bool:
    """Whether keys may be fetched from here: over TLS, from this machine, or in development."""
    parts = urlsplit(url)
    if development or parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
