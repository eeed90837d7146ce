"""The official `openai` client against a gateway with a fake Triton: what it sends, gets, and raises."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from gateway.edge.openai_answers import ending

from .conftest import Served, good_token, serve, serve_triton

SCOPES = "generate models:read"


@contextlib.asynccontextmanager
async def client_of(served: Served, token: str | None = None) -> AsyncIterator[AsyncOpenAI]:
    """The client as its users make it, without retries."""
    token = good_token(scope=SCOPES) if token is None else token
    async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key=token, max_retries=0, timeout=10) as client:
        yield client


@pytest.fixture
async def client(served: Served) -> AsyncIterator[AsyncOpenAI]:
    """A client with a good token."""
    async with client_of(served) as each:
        yield each


def said(text: str) -> list[Any]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


async def test_a_chat_completion(client: AsyncOpenAI) -> None:
    """Text, reason, usage, ids and fingerprint, as the client reads them."""
    raw = await client.chat.completions.with_raw_response.create(
        model="generate", messages=said("to be or"), extra_headers={"X-Request-ID": "abc-1"}
    )
    answer = raw.parse()
    assert (answer.id, answer.object, answer.model) == ("chatcmpl-abc-1", "chat.completion", "generate")
    assert raw.request_id == "abc-1"
    (choice,) = answer.choices
    assert (choice.index, choice.message.role, choice.message.content) == (0, "assistant", "to be or")
    assert (choice.finish_reason, choice.logprobs, choice.message.refusal) == ("stop", None, None)
    assert answer.usage is not None
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "total_tokens": 8,
    }
    assert answer.system_fingerprint is not None
    assert answer.system_fingerprint.startswith("fp_7_")
    assert answer.created > 1_700_000_000


async def test_a_completion_of_several_prompts(client: AsyncOpenAI) -> None:
    """A choice for each, in order; a prompt's tokens count once, however many answers it has."""
    answer = await client.completions.create(model="generate", prompt=["one", "two three"], n=2)
    assert [(each.index, each.text) for each in answer.choices] == [
        (0, "one"),
        (1, "one"),
        (2, "two three"),
        (3, "two three"),
    ]
    assert answer.object == "text_completion"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 6)


async def test_a_stream_of_chunks(client: AsyncOpenAI) -> None:
    """One chunk a delta, the role in the first, the reason in the last, usage in a chunk of its own when asked for."""
    stream = await client.chat.completions.create(
        model="generate", messages=said("to be or"), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert [chunk.choices[0].delta.content for chunk in chunks[:-1]] == ["to ", "be ", "or"]
    assert [chunk.choices[0].delta.role for chunk in chunks[:-1]] == ["assistant", None, None]
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None, None, "stop"]
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * 3
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 8
    assert len({(chunk.id, chunk.created, chunk.system_fingerprint) for chunk in chunks}) == 1


async def test_choices_of_a_stream_are_interleaved(client: AsyncOpenAI) -> None:
    """Each chunk names its choice; the choices joined are the answers."""
    stream = await client.completions.create(model="generate", prompt="a b c d", n=3, stream=True)
    texts, order, reasons = ["", "", ""], [], {}
    async for chunk in stream:
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        order.append(choice.index)
        reasons[choice.index] = choice.finish_reason
    assert texts == ["a b c d"] * 3
    assert reasons == {0: "stop", 1: "stop", 2: "stop"}
    assert order != sorted(order)


