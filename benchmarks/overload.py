"""Four times more than can be served, for a minute: ``python -m benchmarks.overload``.

A model that serves 8 requests at a time, each for 200 ms (40 a second), in a real Triton. First its capacity, closed
loop; then 160 requests a second arrive at random, each with three seconds of time. What counts: how many answers arrive
in their time (goodput), against the capacity; whether the admitted meet their deadline; how fast the others are
refused; whether health stays green.
"""

from __future__ import annotations

import asyncio
import collections
import os
import random
import time
from typing import Any

import aiohttp

from benchmarks import harness
from benchmarks.throughput import BODY
from deploy.local.stack import Stack

PLACES, SERVICE_MS, DEADLINE_SECONDS = 8, 200, 3.0
FACTOR, SECONDS, SETTLE_SECONDS = 4, 60, 5


async def capacity(session: aiohttp.ClientSession) -> float:
    """Answers a second, twice as many clients as places."""
    done, end = 0, time.perf_counter() + 8

    async def client() -> None:
        nonlocal done
        while time.perf_counter() < end:
            async with session.post("/generate", json=BODY) as response:
                assert response.status == 200, await response.text()
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(2 * PLACES)))
    return done / (time.perf_counter() - began)


async def overload(session: aiohttp.ClientSession, rate: float) -> dict[str, Any]:
    """Everything that happened to requests that arrived after the first seconds."""
    draw, results, health = random.Random(4), [], []
    body = {**BODY, "timeout_seconds": DEADLINE_SECONDS}
    start = time.perf_counter()

    async def one() -> None:
        began = time.perf_counter()
        async with session.post("/generate", json=body) as response:
            content = await response.json()
            code = "ok" if response.status == 200 else content["error"]["code"]
            results.append((began - start, time.perf_counter() - began, code, response.headers.get("Retry-After")))

    async def watch() -> None:
        while time.perf_counter() < start + SECONDS:
            began = time.perf_counter()
            async with session.get("/health/ready") as response:
                await response.read()
                health.append((response.status, time.perf_counter() - began))
            await asyncio.sleep(0.25)

    watching, tasks, due = asyncio.create_task(watch()), [], start
    while (due := due + draw.expovariate(rate)) < start + SECONDS:
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(watching, *tasks)
    return summary([each for each in results if each[0] >= SETTLE_SECONDS], health)


def summary(results: list[Any], health: list[tuple[int, float]]) -> dict[str, Any]:
    """The figures of one run."""
    seconds = SECONDS - SETTLE_SECONDS
    good = [latency for _, latency, code, _ in results if code == "ok" and latency <= DEADLINE_SECONDS]
    late = [code for _, latency, code, _ in results if code == "deadline_exceeded" or (code == "ok" and latency > 3)]
    refused = [(latency, after) for _, latency, code, after in results if code in ("overloaded", "too_many_requests")]
    return {
        "arrived_per_second": len(results) / seconds,
        "goodput_per_second": len(good) / seconds,
        "admitted_in_time": len(good) / max(len(good) + len(late), 1),
        "good_p99_ms": harness.percentile(good, 0.99) * 1e3,
        "refused": len(refused),
        "refused_p50_ms": harness.percentile([latency for latency, _ in refused], 0.5) * 1e3,
        "refused_p99_ms": harness.percentile([latency for latency, _ in refused], 0.99) * 1e3,
        "refused_with_retry_after": sum(after is not None for _, after in refused) / max(len(refused), 1),
        "outcomes": dict(collections.Counter(code for _, _, code, _ in results)),
        "health_green": sum(status == 200 for status, _ in health) / len(health),
        "health_p99_ms": harness.percentile([each for _, each in health], 0.99) * 1e3,
    }


async def measure(stack: Stack) -> dict[str, Any]:
    """Capacity, then the overload."""
    async with harness.gateway_client(stack) as session:
        full = await capacity(session)
        figures = await overload(session, FACTOR * full)
    return {"capacity_per_second": full, "goodput_of_capacity": figures["goodput_per_second"] / full, **figures}


if __name__ == "__main__":
    os.environ["TIDEGATE_MAX_CONCURRENT_REQUESTS"] = "512"
    with harness.instant_stack(service_ms=SERVICE_MS, places=PLACES) as running:
        harness.save("overload", asyncio.run(measure(running)))
