"""Puts the gateway together. ``create_app`` and its lifespan are the whole dependency injection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from starlette.types import ASGIApp

from gateway.access import TokenVerifier
from gateway.edge import http, operations, problems
from gateway.edge.asking import Limits
from gateway.edge.middleware import Authentication, BodyLimit, RequestContext
from gateway.edge.plain import Endpoint, PlainRoutes, describe
from gateway.edge.schemas import GenerateBody
from gateway.generation import Generation
from gateway.policy.audit import AuditLog, AuditSettings
from gateway.policy.compiled import Policy, compile_policy, load_policy
from gateway.policy.config import PolicyFile
from gateway.policy.engine import PolicyEngine
from gateway.policy.moderators import Services
from gateway.policy.reload import watching
from gateway.settings import Settings
from gateway.telemetry import Telemetry
from gateway.traffic.admission import Admission
from gateway.traffic.drain import Drain
from gateway.triton import TritonClassifier, TritonClient


def create_app(settings: Settings, drain: Drain | None = None) -> ASGIApp:
    """The ASGI application; ``drain`` tells it that its end is near. Raises :class:`gateway.policy.errors.PolicyError`
    for a policy that cannot be used."""
    telemetry, drain = Telemetry(), drain or Drain()
    admission = Admission(settings.max_concurrent_requests)
    plain: dict[str, Endpoint] = {}
    classifier = TritonClassifier(settings.triton_url)
    services = Services(classifier, telemetry)
    in_force = _policy(settings, services)
    telemetry.policy_in_force(in_force.version)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        triton = TritonClient(settings.triton_url)
        drain.on_cut(triton.cut)
        audit = _audit(settings)
        policy = PolicyEngine(in_force, telemetry, audit, unrecorded_blocks=settings.audit_required)
        telemetry.audit_lost.set_function(lambda: audit.lost if audit is not None else 0)
        generation = Generation(
            triton,
            policy,
            admission,
            telemetry,
            default_model=settings.model,
            allow_special_tokens=settings.allow_special_tokens,
        )
        limits = Limits(settings.max_tokens, settings.request_timeout_seconds, settings.max_request_timeout_seconds)
        plain.update(http.generate_endpoints(generation, limits))
        http.describe_endpoints(app, plain)
        app.include_router(operations.routes(triton, settings.model, telemetry, drain))
        async with watching(settings.policy_file, settings.policy_reload_seconds, policy, telemetry, services):
            try:
                yield
            finally:
                await triton.close()
                await classifier.close()
                if audit is not None:
                    audit.close()

    verifier = TokenVerifier(
        key=settings.verification_key(),
        algorithm=settings.jwt_algorithm,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        leeway_seconds=settings.jwt_leeway_seconds,
    )
    app = FastAPI(title="tidegate", lifespan=lifespan, redirect_slashes=False)
    problems.install(app)
    describe(app, [GenerateBody])
    limited = BodyLimit(PlainRoutes(app, plain), settings.max_body_bytes)
    return RequestContext(Authentication(limited, verifier), telemetry, admission, drain)


def _policy(settings: Settings, services: Services) -> Policy:
    if settings.policy_file is None:  # development only: the settings refuse it in production
        return compile_policy(PolicyFile(version="none"), Path(), "none")
    return load_policy(settings.policy_file, services)


def _audit(settings: Settings) -> AuditLog | None:
    if settings.audit_file is None:
        return None
    return AuditLog(AuditSettings(settings.audit_file, settings.audit_max_bytes, settings.audit_max_files))
