"""Errors in OpenAI's shape, for the paths of its surface. Codes are the gateway's own, the same on every surface."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from gateway.errors import GatewayError, PromptRejected

PREFIX = "/v1/"
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_STATUSES: dict[type[GatewayError], int] = {PromptRejected: 400}
"""Where OpenAI's clients expect another one: a 403 is for them a matter of keys."""
_PARAMS = {"json_schema": "response_format"}


def status_of(error: GatewayError) -> int:
    """The HTTP status."""
    return next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), error.http_status)


def openai_error(error: GatewayError, path: str) -> dict[str, Any]:
    """The body, as :class:`OpenAIErrorBody`."""
    status = status_of(error)
    kind = "server_error" if status >= 500 or status == 408 else _TYPES.get(status, "invalid_request_error")
    if isinstance(error, PromptRejected):
        kind = "content_policy_violation"
    param = error.field
    if param == "text_input":
        param = "messages" if path.startswith("/v1/chat/") else "prompt"
    param = _PARAMS.get(param, param) if param is not None else None
    return {"error": {"message": error.message, "type": kind, "param": param, "code": error.code}}


class OpenAIErrorDetail(BaseModel):
    """What went wrong. ``code`` is stable and the gateway's own; ``param`` names the field to change, where there is
    one. The request's id is in the header ``x-request-id``."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIErrorBody(BaseModel):
    """The one body of every error under /v1/."""

    error: OpenAIErrorDetail
