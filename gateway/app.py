"""Puts the gateway together. ``create_app`` and its lifespan are the whole dependency injection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from gateway.access import TokenVerifier
from gateway.edge import http, problems
from gateway.edge.middleware import Authentication, BodyLimit, RequestContext
from gateway.generation import Generation
from gateway.policy import WordPolicy, load_words
from gateway.settings import Settings
from gateway.telemetry import Telemetry
from gateway.triton import TritonClient


def create_app(settings: Settings) -> FastAPI:
    """The ASGI application. Raises :class:`gateway.policy.PolicyError` for a bad word file."""
    policy = load_words(settings.word_file) if settings.word_file else WordPolicy()
    telemetry = Telemetry()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        triton = TritonClient(settings.triton_url, settings.model)
        generation = Generation(
            triton,
            policy,
            telemetry,
            timeout_seconds=settings.request_timeout_seconds,
            allow_special_tokens=settings.allow_special_tokens,
        )
        app.include_router(http.generate_routes(generation, settings.max_tokens))
        app.include_router(http.operation_routes(triton, telemetry))
        try:
            yield
        finally:
            await triton.close()

    verifier = TokenVerifier(
        key=settings.verification_key(),
        algorithm=settings.jwt_algorithm,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        leeway_seconds=settings.jwt_leeway_seconds,
    )
    app = FastAPI(title="tidegate", lifespan=lifespan, redirect_slashes=False)
    problems.install(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(Authentication, verifier=verifier)
    app.add_middleware(RequestContext, telemetry=telemetry, max_concurrent_requests=settings.max_concurrent_requests)
    return app
