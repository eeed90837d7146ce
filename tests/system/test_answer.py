"""The main line with real parts: a real client, the gateway, a real Triton, a real model."""

from __future__ import annotations

import concurrent.futures

import httpx
import pytest

from deploy.local.stack import Stack

from .conftest import backend_metric, events

QUESTION = [{"role": "user", "content": "What is 2 + 2?"}]


def test_a_question_gets_its_answer(http: httpx.Client) -> None:
    """The demo model says four, and the answer says who said it and what it cost."""
    answer = http.post("/generate", json={"messages": QUESTION, "max_tokens": 32}).json()
    assert "4" in answer["text_output"]
    assert answer["finish_reason"] == "stop"
    assert answer["model"] == "generate"
    assert answer["model_version"].isdigit()
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 1 < usage["completion_tokens"] <= 32


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_a_stream_says_the_same_as_the_whole_answer(http: httpx.Client, path: str) -> None:
    """The deltas joined are the text that the unstreamed request gives; the last event carries reason and usage."""
    body = {"text_input": "Once upon a time", "max_tokens": 24}
    whole = http.post("/generate", json=body).json()
    streamed = http.post(path, json={**body, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    deltas = events(streamed)
    assert len(deltas) > 5
    assert "".join(str(each["text_output"]) for each in deltas) == whole["text_output"]
    assert deltas[-1]["finish_reason"] == whole["finish_reason"]
    assert deltas[-1]["usage"] == whole["usage"]
    assert all("finish_reason" not in each or not each["finish_reason"] for each in deltas[:-1])


def test_max_tokens_is_a_hard_limit(http: httpx.Client) -> None:
    """Exactly max_tokens tokens come when nothing stops the model before, and the reason is `length`."""
    answer = http.post("/generate", json={"prompt": "1, 2, 3, 4,", "max_length": 7}).json()
    assert answer["usage"]["completion_tokens"] == 7
    assert answer["finish_reason"] == "length"


def test_a_stop_sequence_ends_the_text_before_itself(http: httpx.Client) -> None:
    """The stop text is not part of the answer, also when it spans tokens."""
    whole = http.post("/generate", json={"text_input": "1, 2, 3, 4,", "max_tokens": 30}).json()["text_output"]
    stop = whole[9:13]
    answer = http.post("/generate", json={"text_input": "1, 2, 3, 4,", "max_tokens": 30, "stop": [stop]}).json()
    assert answer["text_output"] == whole[: whole.index(stop)]
    assert answer["finish_reason"] == "stop"


def test_a_seed_repeats_and_another_differs(http: httpx.Client) -> None:
    """Sampling with one seed gives one text; without greedy decoding another seed gives another."""

    def sample(seed: int) -> str:
        body = {
            "text_input": "My favourite animal is",
            "max_tokens": 24,
            "temperature": 1.0,
            "top_p": 0.95,
            "top_k": 50,
        }
        text: str = http.post("/generate", json={**body, "seed": seed}).json()["text_output"]
        return text

    assert sample(7) == sample(7)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_sixteen_at_once_are_all_answered(stack: Stack, http: httpx.Client) -> None:
    """Sixteen streams run in one batch and each ends properly."""

    def ask(number: int) -> list[dict[str, object]]:
        body = {"text_input": f"Write about the number {number}:", "max_tokens": 24, "stream": True}
        return events(http.post("/generate", json=body))

    before = backend_metric(stack, "tidegate_backend_tokens_total", kind="completion")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        streams = list(pool.map(ask, range(16)))
    spent = sum(stream[-1]["usage"]["completion_tokens"] for stream in streams)  # type: ignore[index]
    assert all(stream[-1]["finish_reason"] for stream in streams)
    assert backend_metric(stack, "tidegate_backend_tokens_total", kind="completion") - before == spent
    assert backend_metric(stack, "tidegate_backend_running_sequences") == 0
