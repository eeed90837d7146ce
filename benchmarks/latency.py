"""What the gateway adds at a fixed rate: ``python -m benchmarks.latency``, two minutes.

Requests arrive at random (Poisson) 50, 100 and 200 times a second, whoever is still waiting; an instant model in a real
Triton answers. In turn: straight to Triton with raw grpc.aio stubs, and through ``POST /generate`` with everything on
(token, policy, quota, metrics, log). The gateway has a core to itself, client and Triton share the other one.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import grpc
from tritonclient.grpc import service_pb2_grpc

from benchmarks import harness
from benchmarks.throughput import BODY
from deploy.local.stack import Stack
from gateway.triton import contract

RATES, SECONDS, ROUNDS = (50, 100, 200), 3.0, 7


async def arrivals(rate: float, seconds: float, ask: Callable[[], Awaitable[None]], seed: int) -> list[float]:
    """Latencies in seconds, from the moment each request was sent."""
    draw, latencies = random.Random(seed), []

    async def one() -> None:
        began = time.perf_counter()
        await ask()
        latencies.append(time.perf_counter() - began)

    tasks, due, end = [], time.perf_counter(), time.perf_counter() + seconds
    while (due := due + draw.expovariate(rate)) < end:
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)
    return latencies


async def measure(stack: Stack) -> dict[str, Any]:
    """Milliseconds by rate: direct, through the gateway, and the median of the differences of each round."""
    headers = {"Authorization": f"Bearer {stack.token()}", "Content-Type": "application/json"}
    body = json.dumps(BODY).encode()
    values: dict[str, Any] = {**BODY, "stream": False, "add_special_tokens": True}
    figures: dict[str, Any] = {"rounds": ROUNDS, "seconds": SECONDS}
    async with (
        aiohttp.ClientSession(stack.url, headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session,
        grpc.aio.insecure_channel(f"127.0.0.1:{stack.ports.grpc}") as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        async def direct() -> None:
            call = stub.ModelStreamInfer()
            await call.write(contract.infer_request("generate", "x", values))
            await call.done_writing()
            async for message in call:
                assert not message.error_message

        async def through() -> None:
            async with session.post("/generate", data=body) as response:
                await response.read()
                assert response.status == 200

        for rate in RATES:
            await arrivals(rate, 1.0, through, 0)
            rounds = []
            for number in range(ROUNDS):
                pair = [await arrivals(rate, SECONDS, ask, number) for ask in (direct, through)]
                rounds.append([[harness.percentile(each, share) * 1e3 for share in (0.5, 0.99)] for each in pair])
            figures[f"rate_{rate}"] = summary(rounds)
    return figures


def summary(rounds: list[list[list[float]]]) -> dict[str, float]:
    """Medians over rounds of (direct, gateway), each (p50, p99) in ms."""
    found = {}
    for place, name in enumerate(("p50", "p99")):
        found[f"direct_{name}_ms"] = harness.median([direct[place] for direct, _ in rounds])
        found[f"gateway_{name}_ms"] = harness.median([through[place] for _, through in rounds])
        found[f"added_{name}_ms"] = harness.median([through[place] - direct[place] for direct, through in rounds])
    return found


if __name__ == "__main__":
    with harness.instant_stack() as running:
        harness.save("latency", asyncio.run(measure(running)))
