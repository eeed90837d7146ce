"""What streams cost: ``python -m benchmarks.streams``, three minutes.

64 streams of 100 responses at once, each response checked by the word filter, before an instant model in a real Triton:
processor time of the gateway by response. Then 500 streams open for a minute with a response now and then: memory by
stream, errors, and how long ``/health/live`` takes meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

import aiohttp

from benchmarks import harness
from benchmarks.cores import cpu_seconds, resident_bytes
from benchmarks.throughput import BODY
from deploy.local.stack import Stack

STREAMS, RESPONSES, ROUNDS = 64, 100, 5
IDLE, IDLE_SECONDS = 500, 60


async def read_stream(session: aiohttp.ClientSession, tokens: int) -> tuple[int, float]:
    """Events of one stream, and seconds to the first."""
    began, first, events = time.perf_counter(), 0.0, 0
    async with session.post("/generate", json={**BODY, "max_tokens": tokens, "stream": True}) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if line.startswith(b"data:"):
                first = first or time.perf_counter() - began
                events += 1
                last = line
    assert json.loads(last[5:])["finish_reason"] == "length", last
    return events, first


async def relay(stack: Stack) -> dict[str, float]:
    """Medians of the rounds."""
    pid = harness.pid_of(stack.gateway)
    rows = []
    async with harness.gateway_client(stack) as session:
        await asyncio.gather(*(read_stream(session, 10) for _ in range(STREAMS)))
        for _ in range(ROUNDS):
            used, began = cpu_seconds(pid), time.perf_counter()
            results = await asyncio.gather(*(read_stream(session, RESPONSES) for _ in range(STREAMS)))
            events = sum(each for each, _ in results)
            row = {"cpu_us_per_response": (cpu_seconds(pid) - used) / (STREAMS * RESPONSES) * 1e6}
            row |= {"responses_per_second": STREAMS * RESPONSES / (time.perf_counter() - began)}
            row |= {"events_per_response": events / (STREAMS * RESPONSES)}
            row |= {"first_text_p50_ms": harness.median([first for _, first in results]) * 1e3}
            rows.append(row)
    return {key: harness.median([row[key] for row in rows]) for key in rows[0]}


async def idle(stack: Stack) -> dict[str, float]:
    """500 streams for a minute."""
    pid = harness.pid_of(stack.gateway)
    async with harness.gateway_client(stack) as session:
        await read_stream(session, 5)
        before = resident_bytes(pid)
        end = time.perf_counter() + IDLE_SECONDS
        tasks = [asyncio.create_task(read_stream(session, IDLE_SECONDS)) for _ in range(IDLE)]
        await asyncio.sleep(IDLE_SECONDS / 3)
        memory, health = resident_bytes(pid) - before, []
        while time.perf_counter() < end - 5:
            began = time.perf_counter()
            async with session.get("/health/live") as response:
                await response.read()
            health.append(time.perf_counter() - began)
            await asyncio.sleep(0.05)
        results = await asyncio.gather(*tasks, return_exceptions=True)
    return {
        "streams": IDLE,
        "seconds": IDLE_SECONDS,
        "errors": sum(isinstance(each, BaseException) for each in results),
        "kib_per_stream": memory / IDLE / 1024,
        "health_p99_ms": harness.percentile(health, 0.99) * 1e3,
    }


def main() -> None:
    """Measure and save."""
    os.environ["TIDEGATE_MAX_CONCURRENT_REQUESTS"] = "1000"
    with harness.instant_stack() as stack:
        figures: dict[str, Any] = {"relay": asyncio.run(relay(stack))}
    with harness.instant_stack(pace_ms=1000) as stack:
        figures["idle"] = asyncio.run(idle(stack))
    harness.save("streams", figures)


if __name__ == "__main__":
    main()
