"""Real clients of OpenAI's against the real stack: the official one, sync and async, and LangChain's."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

from deploy.local.stack import Stack

from .conftest import backend_metric
from .test_leaving import until

QUESTION: list[Any] = [{"role": "user", "content": "What is 2 + 2?"}]
SCOPES = "generate models:read"


@pytest.fixture(scope="module")
def options(stack: Stack) -> dict[str, Any]:
    """How a client reaches the stack."""
    return {"base_url": f"{stack.url}/v1", "api_key": stack.token(SCOPES), "max_retries": 0, "timeout": 60}


@pytest.fixture
def client(options: dict[str, Any]) -> Iterator[OpenAI]:
    """The official client."""
    with OpenAI(**options) as each:
        yield each


def test_a_question_gets_its_answer(client: OpenAI, http: httpx.Client) -> None:
    """Greedy, it is the answer that /generate gives; usage and reason are those of the model."""
    answer = client.chat.completions.create(model="generate", messages=QUESTION, temperature=0, max_tokens=32)
    same = http.post("/generate", json={"messages": QUESTION, "max_tokens": 32}).json()
    assert answer.choices[0].message.content == same["text_output"]
    assert answer.choices[0].finish_reason == same["finish_reason"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == same["usage"]["completion_tokens"]


def test_a_stream_says_the_same_and_counts_the_same(client: OpenAI) -> None:
    """Sampled with a seed: the deltas joined are the whole answer, the last chunk its usage."""
    asked: dict[str, Any] = {"model": "generate", "messages": QUESTION, "seed": 11, "max_completion_tokens": 24}
    whole = client.chat.completions.create(**asked)
    stream = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert len(chunks) > 5


def test_choices_differ_and_a_seed_repeats_them(client: OpenAI) -> None:
    """Four answers of one request run side by side; the first is what the seed gives alone."""
    asked: dict[str, Any] = {"model": "generate", "prompt": "My favourite animal is", "max_tokens": 16, "seed": 7}
    first, again = (client.completions.create(**asked, n=4) for _ in range(2))
    texts = [choice.text for choice in first.choices]
    assert texts == [choice.text for choice in again.choices]
    assert len(set(texts)) == 4
    assert texts[0] == client.completions.create(**asked).choices[0].text


def test_a_stop_sequence_and_a_limit(client: OpenAI) -> None:
    """The stop text is no part of the answer; the limit's reason is `length`."""
    asked: dict[str, Any] = {"model": "generate", "prompt": "1, 2, 3, 4,", "temperature": 0}
    assert client.completions.create(**asked, max_tokens=7).choices[0].finish_reason == "length"
    stopped = client.completions.create(**asked, max_tokens=30, stop=[" 8"])
    assert stopped.choices[0].text == " 5, 6, 7,"
    assert stopped.choices[0].finish_reason == "stop"


def test_logprobs_are_those_of_the_tokens_that_were_said(client: OpenAI) -> None:
    """Greedy: each token is its own likeliest; their bytes are the text; probabilities are at most one."""
    answer = client.chat.completions.create(
        model="generate", messages=QUESTION, temperature=0, max_tokens=32, logprobs=True, top_logprobs=5
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None
    tokens = choice.logprobs.content
    assert tokens is not None
    assert b"".join(bytes(each.bytes or []) for each in tokens).decode() == choice.message.content
    for each in tokens:
        assert len(each.top_logprobs) == 5
        assert each.top_logprobs[0].token == each.token
        assert sum(math.exp(other.logprob) for other in each.top_logprobs) <= 1.001
    assert answer.usage is not None
    # The end token has no text.
    assert len(tokens) == answer.usage.completion_tokens - (choice.finish_reason == "stop")


def test_streamed_logprobs_are_the_same(client: OpenAI) -> None:
    """Also where a character has several tokens and a stop sequence holds text back."""
    asked: dict[str, Any] = {
        "model": "generate",
        "prompt": "Emoji: 😀 🎉 🚀 Chinese: 你好",
        "max_tokens": 24,
        "temperature": 0,
        "stop": ["zzz"],
        "logprobs": 2,
    }
    whole = client.completions.create(**asked).choices[0]
    assert whole.logprobs is not None
    tokens: list[str] = []
    text = ""
    for chunk in client.completions.create(**asked, stream=True):
        text += chunk.choices[0].text
        assert chunk.choices[0].logprobs is not None
        tokens += chunk.choices[0].logprobs.tokens or []
    assert (text, tokens) == (whole.text, whole.logprobs.tokens)


def test_a_bias_forbids_and_forces(client: OpenAI) -> None:
    """-100 takes a token away, 100 brings it; a token that the model does not have is refused."""
    asked: dict[str, Any] = {"model": "generate", "prompt": "1, 2, 3, 4,", "temperature": 0, "max_tokens": 4}
    likely = client.completions.create(**asked, logprobs=1).choices[0].text
    forced = client.completions.create(**asked, logit_bias={"33": 100}).choices[0].text
    assert len(set(forced)) == 1
    assert forced != likely
    with pytest.raises(openai.BadRequestError) as unknown:
        client.completions.create(**asked, logit_bias={"999999": 1})
    assert unknown.value.param == "logit_bias"


class City(BaseModel):
    """What is asked for."""

    name: Annotated[str, Field(max_length=20)]
    country: Literal["France", "Germany"]
    inhabitants: Annotated[int, Field(ge=0, le=99_999_999)]


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_an_answer_keeps_to_a_pydantic_model(client: OpenAI, temperature: float) -> None:
    """`parse` gives the object; the model is small and would never have kept to it by itself."""
    answer = client.chat.completions.parse(
        model="generate",
        messages=[{"role": "user", "content": "Describe Paris as JSON."}],
        response_format=City,
        temperature=temperature,
        seed=3,
        max_tokens=200,
    )
    city = answer.choices[0].message.parsed
    assert city is not None
    assert city.country in ("France", "Germany")
    assert answer.choices[0].finish_reason == "stop"


def test_a_json_object_and_the_limit_that_cuts_it(client: OpenAI) -> None:
    """`json_object` is JSON when it ends by itself; a limit of tokens can cut it, and says so."""
    asked: dict[str, Any] = {
        "model": "generate",
        "messages": [{"role": "user", "content": "Give me a JSON object with one key."}],
        "response_format": {"type": "json_object"},
        "temperature": 0,
    }
    cut = client.chat.completions.create(**asked, max_tokens=2)
    assert cut.choices[0].finish_reason == "length"
    whole = client.chat.completions.create(**asked, max_tokens=80)
    if whole.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(whole.choices[0].message.content or ""), dict)
    assert (whole.choices[0].message.content or "").startswith("{")


