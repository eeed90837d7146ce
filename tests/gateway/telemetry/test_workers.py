"""Several workers count as one: real processes, one of which is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import httpx

from gateway.telemetry.tenants import Tenants
from tests.gateway.conftest import good_token
from tests.gateway.processes import Running, running

from .collector import collecting
from .scraping import Key, Scrape, children, scrape

REQUESTS, SCRAPES = 40, 12


async def ask(gateway: Running, count: int) -> None:
    """So many requests on connections of their own, so that every worker gets some."""

    async def one() -> None:
        headers = {"Authorization": f"Bearer {good_token()}"}
        async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=20) as client:
            assert (await client.post("/generate", json={"text_input": "one two"})).status_code == 200

    await asyncio.gather(*(one() for _ in range(count)))


async def scrapes(gateway: Running) -> list[Scrape]:
    """As many as it takes for every worker to have answered one, but for bad luck in 2^11."""
    return [await scrape(gateway.url) for _ in range(SCRAPES)]


def counts(found: Scrape) -> dict[Key, float]:
    """What must never go back: counters and histograms, and the processes' time."""
    ends = ("_total", "_count", "_bucket", "_sum")
    return {key: value for key, value in found.all.items() if key[0].endswith(ends)}


def requests(found: Scrape) -> float | None:
    """Good answers."""
    return found("requests_total", route="/generate", outcome="ok")


async def test_every_worker_tells_of_all_and_a_killed_one_takes_nothing_away(tmp_path: Path) -> None:
    """Exactly as many are counted as were sent, whoever is scraped; after kill -9 no series has gone back, and what the
    next worker serves is added."""
    with collecting() as collector:
        async with running(tmp_path, workers=2, tracing_endpoint=collector.url, tracing_sample_rate=1) as gateway:
            await ask(gateway, REQUESTS)
            before = await scrapes(gateway)
            all_is_counted(before)
            await processes_are_added_up(gateway)
            await the_scraped_worker_shows_its_exemplars(gateway)
            seen = await killed(gateway)
            await ask(gateway, REQUESTS)
            seen += await scrapes(gateway)
            assert {requests(each) for each in seen[-SCRAPES:]} == {2 * REQUESTS}
    for earlier, later in zip([before[-1], *seen], seen, strict=False):
        for key, value in counts(earlier).items():
            assert counts(later)[key] >= value, key


def all_is_counted(found: list[Scrape]) -> None:
    """To the request, by whoever was scraped."""
    assert {requests(each) for each in found} == {REQUESTS}
    last = found[-1]
    assert last("tokens_total", model="generate", token_type="output") == 2 * REQUESTS
    assert last("time_to_first_token_seconds_count", model="generate") == REQUESTS
    assert last("tenant_tokens_total", tenant="acme", model="generate", token_type="input") == 5 * REQUESTS
    assert last("requests_in_flight") == 0
    assert len(last.named("policy_info")) == 1


async def processes_are_added_up(gateway: Running) -> None:
    """Memory and files of the parent and of both workers, not of the one that is scraped."""
    found = await scrape(gateway.url)
    pids = [gateway.process.pid, *children(gateway.process.pid)]
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    assert len(pids) == 3
    resident = found.all["process_resident_memory_bytes", frozenset()]
    assert abs(resident / (pages * os.sysconf("SC_PAGE_SIZE")) - 1) < 0.1
    assert abs(found.all["process_open_fds", frozenset()] - files) <= 8


async def the_scraped_worker_shows_its_exemplars(gateway: Running) -> None:
    """Both have served some, so whoever it is has one to show, at a bucket that counts the requests of both."""
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        text = (await client.get("/metrics", headers={"Accept": "application/openmetrics-text"})).text
    assert text.endswith("# EOF\n")
    names = {line.split("{")[0] for line in text.splitlines() if " # {trace_id=" in line}
    assert names == {"tidegate_request_duration_seconds_bucket", "tidegate_time_to_first_token_seconds_bucket"}
    assert f'_count{{route="/generate"}} {REQUESTS:.1f}' in text


async def killed(gateway: Running) -> list[Scrape]:
    """What was seen from the moment that a worker is killed until there are two again."""
    worker = children(gateway.process.pid)[0]
    os.kill(worker, signal.SIGKILL)
    seen, ends = [await scrape(gateway.url)], time.monotonic() + 20
    while len(set(children(gateway.process.pid)) - {worker}) < 2:
        assert time.monotonic() < ends, "the worker was not replaced"
        seen.append(await scrape(gateway.url))
        await asyncio.sleep(0.05)
    return seen


def test_workers_agree_on_the_tenants_that_have_a_name(tmp_path: Path) -> None:
    """Two of them, and one that comes later: the names are the first ones that anybody saw."""
    file = tmp_path / "tenants"
    one, two = Tenants(2, file), Tenants(2, file)
    assert [one.label("a"), two.label("b"), one.label("c"), two.label("a"), one.label("b")] == [
        "a", "b", "other", "a", "b",
    ]  # fmt: skip
    assert [Tenants(2, file).label(each) for each in ("a", "b", "c", "")] == ["a", "b", "other", "other"]
    assert file.stat().st_mode & 0o077 == 0
