"""Quotas through HTTP: a real gateway, real clients, the fake Triton with a real wire."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.traffic.quotas import QuotaError
from tests.gateway.conftest import good_token, serve
from tests.gateway.processes import running

from .observed import left, write
from .redis_server import RedisServer

PROMPT = "a" * 20
"""One word, and five tokens by the gateway's estimate, which is what the fake Triton counts for any prompt."""


def quotas(tmp_path: Path, **limits: int) -> Path:
    """A file of one class."""
    return write(tmp_path / "quotas.yaml", json.dumps({"default": "all", "classes": {"all": limits}}))


def fields(response: httpx.Response) -> dict[str, int]:
    """What is left, by limit."""
    return left({"RateLimit": response.headers["ratelimit"]})


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The data of each event."""
    return [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line.startswith("data: ")]


async def metric(client: httpx.AsyncClient, name: str) -> float:
    """A series' value."""
    lines = (await client.get("/metrics")).text.splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} "))


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_stops_at_exactly_the_last_token_of_the_quota(tmp_path: Path, stream: bool) -> None:
    """Twelve tokens, five of them the prompt's: seven characters arrive, the reason is `quota`, Triton is told to stop,
    twelve are charged; then 429, and another tenant is served. Streaming or not."""
    file = quotas(tmp_path, tokens_per_minute=12)
    async with serve(tmp_path, quota_file=file) as served, served.client() as client:
        body = {"text_input": "say-on:abcdefghijklmnop", "max_tokens": 100, "stream": stream}
        response = await client.post("/generate", json=body)
        assert response.status_code == 200
        assert served.triton.requests[0]["stream"] == b"\1"
        answers = events(response) if stream else [response.json()]
        assert "".join(each["text_output"] for each in answers) == "abcdefg"
        assert answers[-1]["finish_reason"] == "quota"
        assert answers[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
        await asyncio.wait_for(served.triton.cancelled.wait(), 5)
        refused = await client.post("/generate", json={"text_input": "hi"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota_exceeded")
        assert "tokens_per_minute" in refused.json()["error"]["message"]
        assert 60 <= int(refused.headers["retry-after"]) <= 61
        assert fields(refused) == {"tokens_per_minute": 0}
        assert await metric(client, "tidegate_quota_tokens_total") == 12
        assert await metric(client, 'tidegate_quota_refusals_total{limit="tokens_per_minute"}') == 1
        assert await metric(client, "tidegate_quota_stopped_streams_total") == 1
        async with served.client(good_token(tenant="other")) as other:
            assert (await other.post("/generate", json={"text_input": "hi"})).json()["finish_reason"] == "stop"


async def test_every_measured_answer_carries_the_fields(tmp_path: Path) -> None:
    """Good ones, with what is left after them; refused and failed ones too, whose tokens are given back."""
    file = quotas(tmp_path, requests_per_second=100, concurrent_streams=9, tokens_per_day=1000)
    async with serve(tmp_path, quota_file=file) as served, served.client() as client:
        whole = await client.post("/generate", json={"text_input": "one two three"})
        assert whole.headers["ratelimit-policy"] == (
            '"requests_per_second";q=100;w=1, "concurrent_streams";q=9;qu="concurrent-requests", '
            '"tokens_per_day";q=1000;qu="tokens";w=86400'
        )
        assert fields(whole) == {"requests_per_second": 99, "concurrent_streams": 9, "tokens_per_day": 1000 - 8}
        streamed = await client.post("/generate_stream", json={"text_input": "one two", "max_tokens": 40})
        assert fields(streamed)["concurrent_streams"] == 8
        for prompt, status in (("bad word", 403), ("error:engine_failed: x", 502), ("error:prompt_too_long: x", 400)):
            refused = await client.post("/generate", json={"text_input": prompt})
            assert refused.status_code == status
            assert fields(refused)["tokens_per_day"] == 1000 - 8 - 7
        assert "ratelimit" not in (await client.get("/health/live")).headers


async def test_what_never_has_room_is_refused_once(tmp_path: Path) -> None:
    """More answers at once than a limit allows: 429 that names it, no time to come again, nothing counted, whether they
    come from `n` or from several prompts. One that only has to wait names that limit and no other."""
    file = quotas(tmp_path, requests_per_second=5, concurrent_streams=3, tokens_per_day=1000)
    async with serve(tmp_path, quota_file=file) as served, served.client() as client:
        for asked, limit in (({"n": 4}, "concurrent_streams"), ({"n": 2, "prompt": ["a", "b", "c"]}, "requests_per")):
            refused = await client.post("/v1/completions", json={"model": "generate", "prompt": "hi", **asked})
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota_exceeded")
            assert refused.json()["error"]["message"].startswith(limit)
            assert "retry-after" not in refused.headers
        body = {"model": "generate", "prompt": "hi", "n": 3}
        served_fields = fields(await client.post("/v1/completions", json=body))
        assert served_fields == {"requests_per_second": 2, "concurrent_streams": 3, "tokens_per_day": 1000 - 18}
        waiting = await client.post("/v1/completions", json=body)
        assert (waiting.status_code, waiting.headers["retry-after"]) == (429, "1")
        assert fields(waiting).keys() == {"requests_per_second"}


async def test_without_a_file_there_are_no_fields(tmp_path: Path) -> None:
    """No quotas, no headers."""
    async with serve(tmp_path) as served, served.client() as client:
        assert "ratelimit" not in (await client.post("/generate", json={"text_input": "hi"})).headers


async def test_waiting_as_long_as_retry_after_says_is_enough(tmp_path: Path) -> None:
    """429, the wait, 200."""
    async with serve(tmp_path, quota_file=quotas(tmp_path, requests_per_second=1)) as served, served.client() as client:
        assert (await client.post("/generate", json={"text_input": "hi"})).status_code == 200
        refused = await client.post("/generate", json={"text_input": "hi"})
        assert refused.status_code == 429
        await asyncio.sleep(int(refused.headers["retry-after"]))
        assert (await client.post("/generate", json={"text_input": "hi"})).status_code == 200


@pytest.mark.parametrize("prompt", ["hang", "slow"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_gives_its_place_back(tmp_path: Path, prompt: str, stream: bool) -> None:
    """Before the first text or after it: the one place is free again, and what was used is charged."""
    file = quotas(tmp_path, concurrent_streams=1, tokens_per_day=1000)
    async with serve(tmp_path, quota_file=file) as served, served.client() as client:
        leaving = asyncio.create_task(client.post("/generate", json={"text_input": prompt, "stream": stream}))
        while not served.triton.requests:
            await asyncio.sleep(0.01)
        assert (await client.post("/generate", json={"text_input": "hi"})).status_code == 429
        leaving.cancel()
        while (response := await client.post("/generate", json={"text_input": "hi"})).status_code == 429:
            await asyncio.sleep(0.01)
        assert fields(response)["tokens_per_day"] in (1000 - 7, 1000 - 12)


@pytest.mark.parametrize("max_tokens", [8, 100])
@pytest.mark.parametrize("leaves", [True, False])
async def test_whoever_does_not_wait_pays_for_the_prompt(tmp_path: Path, max_tokens: int, leaves: bool) -> None:
    """Nothing has come when the client leaves or its time is over: the prompt's estimate is charged, whether the answer
    would have come as one or bit by bit."""
    file = quotas(tmp_path, tokens_per_day=1000)
    async with serve(tmp_path, quota_file=file) as served, served.client() as client:
        body = {"text_input": "hang:" + "x" * 395, "max_tokens": max_tokens, "timeout_seconds": 60 if leaves else 0.3}
        asking = asyncio.create_task(client.post("/generate", json=body))
        while not served.triton.requests:
            await asyncio.sleep(0.01)
        if leaves:
            asking.cancel()
            await asyncio.wait_for(served.triton.cancelled.wait(), 5)
        else:
            assert (await asking).status_code == 504
        while (charged := await metric(client, "tidegate_quota_tokens_total")) == 0:
            await asyncio.sleep(0.01)
        assert charged == 100


async def test_two_gateways_on_one_redis(tmp_path: Path, own_redis: RedisServer) -> None:
    """What one answers is missing at the other; while Redis is dead both go on alone and say so in a metric."""
    file = quotas(tmp_path, tokens_per_day=20)
    settings = {"quota_file": file, "redis_url": own_redis.url}
    async with (
        serve(tmp_path, **settings) as one,
        serve(tmp_path, **settings) as other,
        one.client() as here,
        other.client() as there,
    ):
        assert (await here.post("/generate", json={"text_input": "a b c d e f g"})).status_code == 200
        assert fields(await there.post("/generate", json={"text_input": "a"})) == {"tokens_per_day": 2}
        assert (await here.post("/generate", json={"text_input": "x" * 40})).status_code == 429
        own_redis.kill()
        alone = await there.post("/generate", json={"text_input": "a"})
        assert fields(alone) == {"tokens_per_day": 14}
        assert await metric(there, "tidegate_quota_degraded") == 1
        assert await metric(there, "tidegate_quota_degraded_requests_total") == 1


async def test_redis_away_and_refuse_is_503(tmp_path: Path, own_redis: RedisServer) -> None:
    """`quota_unavailable` with Retry-After; who may come in is known since the start."""
    settings = {"quota_file": quotas(tmp_path, tokens_per_day=20), "redis_url": own_redis.url}
    async with serve(tmp_path, **settings, quota_on_redis_failure="refuse") as served, served.client() as client:
        assert (await client.post("/generate", json={"text_input": "a"})).status_code == 200
        own_redis.kill()
        refused = await client.post("/generate", json={"text_input": "a"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "quota_unavailable")
        assert refused.headers["retry-after"] == "1"


async def test_workers_share_what_a_tenant_may_use(tmp_path: Path) -> None:
    """Two processes on one port, forty requests of six tokens on as many connections: exactly ten fit into sixty."""
    file = quotas(tmp_path, tokens_per_day=60)
    async with running(tmp_path, workers=2, quota_file=file) as served:

        async def ask() -> int:
            async with served.client() as client:
                return (await client.post("/generate", json={"text_input": PROMPT, "max_tokens": 1})).status_code

        try:
            codes = [*await asyncio.gather(*(ask() for _ in range(20))), *[await ask() for _ in range(20)]]
        finally:
            served.process.terminate()  # so that the parent ends its workers
            await served.process.wait()
        assert (codes.count(200), codes.count(429)) == (10, 30)


async def test_what_cannot_be_used_does_not_start(tmp_path: Path) -> None:
    """The setting, the file, the line and the field are named."""
    file = write(tmp_path / "quotas.yaml", "default: a\nclasses:\n  a: {tokens_per_hour: 1}\n")
    with pytest.raises(QuotaError, match=r"TIDEGATE_QUOTA_FILE: .*quotas.yaml:3: classes.a.tokens_per_hour"):
        async with serve(tmp_path, quota_file=file):
            raise AssertionError("it starts")
