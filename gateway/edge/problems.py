"""Errors as HTTP answers: one body, whoever raised; under /v1/ it has OpenAI's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import Receive, Scope, Send

from gateway.edge.openai_problems import PREFIX as OPENAI
from gateway.edge.openai_problems import openai_error, status_of
from gateway.errors import (
    GatewayError,
    InvalidField,
    InvalidJson,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PromptRejected,
    QuotaExceeded,
    Unauthenticated,
)

OWN_KEYS = ("metadata", "logit_bias")
"""Fields whose keys are what the client sends."""
MOST_CHARACTERS = 100


def error_body(error: GatewayError, request_id: str) -> dict[str, Any]:
    """The body, as :class:`gateway.edge.schemas.ErrorBody`."""
    detail = {"code": error.code, "message": error.message, "field": error.field, "request_id": request_id}
    if isinstance(error, PromptRejected) and error.policy is not None:
        return {"error": detail, "policy": error.policy}
    return {"error": detail}


def response_of(error: GatewayError, request: Request) -> JSONResponse:
    """The answer to a request that failed before its first byte."""
    headers = {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="tidegate"'
    if isinstance(error, QuotaExceeded):  # of the limit that refused, and not of what was given back meanwhile
        request.scope["state"]["headers"].update(error.headers)
    request.scope["state"]["outcome"] = error.code
    if request.scope["path"].startswith(OPENAI):
        return JSONResponse(openai_error(error, request.scope["path"]), status_of(error), headers)
    body = error_body(error, request.scope["state"]["request_id"])
    return JSONResponse(body, error.http_status, headers)


async def respond(error: GatewayError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer from a middleware."""
    await response_of(error, Request(scope))(scope, receive, send)


def install(app: FastAPI) -> None:
    """Answer every error of the app with the one body."""

    async def ours(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, GatewayError)  # noqa: S101 - registered for this class only
        return response_of(error, request)

    async def starlettes(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, StarletteHTTPException)  # noqa: S101 - registered for this class only
        response = response_of(_from_http_exception(error), request)
        response.headers.update(error.headers or {})  # a 405 says what is allowed
        return response

    async def pydantics(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class only
        return response_of(from_validation([{**each, "loc": each["loc"][1:]} for each in error.errors()]), request)

    app.add_exception_handler(GatewayError, ours)
    app.add_exception_handler(StarletteHTTPException, starlettes)
    app.add_exception_handler(RequestValidationError, pydantics)


def _from_http_exception(error: StarletteHTTPException) -> GatewayError:
    known: dict[int, type[GatewayError]] = {404: NotFound, 405: MethodNotAllowed}
    return known.get(error.status_code, InvalidRequest)(
        None if error.status_code in known else "the body cannot be read"
    )


def from_validation(errors: Sequence[Mapping[str, Any]]) -> GatewayError:
    """The first of pydantic's ``errors``. Its message names the limit and never the value that was sent."""
    first = _telling(errors)
    if first["type"] == "json_invalid":
        return InvalidJson(f"the body is not JSON: {(first.get('ctx') or {}).get('error', 'malformed')}")
    if not first["loc"] and first["type"] in ("missing", "model_attributes_type", "model_type", "dict_type"):
        return InvalidField("the body must be a JSON object; /docs shows its fields")
    field, reason = _field(first["loc"]), _reason(first)
    name, colon, _ = reason.partition(": ")
    if field is None and colon and name.isidentifier():  # what is said of several fields begins with one of them
        return InvalidField(reason, field=name)
    return InvalidField(f"{field or 'body'}: {reason}", field=field)


def _telling(errors: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The first; of one about a text or a list, the one about what was sent."""
    about = [each for each in errors if each["loc"][:1] == errors[0]["loc"][:1]]
    return next((each for each in about if each["type"] not in ("string_type", "list_type")), errors[0])


def _field(place: Sequence[str | int]) -> str | None:
    """The field as the client knows it: without a union's branches ("stop", "constrained-str"), and without keys that
    are the client's own."""
    path = [str(part) for part in place]
    if path[:1] == ["response_format"]:
        del path[1:2]
    if path and path[0] in OWN_KEYS:
        del path[1:]
    return ".".join(part for part in path if part.isdigit() or part.isidentifier())[:MOST_CHARACTERS] or None


def _reason(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "is not a field of this request"
    if error["type"] == "union_tag_invalid":
        return f"its type must be one of {error['ctx']['expected_tags']}"
    if error["type"] == "union_tag_not_found":
        return "must be an object with a type"
    return str(error["msg"]).removeprefix("Value error, ")
