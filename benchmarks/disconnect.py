"""How soon a client that leaves has freed its place in the batch: ``python -m benchmarks.disconnect``.

A long generation is started through the gateway, the client closes its connection once it runs in the batch, and the
backend's own gauge is polled until the sequence is gone. 50 times streaming, 50 times not. The poll's own round trip
(an HTTP request to Triton's metrics endpoint) is part of the figure.
"""

from __future__ import annotations

import asyncio
import time

import aiohttp

from benchmarks import harness
from deploy.local.stack import Stack

TIMES = 50
LONG = {"text_input": "Count to ten thousand: 1, 2, 3,", "max_tokens": 1500, "ignore_eos": True}


async def running_sequences(session: aiohttp.ClientSession, url: str) -> float:
    """The backend's gauge, as Triton exports it."""
    async with session.get(url) as response:
        text = await response.text()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith("tidegate_backend_running_sequences{")
    )


async def leave_once(stack: Stack, session: aiohttp.ClientSession, stream: bool) -> float:
    """Seconds from closing the connection to the empty batch."""
    url = f"http://127.0.0.1:{stack.ports.metrics}/metrics"
    async with harness.gateway_client(stack) as client:
        request = asyncio.create_task(client.post("/generate", json={**LONG, "stream": stream}))
        while await running_sequences(session, url) != 1:
            if request.done() and request.result().status != 200:
                raise RuntimeError(await request.result().text())
            await asyncio.sleep(0.005)
        if stream:
            await (await request).content.readany()
        else:
            request.cancel()
    began = time.perf_counter()
    while await running_sequences(session, url) != 0:
        await asyncio.sleep(0.002)
    return time.perf_counter() - began


async def measure(stack: Stack) -> dict[str, object]:
    """Milliseconds, streaming and not."""
    figures: dict[str, object] = {"times": TIMES}
    async with aiohttp.ClientSession() as session:
        for name, stream in (("streaming", True), ("not_streaming", False)):
            seconds = [await leave_once(stack, session, stream) for _ in range(TIMES)]
            figures[f"{name}_median_ms"] = harness.median(seconds) * 1e3
            figures[f"{name}_p90_ms"] = harness.percentile(seconds, 0.9) * 1e3
            figures[f"{name}_max_ms"] = max(seconds) * 1e3
    return figures


if __name__ == "__main__":
    with harness.running_stack() as running:
        harness.save("disconnect", asyncio.run(measure(running)))