@pytest.mark.parametrize(
    ("path", "fields", "param", "message"),
    [
        ("completions", {"stop": ["a"] * 17}, "stop", "at most 16 items"),
        ("completions", {"n": 16, "prompt": ["x"] * 5}, "n", "at most 16"),
        ("chat/completions", {"tools": [{}]}, "tools", "is not supported here: describe them"),
        ("chat/completions", {"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ("chat/completions", {"max_tokens": 2, "max_completion_tokens": 3}, "max_completion_tokens", "same field"),
        ("chat/completions", {"response_format": {"type": "MARKER"}}, "response_format", "'json_object'"),
        ("chat/completions", {"response_format": {}}, "response_format", "an object with a type"),
        (
            "chat/completions",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "!"}}},
            "response_format.json_schema.name",
            "match pattern",
        ),
        ("chat/completions", {"metadata": {"MARKER": 1}}, "metadata", "valid string"),
        ("chat/completions", {"logit_bias": {"MARKER": 1}}, "logit_bias", "match pattern"),
        ("chat/completions", {"x" * 500_000: 1}, "x" * 100, "is not a field"),
        (
            "chat/completions",
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"const": float("nan"), "default": None}},
                }
            },
            "response_format.json_schema.schema",
            "numbers",
        ),
    ],
)
async def test_a_refused_field_is_named_and_nothing_is_repeated(
    served: Served, path: str, fields: dict[str, Any], param: str, message: str
) -> None:
    """As the client knows it, with the limit or the way out; what it sent itself is not said again."""
    body = {"model": "generate", **({"prompt": "x"} if path == "completions" else {"messages": said("x")}), **fields}
    async with served.client() as client:
        response = await client.post(f"/v1/{path}", content=json.dumps(body))
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (422, "invalid_field", param)
    assert message in error["message"]
    assert "MARKER" not in response.text
    assert len(response.text) < 1000
    assert not served.triton.requests


async def test_no_choice_waits_for_another(served: Served, client: AsyncOpenAI) -> None:
    """What the first prompt gets is told while the second has got nothing; its time over, the stream ends with that."""
    stream = await client.completions.create(
        model="generate", prompt=["a b c", "hang"], stream=True, extra_headers={"X-Request-Timeout-Seconds": "1"}
    )
    chunks = []

    async def read() -> None:
        async for chunk in stream:
            chunks.append(chunk.choices[0])

    with pytest.raises(openai.APIError) as failed:
        await read()
    assert failed.value.code == "deadline_exceeded"
    assert "".join(each.text for each in chunks) == "a b c"
    assert (chunks[-1].index, chunks[-1].finish_reason) == (0, "stop")
    await asyncio.wait_for(served.triton.cancelled.wait(), 2)


async def test_the_wire_ends_with_done(served: Served) -> None:
    """Server-sent events as they are on the wire."""
    async with served.client() as client:
        body = {"model": "generate", "messages": said("hi"), "stream": True}
        response = await client.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    assert all(block.startswith("data: {") for block in blocks[:-2])


async def test_every_parameter_reaches_its_tensor(served: Served, client: AsyncOpenAI) -> None:
    """In the tensor's type; temperature is 1 unless given, as OpenAI's."""
    await client.chat.completions.create(
        model="generate",
        messages=[{"role": "developer", "content": "be brief"}, *said("hi")],
        max_completion_tokens=9,
        top_p=0.25,
        stop=["a", "终"],
        seed=-1,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        logit_bias={"17": -100, "4": 1.5},
        logprobs=True,
        top_logprobs=3,
        response_format={"type": "json_object"},
        user="not used",
        extra_body={"top_k": 3, "min_p": 0.125, "repetition_penalty": 1.25},
    )
    tensors = served.triton.requests[0]
    values = {
        "max_tokens": ("<i", 9),
        "temperature": ("<f", 1.0),
        "top_p": ("<f", 0.25),
        "top_k": ("<i", 3),
        "min_p": ("<f", 0.125),
        "seed": ("<Q", 2**64 - 1),
        "frequency_penalty": ("<f", 0.5),
        "presence_penalty": ("<f", -0.5),
        "repetition_penalty": ("<f", 1.25),
        "logprobs": ("<i", 3),
    }
    assert {name: struct.unpack(kind, tensors[name])[0] for name, (kind, _) in values.items()} == {
        name: value for name, (_, value) in values.items()
    }
    assert tensors["logit_bias_tokens"] == struct.pack("<2i", 17, 4)
    assert tensors["logit_bias_values"] == struct.pack("<2f", -100, 1.5)
    assert json.loads(tensors["json_schema"][4:]) == {"type": "object"}
    assert tensors["stop"] == b"\x01\0\0\0a\x03\0\0\0" + "终".encode()
    assert tensors["text_input"][4:].decode().startswith("<|im_start|>system\nbe brief<|im_end|>")
    assert tensors["stream"] == b"\0"


