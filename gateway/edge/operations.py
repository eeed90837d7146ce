"""Health and metrics: for the platform, without a token."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from gateway.telemetry import Telemetry
from gateway.traffic.drain import Drain
from gateway.triton import TritonClient


def routes(triton: TritonClient, model: str, telemetry: Telemetry, drain: Drain) -> APIRouter:
    """``/health/live``, ``/health/ready`` and ``/metrics``."""
    router = APIRouter(tags=["operations"])

    @router.get("/health/live")
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "live"}

    @router.get("/health/ready", responses={503: {}})
    async def ready() -> JSONResponse:
        """Triton can be reached and has the model ready, and this gateway is not about to stop."""
        reason = "this gateway is shutting down" if drain.draining else await triton.not_ready(model)
        if reason is not None:
            return JSONResponse({"status": "not ready", "reason": reason}, 503)
        return JSONResponse({"status": "ready"})

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus text format."""
        return Response(telemetry.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
