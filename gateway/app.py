"""Puts the gateway together. ``create_app`` and its lifespan are the whole dependency injection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from pydantic import SecretStr, ValidationError
from starlette.types import ASGIApp

from gateway.access import AccessError, Authenticator
from gateway.access.build import Setup, build
from gateway.access.errors import first_problem
from gateway.access.issuers import IssuerPart, KeyPart, read_issuers
from gateway.edge import feedback as feedback_edge
from gateway.edge import http, openai, openai_models, openai_moderations, operations, problems
from gateway.edge.asking import Limits
from gateway.edge.metrics_port import serving_metrics
from gateway.edge.middleware import Arrival, Authentication, BodyLimit, RequestContext
from gateway.edge.openai_schemas import ChatBody, CompletionBody, ModerationBody
from gateway.edge.plain import Endpoint, PlainRoutes, describe
from gateway.edge.schemas import GenerateBody
from gateway.edge_grpc.calls import Limits as GrpcLimits
from gateway.edge_grpc.opening import opened
from gateway.edge_grpc.parts import Parts
from gateway.feedback import CommentFile, RatedAnswers, open_rated
from gateway.generation import Generation
from gateway.policy.audit import AuditLog, AuditSettings
from gateway.policy.compiled import Policy, compile_policy, load_policy
from gateway.policy.config import PolicyFile
from gateway.policy.engine import PolicyEngine
from gateway.policy.moderators import Services
from gateway.policy.reload import watching
from gateway.readiness import Readiness
from gateway.settings import Settings
from gateway.telemetry import Telemetry, sharing
from gateway.telemetry.prices import read_prices
from gateway.telemetry.tenants import Tenants
from gateway.tls import Certificate, ca_certificates
from gateway.tracing import open_tracer
from gateway.traffic.admission import Admission
from gateway.traffic.drain import Drain
from gateway.traffic.quotas import Quotas, open_quotas
from gateway.traffic.quotas import reload as quota_reload
from gateway.triton import TritonClassifier, TritonClient

LOGGER = logging.getLogger("tidegate")
LEASE_MARGIN_SECONDS = 60.0
"""No request is running so long after its deadline."""


def create_app(settings: Settings, drain: Drain | None = None, certificate: Certificate | None = None) -> ASGIApp:
    """The ASGI application, and the gRPC door beside it, with ``certificate`` if there is one; ``drain`` tells that the
    end is near. Raises :class:`gateway.policy.errors.PolicyError` for a policy that cannot be used,
    :class:`gateway.access.AccessError` for keys and lists, :class:`gateway.traffic.quotas.QuotaError` for quotas,
    :class:`gateway.tls.TlsError`, and :class:`gateway.telemetry.prices.PriceError`,
    :class:`gateway.feedback.FeedbackError` and :class:`gateway.tracing.TracingError` for theirs."""
    telemetry, drain = _telemetry(settings), drain or Drain()
    tracer = open_tracer(settings.tracing_endpoint, settings.tracing_sample_rate)
    comments = CommentFile(settings.feedback_file) if settings.feedback_file is not None else None
    triton_ca = _triton_ca(settings)
    admission = Admission(settings.max_concurrent_requests)
    limits, plain = _limits(settings), dict[str, Endpoint]()
    classifier = TritonClassifier(settings.triton_url, triton_ca)
    services = Services(classifier, telemetry)
    in_force = _policy(settings, services)
    telemetry.policy_in_force(in_force.version)
    quotas = _quotas(settings, telemetry)
    authenticator = _authenticator(settings, telemetry)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        triton = TritonClient(settings.triton_url, triton_ca)
        drain.on_cut(triton.cut)
        audit = _audit(settings, telemetry)
        rated = _rated(settings, telemetry)
        policy = PolicyEngine(
            in_force, telemetry, audit, unrecorded_blocks=settings.audit_required, records_text=settings.audit_text
        )
        generation = Generation(
            triton,
            policy,
            admission,
            quotas,
            telemetry,
            default_model=settings.model,
            allow_special_tokens=settings.allow_special_tokens,
            rated=rated,
        )
        plain.update(http.generate_endpoints(generation, limits))
        plain.update(openai.completion_endpoints(generation, limits))
        plain.update(openai_moderations.moderation_endpoints(policy, quotas, limits))
        if rated is not None:
            plain.update(feedback_edge.feedback_endpoints(rated, comments))
        _describe(app, plain)
        app.include_router(openai_models.model_routes(triton))
        parts = Parts(
            Readiness(drain, authenticator, triton, settings.model),
            generation,
            policy,
            authenticator,
            admission,
            quotas,
            telemetry,
            drain,
            limits=_grpc_limits(settings),
            tracer=tracer,
        )
        app.include_router(operations.routes(parts.readiness, None if settings.metrics_port else telemetry))
        seconds = settings.policy_reload_seconds
        async with (
            authenticator.running(),
            watching(settings.policy_file, seconds, policy, telemetry, services),
            quota_reload.watching(settings.quota_file, seconds, quotas, telemetry),
            _kept(certificate, telemetry),
            serving_metrics(
                settings.metrics_host or settings.host, settings.metrics_port, telemetry, shared=settings.workers > 1
            ),
        ):
            try:
                async with _grpc_door(settings, parts, certificate, triton_ca):
                    yield
            finally:
                for each in (triton, quotas, policy, classifier):
                    await each.close()
                if audit is not None:
                    audit.close()
                if rated is not None:
                    await rated.close()
                if tracer is not None:
                    await asyncio.to_thread(tracer.close)

    app = FastAPI(title="tidegate", lifespan=lifespan, redirect_slashes=False)
    problems.install(app)
    describe(app, [GenerateBody, ChatBody, CompletionBody, ModerationBody, feedback_edge.FeedbackBody])
    limited = BodyLimit(Arrival(PlainRoutes(app, plain), limits, admission, telemetry), settings.max_body_bytes)
    return RequestContext(Authentication(limited, authenticator), telemetry, admission, drain, tracer)


def _describe(app: FastAPI, plain: dict[str, Endpoint]) -> None:
    """Show the plain routes in the API's description."""
    http.describe_endpoints(app, plain)
    openai.describe_completions(app, plain)
    openai_moderations.describe_moderations(app, plain)
    if "/feedback" in plain:
        feedback_edge.describe_feedback(app, plain)