async def test_what_is_not_asked_for_is_not_sent(served: Served, client: AsyncOpenAI) -> None:
    """A version published before there were log-probabilities still serves; who asks for them is told."""
    served.triton.inputs -= {"logprobs", "logit_bias_tokens", "logit_bias_values", "json_schema"}
    answer = await client.chat.completions.create(model="generate", messages=said("hi"))
    assert answer.choices[0].message.content == "hi"
    assert not {"logprobs", "logit_bias_tokens", "json_schema"} & served.triton.requests[0].keys()
    extras: list[tuple[dict[str, Any], str]] = [
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ]
    for extra, param in extras:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="generate", messages=said("hi"), **extra)
        assert (refused.value.code, refused.value.param) == ("invalid_request", param)


async def test_seeds_of_choices_differ_and_repeat(served: Served, client: AsyncOpenAI) -> None:
    """The first choice has the request's own seed; the others follow from it."""
    for _ in range(2):
        await client.completions.create(model="generate", prompt="hi", n=3, seed=7)
    seeds = [struct.unpack("<Q", tensors["seed"])[0] for tensors in served.triton.requests]
    assert 7 in seeds
    assert len(set(seeds[:3])) == 3
    assert sorted(seeds[:3]) == sorted(seeds[3:])


async def test_a_prompt_is_checked_once_for_all_its_answers(served: Served, client: AsyncOpenAI) -> None:
    """The policy decides about one input and four outputs."""
    await client.completions.create(model="generate", prompt="hi", n=4)
    async with served.client() as http:
        text = (await http.get("/metrics")).text
    assert 'tidegate_policy_decisions_total{action="allow",direction="input"} 1.0' in text
    assert 'tidegate_policy_decisions_total{action="allow",direction="output"} 4.0' in text
    assert 'tidegate_requests_total{outcome="ok",route="/v1/completions"} 1.0' in text


async def test_logprobs_of_a_chat(client: AsyncOpenAI) -> None:
    """Token, bytes and alternatives, whole and streamed alike."""
    asked: dict[str, Any] = {"model": "generate", "messages": said("to 炸"), "logprobs": True, "top_logprobs": 2}
    answer = await client.chat.completions.create(**asked)
    assert answer.choices[0].logprobs is not None
    tokens = answer.choices[0].logprobs.content
    assert tokens is not None
    assert [each.token for each in tokens] == ["to ", "炸"]
    assert tokens[1].bytes == list("炸".encode())
    assert [(each.token, each.logprob) for each in tokens[0].top_logprobs] == [("to ", -0.5), ("bad", -1.5)]
    streamed = []
    async for chunk in await client.chat.completions.create(**asked, stream=True):
        assert chunk.choices[0].logprobs is not None
        streamed += chunk.choices[0].logprobs.content or []
    assert streamed == tokens


async def test_logprobs_of_a_completion(client: AsyncOpenAI) -> None:
    """Tokens, their logprobs, the likeliest, and where each begins."""
    answer = await client.completions.create(model="generate", prompt="to be", logprobs=1)
    found = answer.choices[0].logprobs
    assert found is not None
    assert (found.tokens, found.token_logprobs, found.text_offset) == (["to ", "be"], [-0.5, -0.5], [0, 3])
    assert found.top_logprobs == [{"to ": -0.5}, {"be": -0.5}]


