"""Around every request: its id, its log line, its metrics, who asks, the limits on size and number. Pure ASGI; a
stream's content passes untouched."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from typing import Any

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access import Authenticator
from gateway.edge.asking import Limits
from gateway.edge.problems import respond
from gateway.errors import (
    BodyTooLarge,
    ClientClosed,
    GatewayError,
    InternalError,
    NotFound,
    RequestTimeout,
    ShuttingDown,
    TooManyRequests,
    Unauthenticated,
)
from gateway.telemetry import LOGGER, Telemetry
from gateway.tracing import RequestTrace, Tracer, stage
from gateway.traffic.admission import Admission
from gateway.traffic.drain import Drain

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
MEASURED = (
    "/generate",
    "/generate_stream",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/moderations",
    "/v1/models",
    "/feedback",
)
"""Paths that want to know who asks."""
INSTANT = ("/v1/moderations", "/v1/models", "/v1/models/{model}", "/feedback")
"""Those that ask no model: they say nothing of how fast one is."""


ROUTES = tuple(sorted({*MEASURED, *INSTANT}))


def route_of(path: str) -> str | None:
    """The route of a measured path, as metrics name it."""
    if path in MEASURED:
        return path
    return "/v1/models/{model}" if path.startswith("/v1/models/") else None


class RequestContext:
    """Gives a request its id (the client's ``X-Request-ID`` when it is harmless), counts, times and logs it, and gives
    its place among those in flight back. While there is none, it is refused before anything else."""

    def __init__(
        self, app: ASGIApp, telemetry: Telemetry, admission: Admission, drain: Drain, tracer: Tracer | None = None
    ) -> None:
        self._app, self._telemetry, self._admission, self._drain = app, telemetry, admission, drain
        self._tracer = tracer
        for route in ROUTES:
            telemetry.serves(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        state = scope.setdefault("state", {})
        state |= {"request_id": _request_id(scope), "accepted": began, "fields": {}, "headers": {}}
        route = route_of(scope["path"])
        state["trace"] = self._begin_trace(scope, route) if route is not None else None
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                ours = {"x-request-id": state["request_id"], **state["headers"]}
                added = [(name.lower().encode(), value.encode()) for name, value in ours.items()]
                message["headers"] = [*message["headers"], *added]
                if self._drain.draining:  # the next request goes to somebody who stays
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            if not scope["path"].isprintable():  # a pattern's `$` matches before a newline: no route may see one
                raise NotFound
            if route is not None:
                self._admission.require_room()
            await self._app(scope, receive, send_with_id)
        except (NotFound, TooManyRequests) as error:
            await respond(error, scope, receive, send_with_id)
        except asyncio.CancelledError:
            if status or not self._drain.draining:
                raise
            await respond(ShuttingDown(), scope, receive, send_with_id)  # the time of grace is over
        except Exception:  # noqa: BLE001 - the process edge: a defect becomes a 500 and a log line, not a dead connection
            LOGGER.exception("request failed", extra={"fields": {"request_id": state["request_id"]}})
            state["outcome"] = InternalError.code
            if not status:
                await respond(InternalError(), scope, receive, send_with_id)
        finally:
            if (place := state.get("place")) is not None:
                served = status == 200 and state.get("outcome", "ok") == "ok" and route not in INSTANT
                place.leave(served=served)
                self._telemetry.in_flight.dec()
            self._finish(scope, route or "other", status, time.monotonic() - began)

    def _begin_trace(self, scope: Scope, route: str) -> RequestTrace | None:
        if self._tracer is None:
            return None
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        attributes = {"http.request.method": scope["method"], "http.route": route}
        return self._tracer.begin(f"{scope['method']} {route}", attributes, headers)

    def _finish(self, scope: Scope, route: str, status: int, seconds: float) -> None:
        state = scope["state"]
        outcome = state.get("outcome", "ok" if 0 < status < 400 else "client_closed" if not status else "refused")
        trace: RequestTrace | None = state["trace"]
        if route != "other":
            self._telemetry.served(route, outcome, seconds, trace)
        if trace is not None:
            state["fields"]["trace_id"] = trace.trace_id
            status = status or ClientClosed.http_status
            failed = status >= 500 or (status == 200 and outcome not in ("ok", ClientClosed.code))
            trace.end(outcome, failed=failed, http_status=status)
        level = logging.DEBUG if route == "other" and status < 400 else logging.INFO
        if LOGGER.isEnabledFor(level):
            fields: dict[str, Any] = {
                "request_id": state["request_id"],
                "route": route,
                "method": scope["method"],
                "status": status or ClientClosed.http_status,
                "outcome": outcome,
                "seconds": round(seconds, 4),
                **state["fields"],
            }
            LOGGER.log(level, "request", extra={"fields": fields})


class Authentication:
    """Learns who asks before a byte of the body is read. The principal stands in the request's state."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app, self._authenticator = app, authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and route_of(scope["path"]) is not None:
            try:
                with stage(scope["state"]["trace"], "access"):
                    given, api_key = _only(scope, b"authorization"), _only(scope, b"x-api-key")
                    principal = await self._authenticator.authenticate(given, api_key)
            except GatewayError as error:
                await respond(error, scope, receive, send)
                return
            scope["state"]["principal"] = principal
            scope["state"]["fields"]["tenant"] = principal.tenant
        await self._app(scope, receive, send)


class Arrival:
    """Waits for the whole body of a measured request and takes a place among those in flight then, so that a slow
    sender holds up nobody else."""

    def __init__(self, app: ASGIApp, limits: Limits, admission: Admission, telemetry: Telemetry) -> None:
        self._app, self._limits, self._admission, self._telemetry = app, limits, admission, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or route_of(scope["path"]) is None:
            await self._app(scope, receive, send)
            return
        try:
            body: bytes | None = await self._body(scope, receive)
            scope["state"]["place"] = self._admission.enter()
            self._telemetry.in_flight.inc()
        except BodyTooLarge:
            raise
        except GatewayError as error:
            await respond(error, scope, receive, send)
            return

        async def arrived() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message, body = {"type": "http.request", "body": body, "more_body": False}, None
            return message

        await self._app(scope, arrived, send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Raises :class:`RequestTimeout`, :class:`ClientClosed`."""
        parts: list[bytes] = []
        seconds = self._limits.arrival(scope) - time.monotonic()
        try:
            with anyio.fail_after(seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientClosed
                    parts.append(message.get("body", b""))
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise RequestTimeout from None


class BodyLimit:
    """Refuses a body of more than ``max_bytes``, announced or not."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > self._max:
            await respond(self._refusal(), scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max:
                raise self._refusal()
            return message

        try:
            await self._app(scope, counted, send)
        except BodyTooLarge as error:
            await respond(error, scope, receive, send)

    def _refusal(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is larger than {self._max} bytes; send a shorter prompt")


def _only(scope: Scope, header: bytes) -> str | None:
    """The header's value. Raises :class:`Unauthenticated` if there are several: another door may have read another."""
    values = [value for name, value in scope["headers"] if name == header]
    if len(values) > 1:
        raise Unauthenticated(f"send one header '{header.decode()}', not several")
    return values[0].decode("latin-1") if values else None


def _request_id(scope: Scope) -> str:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
