"""The HTTP routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response

from gateway.answer import Answer, Ask
from gateway.edge.asking import Limits, unless_client_leaves
from gateway.edge.plain import Endpoint, EventStream, event, json_response, read_body, takes
from gateway.edge.problems import error_body
from gateway.edge.schemas import ErrorBody, GenerateAnswer, GenerateBody
from gateway.errors import ClientClosed, GatewayError
from gateway.generation import Generation

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 408, 413, 422, 429, 502, 503, 504)
}


def generate_endpoints(generation: Generation, limits: Limits) -> dict[str, Endpoint]:
    """``/generate`` and ``/generate_stream``, behind :class:`gateway.edge.middleware.Authentication`."""

    async def answer(request: Request, *, streams: bool = False) -> Response:
        body = await read_body(request, GenerateBody)
        state = request.scope["state"]
        streams = streams or body.stream
        state["fields"]["stream"] = streams
        limits.require_tokens(body.max_tokens)
        ask = Ask(
            state["request_id"],
            body.model or generation.default_model,
            body.prompt(),
            body.parameters(streams),
            limits.deadline(request, body.timeout_seconds),
            state["accepted"],
            body.include_policy,
            state["headers"],
            state["trace"],
        )
        if streams:
            running = await unless_client_leaves(request, generation.start(state["principal"], ask))
            return EventStream(request, _events(request, running))
        return await unless_client_leaves(request, _whole(request, generation, ask))

    async def generate(request: Request) -> Response:
        """Generate text; with `stream` as server-sent events."""
        return await answer(request)

    async def generate_stream(request: Request) -> Response:
        """Generate text as server-sent events, each with a `text_output` delta."""
        return await answer(request, streams=True)

    return {"/generate": generate, "/generate_stream": generate_stream}


def describe_endpoints(app: FastAPI, endpoints: dict[str, Endpoint]) -> None:
    """Show them in the API's description."""
    extra = takes(GenerateBody)
    answers = {**ERRORS, 200: {"model": GenerateAnswer, **_EVENTS}}
    app.post("/generate", tags=["generate"], responses=answers, openapi_extra=extra)(endpoints["/generate"])
    app.post(
        "/generate_stream",
        tags=["generate"],
        responses={**ERRORS, 200: _EVENTS},
        response_class=Response,
        openapi_extra=extra,
    )(endpoints["/generate_stream"])


_EVENT: dict[str, Any] = {
    "type": "object",
    "description": "`data` is JSON: a `text_output` delta; in the last event all of the answer's other fields too. An "
    "event named `error` carries the body of an error and ends the stream.",
    "properties": {"event": {"enum": ["message", "error"]}, "data": {"type": "string"}},
    "required": ["data"],
}
_EVENTS: dict[str, Any] = {"description": "Server-sent events", "content": {"text/event-stream": {"schema": _EVENT}}}


async def _whole(request: Request, generation: Generation, ask: Ask) -> Response:
    answer = await generation.start(request.scope["state"]["principal"], ask)
    text = "".join([delta.text async for delta in answer])
    return json_response({**_closing(request, answer), "text_output": text})


async def _events(request: Request, answer: Answer) -> AsyncIterator[bytes]:
    """Deltas, then one event with reason and usage. A failure from here on is an event, since the status is sent."""
    state = request.scope["state"]
    state["outcome"] = ClientClosed.code  # until the stream has reached its end
    text = ""
    try:
        async for delta in answer:
            text = delta.text
            if text and not delta.finish_reason:
                yield event({"text_output": text})
        yield event({**_closing(request, answer), "text_output": text})
        state["outcome"] = "ok"
    except GatewayError as error:
        state["outcome"] = error.code
        yield event(error_body(error, state["request_id"]), "error")
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
