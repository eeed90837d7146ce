"""Health and metrics: for the platform, without a token."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from gateway.readiness import Readiness
from gateway.telemetry import Telemetry


def routes(readiness: Readiness, telemetry: Telemetry | None) -> APIRouter:
    """``/health/live``, ``/health/ready``, and ``/metrics`` unless ``telemetry`` has a port of its own (None)."""
    router = APIRouter(tags=["operations"])

    @router.get("/health/live")
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "live"}

    @router.get("/health/ready", responses={503: {}})
    async def ready() -> JSONResponse:
        """Triton can be reached and has the model ready, people can be let in, and this gateway is not about to
        stop."""
        reason = await readiness.missing()
        if reason is not None:
            return JSONResponse({"status": "not ready", "reason": reason}, 503)
        return JSONResponse({"status": "ready"})

    if telemetry is None:
        return router

    @router.get("/metrics", response_class=Response)
    def metrics(request: Request) -> Response:
        """Prometheus text format, or OpenMetrics with exemplars if `Accept` asks for it. In a thread, so that a stream
        need not wait for it."""
        content, media_type = telemetry.exposition(request.headers.get("accept", ""))
        return Response(content, media_type=media_type)

    return router