def test_a_schema_that_cannot_be_kept_to_is_refused_by_name(client: OpenAI) -> None:
    """Before any text; requests beside it are answered."""
    bad = {"name": "x", "schema": {"type": "array", "uniqueItems": True}}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="generate",
            messages=QUESTION,
            response_format={"type": "json_schema", "json_schema": bad},  # type: ignore[arg-type]
        )
    assert (refused.value.code, refused.value.param) == ("invalid_request", "response_format")
    assert "uniqueItems" in str(refused.value)


async def test_schemas_and_free_text_share_a_batch(options: dict[str, Any]) -> None:
    """Eight at once, half of them bound to schemas of their own: each keeps to its own, the others to none."""
    async with AsyncOpenAI(**options) as client:

        def ask(number: int) -> Any:
            schema = {"type": "object", "properties": {f"key{number}": {"type": "boolean"}}}
            schema |= {"required": [f"key{number}"], "additionalProperties": False}
            bound = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
            extra = {"response_format": bound} if number % 2 else {}
            return client.chat.completions.create(
                model="generate", messages=QUESTION, temperature=0, max_tokens=32, **extra
            )

        answers = await asyncio.gather(*(ask(number) for number in range(8)))
    for number, answer in enumerate(answers):
        text = answer.choices[0].message.content
        if number % 2:
            assert json.loads(text).keys() == {f"key{number}"}
        else:
            assert not text.startswith("{")


async def test_closing_the_stream_frees_every_choice(stack: Stack, options: dict[str, Any]) -> None:
    """The client leaves; the sequences leave the batch long before their last token."""
    async with AsyncOpenAI(**options) as client:
        stream = await client.completions.create(
            model="generate", prompt="1, 2, 3,", max_tokens=1500, n=2, stream=True, extra_body={"ignore_eos": True}
        )
        async for _ in stream:
            break
        await asyncio.to_thread(until, lambda: backend_metric(stack, "tidegate_backend_running_sequences") == 2)
        await stream.close()
    await asyncio.to_thread(until, lambda: backend_metric(stack, "tidegate_backend_running_sequences") == 0, 2.0)


def test_models_and_moderations(client: OpenAI) -> None:
    """What can be asked, and what the shipped policy says of a text."""
    (model,) = client.models.list()
    assert model.id == "generate"
    result = client.moderations.create(input="hello, how are you?").results[0]
    assert not result.flagged


def test_langchain_asks_streams_and_structures(options: dict[str, Any]) -> None:
    """Another real client, with its own habits of what to send."""
    model = ChatOpenAI(
        model="generate",
        base_url=options["base_url"],
        api_key=options["api_key"],
        temperature=0,
        max_tokens=200,
        max_retries=0,
    )
    answer = model.invoke("What is the capital of Germany?")
    assert answer.content
    assert "".join(str(chunk.content) for chunk in model.stream("What is the capital of Germany?")) == answer.content
    city = model.with_structured_output(City, method="json_schema").invoke("Describe Paris as JSON.")
    assert isinstance(city, City)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] > 0