@asynccontextmanager
async def _grpc_door(
    settings: Settings, parts: Parts, certificate: Certificate | None, triton_ca: bytes | None
) -> AsyncIterator[None]:
    """The door of ``TIDEGATE_GRPC_PORT``, if one is set."""
    if not settings.grpc_port:
        yield
        return
    host = settings.grpc_host or settings.host
    async with opened(
        f"[{host}]:{settings.grpc_port}" if ":" in host else f"{host}:{settings.grpc_port}",
        parts,
        triton_url=settings.triton_url,
        triton_ca=triton_ca,
        text_tensors=settings.grpc_text_tensors,
        certificate=certificate,
        shared=settings.workers > 1,
    ):
        yield


def _limits(settings: Settings) -> Limits:
    return Limits(
        settings.max_tokens,
        settings.request_timeout_seconds,
        settings.max_request_timeout_seconds,
        settings.body_timeout_seconds,
    )


def _grpc_limits(settings: Settings) -> GrpcLimits:
    return GrpcLimits(
        text_bytes=settings.max_body_bytes,
        message_bytes=max(settings.grpc_max_message_bytes, settings.max_body_bytes),
        max_tokens=settings.max_tokens,
        timeout_seconds=settings.request_timeout_seconds,
        max_timeout_seconds=settings.max_request_timeout_seconds,
        requests_per_stream=settings.grpc_requests_per_stream,
        streams=settings.grpc_max_streams,
        connections=settings.max_connections,
    )


