"""The policy on HTTP: what is asked and what is answered, streamed or not, and while its files change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.conftest import Served, serve

POLICY = """
version: "7"
lists:
  - {name: secrets, words: [敏感词, secret word], action: block, category: house, apply: [output]}
  - {name: names, words: [ann, 安娜], action: redact, category: people}
  - {name: watch, words: [fishy], action: flag, category: fraud}
  - {name: never, words: [炸弹], action: block, category: weapons, apply: [input]}
patterns:
  - {use: cn_mobile, action: redact, category: personal}
tenants:
  lab: {actions: {secrets: flag}}
"""


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    """The policy above."""
    path = tmp_path / "own.yaml"
    path.write_text(POLICY, encoding="utf-8")
    return path


@pytest.fixture
async def guarded(tmp_path: Path, policy_file: Path) -> AsyncIterator[Served]:
    """A gateway with it; its files are looked at all the time."""
    async with serve(tmp_path, policy_file=policy_file, policy_reload_seconds=0.02) as served:
        yield served


def events(body: str) -> list[dict[str, Any]]:
    """The data of server-sent events."""
    return [json.loads(line[5:]) for line in body.splitlines() if line.startswith("data:")]


@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_of_a_blocked_word_leaves_and_the_model_is_stopped(guarded: Served, stream: bool) -> None:
    """200 with what came before it, ``content_filter``, and Triton sees its request cancelled."""
    async with guarded.client() as client:
        ask = {"text_input": "say-on:good s.e.c.r.e.t w.o.r.d and more", "stream": stream, "include_policy": True}
        response = await client.post("/generate", json=ask)
    assert response.status_code == 200
    last = events(response.text)[-1] if stream else response.json()
    text = "".join(each["text_output"] for each in events(response.text)) if stream else last["text_output"]
    assert text == "good "
    assert last["finish_reason"] == "content_filter"
    assert last["usage"]["completion_tokens"] == len("good s.e.c.r.e.t w.o.r.d ")
    match = {"source": "secrets", "category": "house", "action": "block", "start": 5, "end": 24}
    assert last["policy"]["output"] == {"action": "block", "matches": [match], "moderators": []}
    async with asyncio.timeout(10):
        await guarded.triton.cancelled.wait()


async def test_a_name_is_masked_on_the_way_in_and_out(guarded: Served) -> None:
    """The model sees no name, and what it makes of it is masked as well."""
    async with guarded.client() as client:
        response = await client.post(
            "/generate", json={"text_input": "call Ann at 138 1234 5678", "include_policy": True}
        )
        answer = response.json()
    assert guarded.triton.requests[0]["text_input"][4:].decode() == "call *** at *************"
    assert answer["text_output"] == "call *** at *************"
    assert answer["policy"]["version"].startswith("7@")
    assert [each["source"] for each in answer["policy"]["input"]["matches"]] == ["names", "cn_mobile"]
    assert answer["policy"]["output"]["action"] == "allow"


async def test_messages_are_masked_too(guarded: Served) -> None:
    """Each by itself; positions name the message."""
    messages = [{"role": "user", "content": "hello"}, {"role": "user", "content": "我是安 娜"}]
    async with guarded.client() as client:
        response = await client.post("/generate", json={"messages": messages, "include_policy": True})
    assert response.status_code == 200, response.text
    assert "我是***" in guarded.triton.requests[0]["text_input"][4:].decode()
    matches = response.json()["policy"]["input"]["matches"]
    assert [(each["text"], each["start"], each["end"]) for each in matches] == [(1, 2, 5)]


async def test_a_tenant_s_own_action(tmp_path: Path, guarded: Served) -> None:
    """What blocks for others is only counted for the lab."""
    from tests.gateway.conftest import good_token

    async with guarded.client(good_token(tenant="lab")) as client:
        response = await client.post("/generate", json={"text_input": "a secret word"})
        metrics = (await client.get("/metrics")).text
    assert (response.status_code, response.json()["text_output"]) == (200, "a secret word")
    labels = 'action="flag",category="house",direction="output",source="secrets"'
    assert f"tidegate_policy_matches_total{{{labels}}} 1.0" in metrics


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
async def test_a_refusal_says_why_if_asked(guarded: Served, path: str) -> None:
    """Where and by which list; without asking, nothing."""
    async with guarded.client() as client:
        asked = await client.post(path, json={"text_input": "一个炸弹", "include_policy": True})
        plain = await client.post(path, json={"text_input": "一个炸弹"})
    assert (asked.status_code, asked.json()["error"]["code"]) == (403, "prompt_rejected")
    assert asked.json()["policy"]["version"].startswith("7@")
    match = {"text": 0, "source": "never", "category": "weapons", "action": "block", "start": 2, "end": 4}
    assert asked.json()["policy"]["input"] == {"action": "block", "matches": [match], "moderators": []}
    assert set(plain.json()) == {"error"}


async def test_without_asking_there_is_no_report(guarded: Served) -> None:
    """And a flagged word passes."""
    async with guarded.client() as client:
        answer = (await client.post("/generate", json={"text_input": "fishy"})).json()
    assert "policy" not in answer or answer["policy"] is None
    assert answer["text_output"] == "fishy"


async def version_of(client: httpx.AsyncClient) -> str:
    """The version in force."""
    answer = await client.post("/generate", json={"text_input": "x", "include_policy": True})
    version: str = answer.json()["policy"]["version"]
    return version.split("@", maxsplit=1)[0]


async def test_a_changed_file_takes_effect_and_a_bad_one_does_not(guarded: Served, policy_file: Path) -> None:
    """Requests go on all the while; a bad file is counted and changes nothing."""
    async with guarded.client() as client:
        assert await version_of(client) == "7"
        policy_file.write_text(POLICY.replace('"7"', '"8"'), encoding="utf-8")
        async with asyncio.timeout(20):
            while await version_of(client) != "8":
                pass
        policy_file.write_text("version: 9\nlists: nonsense\n", encoding="utf-8")
        async with asyncio.timeout(20):
            while "tidegate_policy_reload_failing 1.0" not in (await client.get("/metrics")).text:
                assert await version_of(client) == "8"
        assert (await client.post("/generate", json={"text_input": "炸弹"})).status_code == 403
        policy_file.write_text(POLICY.replace('"7"', '"10"'), encoding="utf-8")
        async with asyncio.timeout(20):
            while await version_of(client) != "10":
                pass
        assert "tidegate_policy_reload_failing 0.0" in (await client.get("/metrics")).text