LEAK_POLICY = """
version: leaks
lists:
  - {name: masked, words: [secret], action: redact, apply: [output]}
  - {name: stopped, words: [forbidden], apply: [output]}
  - {name: alternative, words: [be bad, it was a long and altogether harmless way to go bad], apply: [output]}
"""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "left", "tokens", "reason"),
    [
        ("so it is a secret word", "so it is a ****** word", ["so ", "it ", "is ", "a "], "stop"),
        ("it is forbidden to say", "it is ", ["it ", "is "], "content_filter"),
    ],
)
async def test_no_logprob_tells_what_the_policy_took_out(
    tmp_path: Path, text: str, left: str, tokens: list[str], reason: str, stream: bool
) -> None:
    """From the first masked or blocked character on nothing is said of tokens; before it, all."""
    policy = tmp_path / "leaks.yaml"
    policy.write_text(LEAK_POLICY, encoding="utf-8")
    async with serve(tmp_path, policy_file=policy) as served, served.client() as client:
        body = {"model": "generate", "messages": said(text), "logprobs": True, "top_logprobs": 1, "stream": stream}
        response = await client.post("/v1/chat/completions", json=body)
    if stream:
        chunks = [json.loads(block[6:]) for block in response.text.split("\n\n")[:-2]]
        choices = [chunk["choices"][0] for chunk in chunks]
        content = "".join(choice["delta"].get("content", "") for choice in choices)
    else:
        choices = response.json()["choices"]
        content = choices[0]["message"]["content"]
    said_of = [each["token"] for choice in choices for each in choice["logprobs"]["content"]]
    assert (content, said_of, choices[-1]["finish_reason"]) == (left, tokens, reason)
    assert "secret" not in response.text
    assert "forbidden" not in response.text


async def test_no_alternative_says_what_may_not_be_said(tmp_path: Path) -> None:
    """A likely token that would have made a match behind the text before it is left out."""
    policy = tmp_path / "leaks.yaml"
    policy.write_text(LEAK_POLICY, encoding="utf-8")
    async with serve(tmp_path, policy_file=policy) as served, client_of(served) as client:
        answer = await client.completions.create(model="generate", prompt="to be so", logprobs=2)
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.top_logprobs is not None
    assert [sorted(each) for each in found.top_logprobs] == [["bad", "to "], ["bad", "be "], ["so"]]


async def test_no_alternative_ends_a_long_entry(tmp_path: Path) -> None:
    """As far back as an entry may begin."""
    policy = tmp_path / "leaks.yaml"
    policy.write_text(LEAK_POLICY, encoding="utf-8")
    prompt = "it was a long and altogether harmless way to go on"
    async with serve(tmp_path, policy_file=policy) as served, client_of(served) as client:
        answer = await client.completions.create(model="generate", prompt=prompt, logprobs=2)
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.top_logprobs is not None
    assert [sorted(each) for each in found.top_logprobs[-2:]] == [["bad", "go "], ["on"]]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_escape_of_json_hides_no_word(tmp_path: Path, stream: bool) -> None:
    """Where the answer keeps to a schema; elsewhere a backslash and an n are what they are."""
    policy = tmp_path / "leaks.yaml"
    policy.write_text(LEAK_POLICY, encoding="utf-8")
    text = r'{"a": "it is:\nsecret and \tforbidden"}'
    left = []
    async with serve(tmp_path, policy_file=policy) as served, served.client() as client:
        for form in ("json_object", "text"):
            body = {"model": "generate", "messages": said(text), "response_format": {"type": form}, "stream": stream}
            response = await client.post("/v1/chat/completions", json=body)
            if stream:
                chunks = [json.loads(block[6:]) for block in response.text.split("\n\n")[:-2]]
                left.append("".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks))
            else:
                left.append(response.json()["choices"][0]["message"]["content"])
    assert left == [r'{"a": "it is:\n****** and \t', text]


def test_a_reason_of_our_own_is_a_limit() -> None:
    """OpenAI has no word for a spent quota; it stands beside the reason that its clients know."""
    assert ending("quota") == {"finish_reason": "length", "stop_reason": "quota"}
    assert ending("") == {"finish_reason": None}


QUOTAS = "{default: all, classes: {all: {tokens_per_minute: 12}}}"

