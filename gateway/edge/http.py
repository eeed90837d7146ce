"""The HTTP routes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, format_sse_event

from gateway.access import Authenticator
from gateway.edge.problems import error_body, event_data
from gateway.edge.schemas import ErrorBody, GenerateAnswer, GenerateBody
from gateway.errors import ClientClosed, GatewayError, InvalidField
from gateway.generation import Answer, Ask, Generation
from gateway.telemetry import Telemetry
from gateway.triton import TritonClient

Result = TypeVar("Result")
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 413, 422, 429, 502, 503, 504)
}


def generate_routes(generation: Generation, max_tokens: int) -> APIRouter:
    """``/generate`` and ``/generate_stream``, behind :class:`gateway.edge.middleware.Authentication`."""
    router = APIRouter(tags=["generate"])

    async def answer(request: Request, body: GenerateBody, stream: bool) -> Response:
        state = request.scope["state"]
        principal = state["principal"]
        state["fields"]["stream"] = stream
        if body.max_tokens > max_tokens:
            raise InvalidField(f"max_tokens: at most {max_tokens} here; ask for fewer", field="max_tokens")
        ask = Ask(state["request_id"], body.prompt(), body.parameters(stream), state["accepted"], body.include_policy)
        if stream:
            running = await _unless_client_leaves(request, generation.start(principal, ask))
            return EventSourceResponse(_events(request, running))
        return await _unless_client_leaves(request, _whole(request, generation, principal, ask))

    @router.post("/generate", response_model=GenerateAnswer, responses={**ERRORS, 200: _EVENTS}, openapi_extra=_BEARER)
    async def generate(request: Request, body: GenerateBody) -> Response:
        """Generate text; with `stream` as server-sent events."""
        return await answer(request, body, body.stream)

    @router.post("/generate_stream", response_class=Response, responses={**ERRORS, 200: _EVENTS}, openapi_extra=_BEARER)
    async def generate_stream(request: Request, body: GenerateBody) -> Response:
        """Generate text as server-sent events, each with a `text_output` delta."""
        return await answer(request, body, True)

    return router


_EVENT: dict[str, Any] = {
    "type": "object",
    "description": "`data` is JSON: a `text_output` delta; in the last event all of the answer's other fields too. An "
    "event named `error` carries the body of an error and ends the stream.",
    "properties": {"event": {"enum": ["message", "error"]}, "data": {"type": "string"}},
    "required": ["data"],
}
_EVENTS: dict[str, Any] = {"description": "Server-sent events", "content": {"text/event-stream": {"schema": _EVENT}}}
_BEARER: dict[str, Any] = {"security": [{"bearer": []}]}


def operation_routes(triton: TritonClient, telemetry: Telemetry, authenticator: Authenticator) -> APIRouter:
    """Health and metrics: for the platform, without a token."""
    router = APIRouter(tags=["operations"])

    @router.get("/health/live")
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "live"}

    @router.get("/health/ready", responses={503: {}})
    async def ready() -> JSONResponse:
        """Triton can be reached and has the model ready, and people can be let in."""
        reason = await triton.not_ready() or authenticator.not_ready()
        if reason is not None:
            return JSONResponse({"status": "not ready", "reason": reason}, 503)
        return JSONResponse({"status": "ready"})

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus text format."""
        return Response(telemetry.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


async def _whole(request: Request, generation: Generation, principal: Any, ask: Ask) -> JSONResponse:
    answer = await generation.start(principal, ask)
    text = "".join([delta.text async for delta in answer])
    return JSONResponse({**_closing(request, answer), "text_output": text})


async def _events(request: Request, answer: Answer) -> AsyncIterator[bytes]:
    """Deltas, then one event with reason and usage. A failure from here on is an event, since the status is sent."""
    state = request.scope["state"]
    state["outcome"] = ClientClosed.code  # until the stream has reached its end
    text = ""
    try:
        async for delta in answer:
            text = delta.text
            if text and not delta.finish_reason:
                yield format_sse_event(data_str=event_data({"text_output": text}))
        yield format_sse_event(data_str=event_data({**_closing(request, answer), "text_output": text}))
        state["outcome"] = "ok"
    except GatewayError as error:
        state["outcome"] = error.code
        yield format_sse_event(event="error", data_str=event_data(error_body(error, state["request_id"])))
    finally:
        await answer.close()


def _closing(request: Request, answer: Answer) -> dict[str, Any]:
    """What stands at the end of every answer; also noted for the log line."""
    last = answer.last
    assert last is not None, "an answer that ended has a last delta"  # noqa: S101 - a contract of Answer
    usage = {"prompt_tokens": last.prompt_tokens, "completion_tokens": last.completion_tokens}
    request.scope["state"]["fields"] |= {**usage, "finish_reason": last.finish_reason}
    closing = {
        "id": answer.request_id,
        "model": answer.model,
        "model_version": last.model_version,
        "finish_reason": last.finish_reason,
        "usage": {**usage, "total_tokens": last.prompt_tokens + last.completion_tokens},
    }
    return closing if answer.verdicts is None else {**closing, "policy": answer.verdicts.report()}


async def _unless_client_leaves(request: Request, work: Awaitable[Result]) -> Result:
    """The result of ``work``; it is cancelled when the client closes the connection before. Raises ClientClosed."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientClosed
        return task.result()
    finally:
        for each in (task, leaving):
            each.cancel()
            if not each.done():
                with contextlib.suppress(asyncio.CancelledError, GatewayError):
                    await each


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
