"""What one gateway counts, seen through ``/metrics``."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from gateway.errors import failures_of_ours
from gateway.telemetry.prices import PriceError, read_prices
from tests.gateway.conftest import Served, free_port, good_token, serve

from .scraping import Scrape, scrape

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


async def until(scraped: Callable[[Scrape], object], url: str) -> Scrape:
    """The first scrape that ``scraped`` is true of."""
    ends = time.monotonic() + 10
    while not scraped(found := await scrape(url)):
        assert time.monotonic() < ends, "not within 10 s"
        await asyncio.sleep(0.02)
    return found


async def test_answers_are_counted_by_version_and_by_how_they_ended(served: Served) -> None:
    """Stop, a block by the policy, a failure on the way; and the version that answered, with what its config says."""
    served.triton.parameters |= {"precision": "int8", "accuracy_gate": "passed"}
    async with served.client() as client:
        for text in ("one two", "one bad word", "so 炸弹 it is", "late-error:engine_failed: x"):
            await client.post("/generate", json={"text_input": text})
    found = await scrape(served.url)
    labels = {"model": "generate", "model_version": "7"}
    assert found("answers_total", **labels, finish_reason="stop") == 1
    assert found("answers_total", **labels, finish_reason="error") == 1
    assert found("model_info", **labels, precision="int8", accuracy_gate="passed") == 1
    assert found("tokens_total", model="generate", token_type="input") == 10
    assert found("tokens_total", model="generate", token_type="output") == 3
    assert found("wasted_tokens_total", model="generate") == 1


async def test_failures_of_ours_are_series_before_the_first_one(tmp_path: Path) -> None:
    """Of every route that is counted, at 0, so that the first failure counts in a rate; other outcomes need it not."""
    async with serve(tmp_path, grpc_port=free_port()) as served:
        found = (await scrape(served.url)).named("requests_total")
    for route in ("/generate", "/feedback", "/v1/models/{model}", "grpc:ModelInfer", "grpc:ModelStreamInfer"):
        for outcome in ("internal", "too_many_requests", "triton_unavailable"):
            assert found[frozenset({"route": route, "outcome": outcome}.items())] == 0
    assert {dict(labels)["outcome"] for labels in found} == failures_of_ours()


@pytest.fixture
async def saying(tmp_path: Path) -> AsyncIterator[Served]:
    """A gateway whose policy lets the prompt say what the answer may not."""
    policy = tmp_path / "output.yaml"
    policy.write_text("version: t\nlists: [{name: words, words: [bad word], apply: [output]}]\n", encoding="utf-8")
    async with serve(tmp_path, policy_file=policy) as each:
        yield each


async def test_a_blocked_answer_ended_with_content_filter(saying: Served) -> None:
    """And what was held back at most is known: no more than the entry is long."""
    async with saying.client() as client:
        response = await client.post("/generate", json={"text_input": "one bad word more", "stream": True})
    assert '"content_filter"' in response.text
    found = await scrape(saying.url)
    assert found("answers_total", model="generate", model_version="7", finish_reason="content_filter") == 1
    assert found("policy_held_characters_count") == 1
    assert found("policy_held_characters_bucket", le="10.0") == 1
    assert found("policy_held_characters_bucket", le="2.0") == 0


async def test_a_client_that_leaves_wastes_what_it_was_told(served: Served) -> None:
    """The tokens of its answer are counted as wasted, and the answer as cancelled."""
    async with (
        served.client() as client,
        client.stream("POST", "/generate", json={"text_input": "say-on:abc", "stream": True}) as response,
    ):
        told = 0
        async for line in response.aiter_lines():
            told += line.startswith("data:")
            if told == 3:
                break
    found = await until(
        lambda each: each("answers_total", model="generate", model_version="7", finish_reason="cancelled"), served.url
    )
    assert found("wasted_tokens_total", model="generate") == 3
    assert found("requests_in_flight") == 0


async def test_an_answer_that_is_cut_short_is_wasted(served: Served) -> None:
    """Its time was over, or it broke, after the first text: what was said counts."""
    async with served.client() as client:
        for body in ({"text_input": "slow", "timeout_seconds": 0.3}, {"text_input": "late-error:x"}):
            await client.post("/generate", json={**body, "stream": True})
    found = await scrape(served.url)
    assert found("wasted_tokens_total", model="generate") == 2


async def test_tenants_have_a_bound_and_a_bill(tmp_path: Path) -> None:
    """The first two by name, the rest together; what they cost is by the model's prices, a million tokens."""
    prices = tmp_path / "prices.yaml"
    prices.write_text("currency: EUR\nmodels: {generate: {input: 2, output: 10}}\n", encoding="utf-8")
    async with serve(tmp_path, price_file=prices, metrics_tenants=2) as served:
        for tenant in ("acme", "b", "c", "d", "acme"):
            async with served.client(good_token(tenant=tenant)) as client:
                await client.post("/generate", json={"text_input": "one two"})
        found = await scrape(served.url)
    tokens = {"model": "generate", "token_type": "input"}
    assert [found("tenant_tokens_total", tenant=each, **tokens) for each in ("acme", "b", "other")] == [10, 5, 10]
    assert found("tenant_tokens_total", tenant="c", **tokens) is None
    cost = found("tenant_cost_total", tenant="acme", model="generate")
    assert cost == pytest.approx(2 * (5 * 2 + 2 * 10) / 1e6)


async def test_without_prices_nothing_costs_anything(served: Served) -> None:
    """There is no series of cost then, rather than one that says 0."""
    async with served.client() as client:
        await client.post("/generate", json={"text_input": "one"})
    assert (await scrape(served.url)).named("tenant_cost_total") == {}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("models: {m: {input: -1}}", "models.m.input"),
        ("models: {m: {price: 1}}", "models.m.price"),
        ("models: {m: {output: .inf}}", "models.m.output"),
        ("currency: EUR", "models"),
    ],
)
def test_prices_that_cannot_be_are_refused(tmp_path: Path, text: str, where: str) -> None:
    """The message names the setting, the file and the field."""
    path = tmp_path / "prices.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PriceError, match=f"TIDEGATE_PRICE_FILE: .*prices.yaml:1: {re.escape(where)}"):
        read_prices(path)


async def test_the_scraper_chooses_the_format(served: Served) -> None:
    """Prometheus's text by default; OpenMetrics, ended by its mark, if it is asked for."""
    async with httpx.AsyncClient(base_url=served.url) as client:
        plain = await client.get("/metrics")
        openmetrics = await client.get("/metrics", headers={"Accept": OPENMETRICS})
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.text.endswith("# EOF\n")
    assert "_created" not in plain.text + openmetrics.text


async def test_a_policy_of_yesterday_is_gone(tmp_path: Path) -> None:
    """After a reload the version in force is the only one that is shown."""
    async with serve(tmp_path, policy_reload_seconds=0.05) as served:
        (before,) = (await scrape(served.url)).named("policy_info")
        (tmp_path / "words.txt").write_text("worse word\n", encoding="utf-8")
        found = await until(lambda each: before not in each.named("policy_info"), served.url)
    assert len(found.named("policy_info")) == 1