@asynccontextmanager
async def _kept(certificate: Certificate | None, telemetry: Telemetry) -> AsyncIterator[None]:
    """The doors' certificate renewed when its files change, and its end on ``/metrics``."""
    if certificate is None:
        yield
        return

    def show() -> None:
        telemetry.certificate_expiry.set(certificate.pair.expires_at)

    show()
    certificate.on_change(show)
    async with certificate.watched():
        yield


def _triton_ca(settings: Settings) -> bytes | None:
    path = settings.triton_tls_ca_file
    return None if path is None else ca_certificates("TIDEGATE_TRITON_TLS_CA_FILE", path)


def _policy(settings: Settings, services: Services) -> Policy:
    if settings.policy_file is None:  # development only: the settings refuse it in production
        return compile_policy(PolicyFile(version="none"), Path(), "none")
    return load_policy(settings.policy_file, services)


def _quotas(settings: Settings, telemetry: Telemetry) -> Quotas:
    return open_quotas(
        settings.quota_file,
        telemetry,
        lifetime_seconds=settings.max_request_timeout_seconds + LEASE_MARGIN_SECONDS,
        redis_url=settings.redis_address(),
        on_redis_failure=settings.quota_on_redis_failure,
        directory=settings.quota_directory,
        workers=settings.workers,
    )


def _telemetry(settings: Settings) -> Telemetry:
    shared = sharing.folder()
    tenants = Tenants(settings.metrics_tenants, None if shared is None else shared / sharing.TENANTS)
    return Telemetry(tenants, read_prices(settings.price_file))


def _rated(settings: Settings, telemetry: Telemetry) -> RatedAnswers | None:
    return open_rated(
        telemetry,
        seconds=settings.feedback_seconds,
        most=settings.feedback_answers,
        redis_url=settings.redis_address(),
        directory=settings.feedback_directory,
        workers=settings.workers,
    )


def _audit(settings: Settings, telemetry: Telemetry) -> AuditLog | None:
    if settings.audit_file is None:
        return None
    if settings.audit_text:
        LOGGER.warning("the record holds what is asked and answered: TIDEGATE_AUDIT_TEXT is set")
    where = AuditSettings(settings.audit_file, settings.audit_max_bytes, settings.audit_max_files)
    return AuditLog(where, telemetry.record_lost)


def _authenticator(settings: Settings, telemetry: Telemetry) -> Authenticator:
    issuers, folder, where = _issuers(settings)
    setup = Setup(
        issuers=issuers,
        folder=folder,
        where=where,
        api_keys_file=settings.api_keys_file,
        revocation_file=settings.revocation_file,
        redis_url=settings.redis_address(),
        look_seconds=settings.revocation_seconds,
        development=settings.environment == "development",
    )
    return build(setup, telemetry)


def _issuers(settings: Settings) -> tuple[list[IssuerPart], Path, str]:
    """Who may sign, the folder of their files, and the setting that says so."""
    if settings.issuers_file is not None:
        return read_issuers(settings.issuers_file).issuers, settings.issuers_file.parent, "TIDEGATE_ISSUERS_FILE"
    url = settings.jwt_jwks_url
    if url is None and not settings.has_key():
        return [], Path(), ""
    key = (
        KeyPart(algorithm=settings.jwt_algorithm, value=SecretStr(settings.verification_key())) if url is None else None
    )
    where = "TIDEGATE_JWT_KEY" if url is None else "TIDEGATE_JWT_JWKS_URL"
    try:
        part = IssuerPart(
            name="default",
            issuer=settings.jwt_issuer,
            audience=[settings.jwt_audience],
            keys=[] if key is None else [key],
            jwks_url=url,
            algorithms=[] if url is None else [settings.jwt_algorithm],
            leeway_seconds=settings.jwt_leeway_seconds,
            tenant_claim=settings.jwt_tenant_claim,
            tenant_required=settings.jwt_tenant_required,
            class_claim=settings.jwt_class_claim,
        )
    except ValidationError as error:
        raise AccessError(f"{where}: {first_problem(error, 'the issuer')}") from None
    return [part], Path(), where