REFUSED: list[tuple[dict[str, Any], type[openai.APIStatusError], int, str, str | None]] = [
    ({"model": "other"}, openai.NotFoundError, 404, "model_not_found", "model"),
    ({"model": "moderator"}, openai.NotFoundError, 404, "model_not_found", "model"),
    ({"messages": said("bad word")}, openai.BadRequestError, 400, "prompt_rejected", "messages"),
    ({"messages": said("error:prompt_too_long: 9000")}, openai.BadRequestError, 400, "prompt_too_long", "messages"),
    (
        {"messages": said("error:invalid_input: json_schema uses x")},
        openai.BadRequestError,
        400,
        "invalid_request",
        "response_format",
    ),
    ({"messages": said("error:engine_failed: x")}, openai.InternalServerError, 502, "upstream_error", None),
    ({"messages": said("status:UNAVAILABLE")}, openai.InternalServerError, 503, "triton_unavailable", None),
    ({"max_tokens": 10**6}, openai.UnprocessableEntityError, 422, "invalid_field", "max_tokens"),
    ({"temperature": 3}, openai.UnprocessableEntityError, 422, "invalid_field", "temperature"),
    ({"n": 17}, openai.UnprocessableEntityError, 422, "invalid_field", "n"),
    ({"top_logprobs": 3}, openai.UnprocessableEntityError, 422, "invalid_field", "top_logprobs"),
    ({"logit_bias": {"a": 1}}, openai.UnprocessableEntityError, 422, "invalid_field", "logit_bias"),
    ({"tools": [{"type": "function"}]}, openai.UnprocessableEntityError, 422, "invalid_field", "tools"),
    ({"store": True}, openai.UnprocessableEntityError, 422, "invalid_field", "store"),
    ({"extra_body": {"colour": "red"}}, openai.UnprocessableEntityError, 422, "invalid_field", "colour"),
    (
        {"messages": [{"role": "tool", "content": "4", "tool_call_id": "x"}]},
        openai.UnprocessableEntityError,
        422,
        "invalid_field",
        "messages.0.role",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        openai.UnprocessableEntityError,
        422,
        "invalid_field",
        "messages.0.content",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["x" * 40_000]}}}},
        openai.UnprocessableEntityError,
        422,
        "invalid_field",
        "response_format.json_schema.schema",
    ),
]


async def test_a_refusal_is_the_exception_that_the_client_knows(served: Served, client: AsyncOpenAI) -> None:
    """With status, code and parameter, and the request's id."""
    for change, kind, *told in REFUSED:
        served.triton.only = "generate" if change.get("model") == "other" else ""
        with pytest.raises(kind) as refused:
            await client.chat.completions.create(**{"model": "generate", "messages": said("hi"), **change})
        error = refused.value
        assert [error.status_code, error.code, error.param] == told
        assert error.request_id
        assert isinstance(error.body, dict)
        assert error.body.keys() == {"message", "type", "param", "code"}


async def test_who_may_not_is_told_in_the_same_shape(served: Served, tmp_path: Path) -> None:
    """No token, a bad one, one without the scope: authentication and permission errors."""
    async with client_of(served, "not.a.token") as client:
        with pytest.raises(openai.AuthenticationError) as unknown:
            await client.chat.completions.create(model="generate", messages=said("hi"))
    assert (unknown.value.code, unknown.value.type) == ("invalid_token", "authentication_error")
    async with client_of(served, good_token(scope="other")) as client:
        for asking in (
            client.chat.completions.create(model="generate", messages=said("hi")),
            client.models.list(),
            client.moderations.create(input="hi"),
        ):
            with pytest.raises(openai.PermissionDeniedError) as forbidden:
                await asking
            assert (forbidden.value.code, forbidden.value.type) == ("insufficient_scope", "permission_error")


async def test_too_many_at_once_is_a_rate_limit(tmp_path: Path) -> None:
    """Each further answer takes a place of its own, and gives it back."""
    async with serve(tmp_path, max_concurrent_requests=3) as served, client_of(served) as client:
        with pytest.raises(openai.RateLimitError) as refused:
            await client.completions.create(model="generate", prompt="hi", n=4)
        assert (refused.value.code, refused.value.type) == ("too_many_requests", "rate_limit_error")
        assert int(refused.value.response.headers["retry-after"]) >= 1
        for _ in range(3):
            answer = await client.completions.create(model="generate", prompt="hi", n=3)
            assert len(answer.choices) == 3


