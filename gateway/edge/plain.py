"""The routes that models are asked through, served without FastAPI's plumbing and described by it.

FastAPI's routing, dependencies and response models cost more than everything else that the gateway does for a request.
So these endpoints take a plain request, read their own body with the very model that the description shows, and stand
before FastAPI, which serves all the rest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.sse import format_sse_event
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.edge.asking import unless_client_leaves
from gateway.edge.problems import from_validation, response_of
from gateway.errors import ClientClosed, GatewayError

Endpoint = Callable[[Request], Awaitable[Response]]
Body = TypeVar("Body", bound=BaseModel)
REFERENCE = "#/components/schemas/{model}"
EVENT_STREAM = "text/event-stream; charset=utf-8"


class PlainRoutes:
    """ASGI: ``POST`` to a path of ``endpoints`` goes there, everything else to ``app``."""

    def __init__(self, app: ASGIApp, endpoints: dict[str, Endpoint]) -> None:
        self._app, self._endpoints = app, endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        endpoint = None
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = self._endpoints.get(scope["path"])
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await endpoint(request)
        except GatewayError as error:
            response = response_of(error, request)
        await response(scope, receive, send)


async def read_body(request: Request, model: type[Body]) -> Body:
    """The body as ``model``; it is here (:class:`gateway.edge.middleware.Arrival`). Raises
    :class:`gateway.errors.GatewayError`."""
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False, include_input=False)) from None


def json_response(value: dict[str, Any]) -> Response:
    """200 with ``value``."""
    return Response(orjson.dumps(value), media_type="application/json")


def event(value: dict[str, Any], name: str | None = None) -> bytes:
    """A server-sent event with ``value`` as JSON."""
    return format_sse_event(data_str=orjson.dumps(value).decode(), event=name)


class EventStream(Response):
    """Server-sent events. ``events`` is closed when the client leaves."""

    def __init__(self, request: Request, events: AsyncIterator[bytes]) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"cache-control": "no-cache", "x-accel-buffering": "no"}
        )
        del self.headers["content-length"]
        self._request, self._events = request, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await unless_client_leaves(self._request, self._relay(send))
        except ClientClosed:
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _relay(self, send: Send) -> None:
        async for each in self._events:
            await send({"type": "http.response.body", "body": each, "more_body": True})


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """For ``openapi_extra``: a body of ``model``, and a bearer token or an API key."""
    schema = {"$ref": REFERENCE.format(model=model.__name__)}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {"security": [{"bearer": []}, {"api_key": []}], "requestBody": body}


def describe(app: FastAPI, bodies: list[type[BaseModel]]) -> None:
    """Let the description of ``app`` show ``bodies`` and the credentials."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            _, definitions = models_json_schema([(each, "validation") for each in bodies], ref_template=REFERENCE)
            components = schema.setdefault("components", {})
            components.setdefault("schemas", {}).update(definitions["$defs"])
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            }
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend its description
