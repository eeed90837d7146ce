"""Every setting, read once from the environment (``TIDEGATE_…``) and checked before anything starts.

Only ``app`` and ``__main__`` know this module; beneath them settings are plain arguments.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

HMAC_KEY_BYTES = 32
WEAK_KEYS = frozenset({"secret", "changeme", "password", "development"})
Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]


def _redis_address(url: SecretStr | None, file: Path | None) -> str | None:
    if file is None:
        return None if url is None else url.get_secret_value()
    try:
        found = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ValueError(f"TIDEGATE_REDIS_URL_FILE cannot be read: {error.strerror}") from None
    if not found:
        raise ValueError("TIDEGATE_REDIS_URL_FILE is empty: it must hold the URL of Redis")
    return found


class RedisSettings(BaseSettings):
    """What a command needs that only speaks with Redis. No argument: everybody can read a command line."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_", extra="ignore", hide_input_in_errors=True)

    redis_url: SecretStr | None = None
    redis_url_file: Path | None = None

    @model_validator(mode="after")
    def _check(self) -> RedisSettings:
        self.redis_address()
        return self

    def redis_address(self) -> str | None:
        """See :meth:`Settings.redis_address`."""
        return _redis_address(self.redis_url, self.redis_url_file)


class Settings(BaseSettings):
    """The gateway's settings. Raises pydantic's ``ValidationError`` naming the setting."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_", extra="ignore", hide_input_in_errors=True)

    environment: Literal["production", "development"] = Field(
        "production", description="development allows weak keys and `python -m gateway token`"
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=1, le=65535, description="port to listen on")
    grpc_port: int = Field(0, ge=0, le=65535, description="port of the gRPC door (docs/grpc.md); 0 is none")
    grpc_host: str | None = Field(None, description="address of the gRPC door, if not that of the HTTP one")
    grpc_max_message_bytes: int = Field(
        64 << 20, ge=1, description="largest message of a model that is not text; for text max_body_bytes counts"
    )
    grpc_max_streams: int = Field(
        1024, ge=1, description="ModelStreamInfer streams of one worker, idle ones too; half for one tenant"
    )
    grpc_requests_per_stream: int = Field(16, ge=1, description="requests of one stream that are answered at once")
    grpc_text_tensors: dict[str, list[str]] = Field(
        {},
        description="JSON: for a model, the only tensors of its that are text; `[]` is none. Elsewhere all BYTES are",
    )
    metrics_port: int = Field(
        0, ge=0, le=65535, description="port of `/metrics` alone, without TLS; 0 leaves it on the HTTP port"
    )
    metrics_host: str | None = Field(None, description="address of that port, if not that of the HTTP one")
    tls_cert_file: Path | None = Field(
        None, description="certificate chain (PEM) of both doors; read again when it changes"
    )
    tls_key_file: Path | None = Field(None, description="its private key (PEM)")
    tls_client_ca_file: Path | None = Field(
        None, description="clients must show a certificate from one of these (PEM), on both doors"
    )
    workers: int = Field(1, ge=1, le=64, description="processes that answer on the one port")
    triton_url: str = Field(
        "127.0.0.1:8001",
        description="host:port of Triton's gRPC endpoint; calls take turns over every address of the name",
    )
    triton_tls_ca_file: Path | None = Field(
        None, description="speak TLS to Triton, whose certificate must come from one of these (PEM)"
    )
    model: str = Field("generate", min_length=1, description="name of the model in Triton")
    jwt_algorithm: Algorithm = Field("HS256", description="the one algorithm that tokens may use")
    jwt_key: SecretStr | None = Field(None, description="secret of at least 32 bytes (HS…), or public key (PEM)")
    jwt_key_file: Path | None = Field(None, description="file that holds the key, instead of jwt_key")
    jwt_jwks_url: str | None = Field(None, description="JSON Web Key Set to fetch keys from, instead of jwt_key")
    jwt_audience: str = Field("tidegate", min_length=1, description="required `aud` of a token")
    jwt_issuer: str = Field("tidegate", min_length=1, description="required `iss` of a token")
    jwt_leeway_seconds: int = Field(5, ge=0, le=300, description="clock difference that is tolerated")
    jwt_tenant_claim: str = Field("tenant", min_length=1, description="claim that names the tenant; a path: `org.id`")
    jwt_tenant_required: bool = Field(True, description="refuse tokens without a tenant; else theirs is empty")
    jwt_class_claim: str = Field("tenant_class", min_length=1, description="claim that names the tenant's class")
    issuers_file: Path | None = Field(None, description="several issuers (docs/access.md), instead of jwt_…")
    api_keys_file: Path | None = Field(None, description="opaque API keys, hashed (docs/access.md)")
    revocation_file: Path | None = Field(None, description="revoked tokens, subjects, tenants (docs/access.md)")
    revocation_seconds: float = Field(1.0, ge=0.1, le=4, description="how often revocations and API keys are looked at")
    redis_url: SecretStr | None = Field(None, description="Redis for what replicas share: redis://, rediss://, unix://")
    redis_url_file: Path | None = Field(None, description="file that holds it, instead of redis_url")
    policy_file: Path | None = Field(None, description="the policy (docs/policy.md); required in production")
    policy_reload_seconds: float = Field(
        2.0, ge=0, le=3600, description="how often its files, and that of the quotas, are looked at; 0 is never"
    )
    quota_file: Path | None = Field(None, description="what tenants may use (docs/quotas.md); without it, anything")
    quota_directory: Path | None = Field(
        None, description="folder for what they have used: shared by this host's workers, kept over restarts"
    )
    quota_on_redis_failure: Literal["local", "refuse"] = Field(
        "local", description="while Redis is away: each host counts alone, or requests are refused (503)"
    )
    audit_file: Path | None = Field(None, description="the record of every policy decision (docs/policy.md)")
    audit_max_bytes: int = Field(64 << 20, ge=4096, description="of one file of the record, before it is rotated")
    audit_max_files: int = Field(8, ge=1, le=1000, description="rotated files that are kept")
    audit_required: bool = Field(True, description="refuse what cannot be recorded")
    audit_text: bool = Field(False, description="record what is asked and answered too, as it was written")
    metrics_tenants: int = Field(
        100, ge=0, le=10_000, description="tenants that are counted by name (docs/metrics.md); the rest is `other`"
    )
    price_file: Path | None = Field(None, description="what tokens cost (docs/metrics.md); without it, nothing")
    tracing_endpoint: str | None = Field(
        None, description="OpenTelemetry collector for traces, OTLP over HTTP (docs/tracing.md); off without it"
    )
    tracing_sample_rate: float = Field(0.1, ge=0, le=1, description="share of traces that begin here; others bring it")
    feedback_seconds: float = Field(
        86_400.0, ge=0, le=2_592_000, description="how long an answer may be rated (docs/feedback.md); 0 is off"
    )
    feedback_answers: int = Field(100_000, ge=1, description="answers that are remembered for it, without Redis")
    feedback_directory: Path | None = Field(
        None, description="folder for them: shared by this host's workers, kept over restarts"
    )
    feedback_file: Path | None = Field(None, description="scores and comments as JSON lines; without it, no comments")
    allow_special_tokens: bool = Field(False, description="let text_input carry the model's special tokens")
    max_body_bytes: int = Field(1_000_000, ge=1, description="largest request body")
    max_header_bytes: int = Field(32_768, ge=1024, description="largest head of a request")
    header_timeout_seconds: float = Field(10.0, gt=0, description="time for a request's head to arrive")
    body_timeout_seconds: float = Field(
        30.0, gt=0, description="time for its body to arrive, if the request's own is not shorter"
    )
    max_connections: int = Field(4096, ge=1, description="connections of one worker, for each door")
    max_tokens: int = Field(4096, ge=1, description="largest max_tokens a request may ask for")
    max_concurrent_requests: int = Field(128, ge=1, description="requests in flight in one worker; beyond them 429")
    request_timeout_seconds: float = Field(
        120.0, gt=0, description="a request's time, from acceptance to last byte, unless it says otherwise"
    )
    max_request_timeout_seconds: float = Field(600.0, gt=0, description="most time that a request may ask for")
    shutdown_delay_seconds: float = Field(
        0.0, ge=0, description="after SIGTERM: not ready but still serving, for the load balancer to notice"
    )
    shutdown_grace_seconds: int = Field(10, ge=0, description="then: time for running requests to end")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")

    @model_validator(mode="after")
    def _check_identity(self) -> Settings:
        ways = {
            "TIDEGATE_JWT_KEY": self.has_key(),
            "TIDEGATE_JWT_JWKS_URL": self.jwt_jwks_url is not None,
            "TIDEGATE_ISSUERS_FILE": self.issuers_file is not None,
        }
        given = [name for name, there in ways.items() if there]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are set: give one of them; an issuers file can hold all of it")
        if not given and self.api_keys_file is None:
            raise ValueError(f"nobody could be let in: set one of {', '.join(ways)} and TIDEGATE_API_KEYS_FILE")
        if self.has_key():
            self._check_key()
        if self.environment == "production" and self.policy_file is None:
            raise ValueError("TIDEGATE_POLICY_FILE is not set: production does not start without a policy")
        self.redis_address()
        return self

    def _check_key(self) -> None:
        key = self.verification_key()
        if not self.jwt_algorithm.startswith("HS"):
            if "PUBLIC KEY" not in key:
                raise ValueError(f"TIDEGATE_JWT_KEY must be a PEM public key for {self.jwt_algorithm}")
        elif self.environment == "production" and (len(key.encode()) < HMAC_KEY_BYTES or key.lower() in WEAK_KEYS):
            raise ValueError(
                f"TIDEGATE_JWT_KEY is too weak: HS256 needs at least {HMAC_KEY_BYTES} random bytes "
                "(openssl rand -hex 32), or set TIDEGATE_ENVIRONMENT=development"
            )

    def redis_address(self) -> str | None:
        """The URL of Redis, None without one. Raises ValueError naming the setting when its file cannot be read."""
        return _redis_address(self.redis_url, self.redis_url_file)

    def has_key(self) -> bool:
        """Whether one key for all tokens is configured."""
        return self.jwt_key is not None or self.jwt_key_file is not None

    @model_validator(mode="after")
    def _check_tls(self) -> Settings:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("TIDEGATE_TLS_CERT_FILE and TIDEGATE_TLS_KEY_FILE are set together or not at all")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise ValueError("TIDEGATE_TLS_CLIENT_CA_FILE needs TIDEGATE_TLS_CERT_FILE and TIDEGATE_TLS_KEY_FILE")
        return self

    def verification_key(self) -> str:
        """The key's text. Raises ValueError naming the setting when there is none or its file cannot be read."""
        if self.jwt_key_file is not None:
            try:
                key = self.jwt_key_file.read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ValueError(f"TIDEGATE_JWT_KEY_FILE cannot be read: {error.strerror}") from None
        else:
            key = self.jwt_key.get_secret_value().strip() if self.jwt_key else ""
        if not key:
            raise ValueError("TIDEGATE_JWT_KEY or TIDEGATE_JWT_KEY_FILE must hold the key that tokens are checked with")
        return key


class DefaultSettings(Settings):
    """What nobody has set: the environment does not count. For the page that describes the API."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, and nothing else."""
        return (init_settings,)