BODIES: list[tuple[str, str, bytes | None, int, str]] = [
    ("GET", "/v1/nothing", None, 404, "not_found"),
    ("GET", "/v1/chat/completions", None, 405, "method_not_allowed"),
    ("POST", "/v1/completions", b"{nonsense", 400, "invalid_json"),
    ("POST", "/v1/completions", b"[" * 100_000, 400, "invalid_json"),
    ("POST", "/v1/completions", b"a" * 1_000_001, 413, "body_too_large"),
    ("POST", "/v1/completions", b'{"model": "generate", "prompt": [1, 2]}', 422, "invalid_field"),
    ("POST", "/v1/completions", b'{"model": "generate", "prompt": "a", "echo": true}', 422, "invalid_field"),
    *(
        ("POST", "/v1/moderations", body, 422, "invalid_field")
        for body in (b"{}", b'{"input": []}', b'{"input": [1]}', b'{"input": [{"type": "image_url"}]}', b'{"x": 1}')
    ),
]


async def test_every_error_has_the_one_shape(served: Served) -> None:
    """Also those of the server itself."""
    async with served.client() as client:
        for method, path, content, status, code in BODIES:
            response = await client.request(method, path, content=content)
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (status, code)
            assert error.keys() == {"message", "type", "param", "code"}
            assert response.headers["x-request-id"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_quota_that_is_used_up_is_a_limit(tmp_path: Path, stream: bool) -> None:
    """OpenAI has no word for it: `length`, with ours beside it; then 429 as a rate limit. Every choice has to pay."""
    file = tmp_path / "quotas.yaml"
    file.write_text(QUOTAS, encoding="utf-8")
    async with serve(tmp_path, quota_file=file) as served, client_of(served) as client:
        asked: dict[str, Any] = {"model": "generate", "prompt": "say-on:abcdefghijklmnop", "max_tokens": 100}
        if stream:
            chunks = [chunk async for chunk in await client.completions.create(**asked, stream=True)]
            text, last = "".join(chunk.choices[0].text for chunk in chunks), chunks[-1].choices[0]
        else:
            last = (await client.completions.create(**asked)).choices[0]
            text = last.text
        assert (text, last.finish_reason) == ("abcdefg", "length")
        assert last.to_dict()["stop_reason"] == "quota"
        for asking in (
            client.completions.create(model="generate", prompt="hi", n=2),
            client.chat.completions.create(model="generate", messages=said("hi")),
        ):
            with pytest.raises(openai.RateLimitError) as refused:
                await asking
            assert refused.value.code == "quota_exceeded"
            assert "ratelimit" in refused.value.response.headers


async def test_choices_that_fail_give_their_quota_back(tmp_path: Path) -> None:
    """Two places at once: three choices are refused, and afterwards two are served."""
    file = tmp_path / "quotas.yaml"
    file.write_text(QUOTAS.replace("tokens_per_minute: 12", "concurrent_streams: 2"), encoding="utf-8")
    async with serve(tmp_path, quota_file=file) as served, client_of(served) as client:
        for _ in range(2):
            with pytest.raises(openai.RateLimitError):
                await client.completions.create(model="generate", prompt="hi", n=3)
            with pytest.raises(openai.InternalServerError):
                await client.completions.create(model="generate", prompt=["hang", "error:engine_failed: x"])
            with pytest.raises(openai.BadRequestError):
                await client.completions.create(model="generate", prompt=["fine", "bad word"])
            assert len((await client.completions.create(model="generate", prompt="hi", n=2)).choices) == 2


async def test_a_failure_within_a_stream_is_raised(client: AsyncOpenAI) -> None:
    """The status is sent by then; the client raises on the event and does not take the answer for whole."""
    stream = await client.chat.completions.create(
        model="generate", messages=said("late-error:engine_failed: secret"), stream=True
    )
    assert (await anext(stream)).choices[0].delta.content == "one "
    with pytest.raises(openai.APIError) as failed:
        await anext(stream)
    assert failed.value.code == "upstream_error"
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize("n", [1, 3])
async def test_a_stream_that_is_closed_is_cancelled_in_triton(served: Served, client: AsyncOpenAI, n: int) -> None:
    """All of its choices, and their places are free again."""
    stream = await client.completions.create(model="generate", prompt="slow", n=n, stream=True)
    async for _ in stream:
        break
    await stream.close()
    await asyncio.wait_for(served.triton.cancelled.wait(), 5)
    async with served.client() as http:
        while "tidegate_requests_in_flight 0.0" not in (await http.get("/metrics")).text:
            await asyncio.sleep(0.01)
        assert 'outcome="client_closed",route="/v1/completions"' in (await http.get("/metrics")).text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_first_text_is_cancelled(served: Served, stream: bool) -> None:
    """With several answers on the way."""
    async with client_of(served) as client:
        asking = asyncio.create_task(
            client.completions.create(model="generate", prompt="hang", n=2, stream=stream)  # type: ignore[call-overload]
        )
        while len(served.triton.requests) < 2:
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    await asyncio.wait_for(served.triton.cancelled.wait(), 5)


async def test_one_choice_that_fails_takes_the_others_with_it(served: Served, client: AsyncOpenAI) -> None:
    """Nothing is left running for an answer that nobody gets."""
    with pytest.raises(openai.InternalServerError):
        await client.completions.create(model="generate", prompt=["hang", "error:engine_failed: x"])
    await asyncio.wait_for(served.triton.cancelled.wait(), 5)


async def test_models(served: Served, client: AsyncOpenAI) -> None:
    """Those that generate text; a classifier is none, and an unknown one is not found."""
    served.triton.parameters["created"] = "1750000000"
    models = [model async for model in client.models.list()]
    assert [(model.id, model.object, model.created) for model in models] == [("generate", "model", 1750000000)]
    assert (await client.models.retrieve("generate")).id == "generate"
    served.triton.only = "generate"
    for name in ("moderator", "nobody"):
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.models.retrieve(name)
        assert unknown.value.code == "model_not_found"


async def test_models_while_triton_is_away(served: Served, client: AsyncOpenAI) -> None:
    """503, to be tried again."""
    await served.triton_server.stop(None)
    with pytest.raises(openai.InternalServerError) as away:
        await client.models.list()
    assert (away.value.status_code, away.value.code) == (503, "triton_unavailable")
    await (await serve_triton(served.triton, served.triton_address)).stop(None)


async def test_moderations(client: AsyncOpenAI) -> None:
    """The policy's own categories, and where it found what; a flagged text is one that anything was found in."""
    answer = await client.moderations.create(input=["hello", "a 炸弹", "it is fishy"], model="omni-moderation-latest")
    assert answer.model.startswith("test@")
    found = [each.to_dict() for each in answer.results]
    assert [each["flagged"] for each in found] == [False, True, True]
    assert found[0]["categories"] == {"weapons": False, "words": False, "fraud": False}
    assert found[1]["categories"] == {"weapons": True, "words": False, "fraud": False}
    assert found[1]["category_scores"] == {"weapons": 1.0, "words": 0.0, "fraud": 0.0}
    vendor: Any = found[1]["tidegate"]
    assert vendor["action"] == "block"
    assert [(each["category"], each["start"], each["end"]) for each in vendor["matches"]] == [("weapons", 2, 4)]
    vendor = found[2]["tidegate"]
    assert vendor["action"] == "flag"


async def test_moderations_say_what_a_moderator_says(tmp_path: Path) -> None:
    """Its score under its category, whatever it decides."""
    policy = tmp_path / "judged.yaml"
    policy.write_text(
        "version: judged\nmoderators:\n  - {name: labels, kind: triton, model: moderator, "
        "labels: {insult: {threshold: 0.5, category: abuse}}}\n",
        encoding="utf-8",
    )
    async with (
        serve(tmp_path, policy_file=policy) as served,
        client_of(served, good_token(scope="moderate")) as client,
    ):
        answer = await client.moderations.create(input=[{"type": "text", "text": "how rude"}])
        (result,) = (each.to_dict() for each in answer.results)
        assert (result["flagged"], result["categories"], result["category_scores"]) == (
            True,
            {"abuse": True},
            {"abuse": 0.875},
        )
        with pytest.raises(openai.PermissionDeniedError):
            await client.chat.completions.create(model="generate", messages=said("hi"))
