"""What Triton says when it fails, translated once into the gateway's errors."""

from __future__ import annotations

import grpc

from gateway.errors import (
    DeadlineExceeded,
    GatewayError,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    Overloaded,
    PromptTooLong,
    TritonUnavailable,
    UpstreamError,
)

BY_STATUS: dict[grpc.StatusCode, type[GatewayError]] = {
    grpc.StatusCode.OK: UpstreamError,
    grpc.StatusCode.CANCELLED: UpstreamError,
    grpc.StatusCode.UNKNOWN: UpstreamError,
    grpc.StatusCode.INVALID_ARGUMENT: UpstreamError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: TritonUnavailable,
    grpc.StatusCode.ALREADY_EXISTS: UpstreamError,
    grpc.StatusCode.PERMISSION_DENIED: UpstreamError,
    grpc.StatusCode.UNAUTHENTICATED: UpstreamError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.FAILED_PRECONDITION: UpstreamError,
    grpc.StatusCode.ABORTED: UpstreamError,
    grpc.StatusCode.OUT_OF_RANGE: UpstreamError,
    grpc.StatusCode.UNIMPLEMENTED: UpstreamError,
    grpc.StatusCode.INTERNAL: UpstreamError,
    grpc.StatusCode.UNAVAILABLE: TritonUnavailable,
    grpc.StatusCode.DATA_LOSS: UpstreamError,
}
# An error inside a stream is text only. The backend's own errors begin with their code; the rest is Triton's wording.
BY_TEXT: tuple[tuple[str, type[GatewayError]], ...] = (
    ("Exceeds maximum queue size", Overloaded),
    ("Request timeout expired", DeadlineExceeded),
    ("is not ready", TritonUnavailable),
    ("unknown model", TritonUnavailable),
    ("is not found", TritonUnavailable),
    ("Server is stopping", TritonUnavailable),
)


def from_status(error: grpc.RpcError) -> GatewayError:
    """The gateway's error for a failed call."""
    status = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else grpc.StatusCode.UNKNOWN
    return BY_STATUS.get(status, UpstreamError)()


TOLD = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
    }
)
"""What Triton says with these is about the request itself: shapes, names, types."""
MOST_TOLD_CHARACTERS = 300


def from_forwarded(error: grpc.RpcError, *, told: bool = False) -> GatewayError:
    """The gateway's error for a call that was passed on as it came. Triton's own words about the request are passed on
    too; with ``told`` those about any failure."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return UpstreamError()
    status, words = error.code(), first_line(error.details() or "")
    if status is grpc.StatusCode.NOT_FOUND:
        return ModelNotFound(field="model_name") if "unknown model" in words else NotFound(words)
    if status is grpc.StatusCode.UNIMPLEMENTED:
        return MethodNotAllowed(words)
    if status in TOLD:
        return InvalidRequest(words)
    translated = from_status(error)
    return type(translated)(words) if told else translated


def first_line(text: str) -> str:
    """Triton's words without a traceback beneath them, bounded."""
    return text.split("\n", 1)[0][:MOST_TOLD_CHARACTERS]


def from_text(text: str) -> GatewayError:
    """The gateway's error for an error inside a stream. Only the backend's own messages reach the client: they
    name tensors and limits and never repeat a prompt."""
    for code, refusal in (("prompt_too_long: ", PromptTooLong), ("invalid_input: ", InvalidRequest)):
        if code in text:
            message = text.split(code, 1)[1]
            return refusal(message, field="text_input" if refusal is PromptTooLong else message.split(" ", 1)[0])
    return next((known() for part, known in BY_TEXT if part.lower() in text.lower()), UpstreamError())
