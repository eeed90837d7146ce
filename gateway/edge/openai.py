"""The OpenAI-compatible routes that ask a model: ``/v1/chat/completions`` and ``/v1/completions``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request, Response

from gateway.answer import Answer, Ask
from gateway.edge.asking import Limits, unless_client_leaves
from gateway.edge.openai_answers import Chat, ChatAnswer, Json, Kind, Text, TextAnswer, ending, envelope, usage_of
from gateway.edge.openai_choices import Choice, close_choices, merged, start_choices
from gateway.edge.openai_problems import OpenAIErrorBody, openai_error
from gateway.edge.openai_schemas import ChatBody, CompletionBody
from gateway.edge.plain import Endpoint, EventStream, event, json_response, read_body, takes
from gateway.errors import ClientClosed, GatewayError
from gateway.generation import Generation
from gateway.triton import TokenLogprob

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": OpenAIErrorBody} for status in (400, 401, 403, 404, 408, 413, 422, 429, 502, 503, 504)
}
DONE = b"data: [DONE]\n\n"


def completion_endpoints(generation: Generation, limits: Limits) -> dict[str, Endpoint]:
    """Both routes, behind :class:`gateway.edge.middleware.Authentication`."""

    async def chat(request: Request) -> Response:
        """An answer to a conversation; with `stream` as server-sent events."""
        body = await read_body(request, ChatBody)
        return await _complete(request, generation, limits, Chat(), body)

    async def completions(request: Request) -> Response:
        """A text's continuation; with `stream` as server-sent events."""
        body = await read_body(request, CompletionBody)
        return await _complete(request, generation, limits, Text(), body)

    return {CHAT: chat, COMPLETIONS: completions}


def describe_completions(app: FastAPI, endpoints: dict[str, Endpoint]) -> None:
    """Show them in the API's description."""
    for path, body, answer in ((CHAT, ChatBody, ChatAnswer), (COMPLETIONS, CompletionBody, TextAnswer)):
        answers = {**ERRORS, 200: {"model": answer, **_EVENTS}}
        app.post(path, tags=["openai"], responses=answers, openapi_extra=takes(body))(endpoints[path])


_EVENT: dict[str, Any] = {
    "type": "object",
    "description": "`data` is a chunk as JSON, or an object with `error`, which ends the stream; at last `[DONE]`.",
    "properties": {"data": {"type": "string"}},
    "required": ["data"],
}
_EVENTS: dict[str, Any] = {"description": "Server-sent events", "content": {"text/event-stream": {"schema": _EVENT}}}


async def _complete(
    request: Request,
    generation: Generation,
    limits: Limits,
    kind: Kind,
    body: ChatBody | CompletionBody,
) -> Response:
    state = request.scope["state"]
    state["fields"]["stream"] = bool(body.stream)
    field, most = body.most_tokens()
    limits.require_tokens(most or 1, field)
    parameters = body.parameters(most or min(body.usual_tokens, limits.max_tokens))
    deadline, n = limits.deadline(request), body.n or 1
    asks = [
        Ask(
            state["request_id"],
            body.model,
            prompt,
            parameters,
            deadline,
            state["accepted"],
            headers=state["headers"],
            trace=state["trace"],
        )
        for prompt in body.prompts()
    ]
    logprobs = "logprobs" in parameters
    starting = start_choices(generation, state["principal"], asks, n, whole=not body.stream)
    if body.stream:
        choices = await unless_client_leaves(request, starting)
        include_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        events = _events(request, kind, choices, n, logprobs=logprobs, include_usage=include_usage)
        return EventStream(request, events)

    async def whole() -> Response:
        return await _whole(request, kind, await starting, n, logprobs=logprobs)

    return await unless_client_leaves(request, whole())


async def _whole(request: Request, kind: Kind, begun: Sequence[Choice], n: int, *, logprobs: bool) -> Response:
    answers = [each.result() for each in begun]
    texts: list[list[str]] = [[] for _ in answers]
    tokens: list[list[TokenLogprob]] = [[] for _ in answers]
    async with aclosing(merged(begun)) as deltas:
        async for number, delta in deltas:
            texts[number].append(delta.text)
            tokens[number] += delta.logprobs
    choices = [
        {
            "index": number,
            **kind.message("".join(texts[number])),
            "logprobs": kind.logprobs(tokens[number]) if logprobs else None,
            **ending(_reason(answer)),
        }
        for number, answer in enumerate(answers)
    ]
    usage = _noted(request, answers, n)
    return json_response({**envelope(kind, answers[0], streams=False), "choices": choices, "usage": usage})


async def _events(
    request: Request, kind: Kind, choices: Sequence[Choice], n: int, *, logprobs: bool, include_usage: bool
) -> AsyncIterator[bytes]:
    """A chunk for each piece of each choice. A failure from here on is an event, since the status is sent."""
    state = request.scope["state"]
    state["outcome"] = ClientClosed.code  # until the stream has reached its end
    around = envelope(kind, next(each.result() for each in choices if each.done()), streams=True)
    usage: Json = {"usage": None} if include_usage else {}
    begun: set[int] = set()
    try:
        async with aclosing(merged(choices)) as deltas:
            async for number, delta in deltas:
                if delta.text or delta.finish_reason:
                    choice = {
                        "index": number,
                        **kind.delta(delta.text, first=number not in begun),
                        "logprobs": kind.logprobs(delta.logprobs) if logprobs else None,
                        **ending(delta.finish_reason),
                    }
                    begun.add(number)
                    yield event({**around, "choices": [choice], **usage})
        spent = _noted(request, [each.result() for each in choices], n)
        if include_usage:
            yield event({**around, "choices": [], "usage": spent})
        yield DONE
        state["outcome"] = "ok"
    except GatewayError as error:
        state["outcome"] = error.code
        yield event(openai_error(error, request.scope["path"]))
    finally:
        await close_choices(choices)


def _reason(answer: Answer) -> str:
    return answer.last.finish_reason if answer.last is not None else ""


def _noted(request: Request, answers: Sequence[Answer], n: int) -> Json:
    """What was spent; also noted for the log line."""
    usage = usage_of(answers, n)
    fields = request.scope["state"]["fields"]
    fields |= {
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "finish_reason": _reason(answers[0]),
    }
    if len(answers) > 1:
        fields["choices"] = len(answers)
    return usage
