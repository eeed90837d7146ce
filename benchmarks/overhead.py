"""What the gateway adds to a direct call of Triton: ``python -m benchmarks.overhead``.

The same request (a short prompt, 4 tokens, not streamed) once straight to Triton by ``tritonclient.grpc.aio`` and once
through ``POST /generate`` with token check, word check, metrics and log; alternated, at 1 and 16 clients. Clients,
gateway and Triton share the machine's cores.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import tritonclient.grpc.aio as triton

from benchmarks import harness
from deploy.local.stack import Stack

TEXT, TOKENS, ROUNDS = "The capital of France is", 4, 7
REQUESTS = {1: 60, 16: 320}


async def latencies(clients: int, ask: Callable[[], Awaitable[float]]) -> list[float]:
    """Closed loop: each client sends its next request when the last one was answered. Seconds."""

    async def client() -> list[float]:
        return [await ask() for _ in range(REQUESTS[clients] // clients)]

    return [each for one in await asyncio.gather(*(client() for _ in range(clients))) for each in one]


async def measure(stack: Stack) -> dict[str, object]:
    """Milliseconds by number of clients."""
    figures: dict[str, object] = {"rounds": ROUNDS, "requests_per_round": REQUESTS, "tokens": TOKENS}
    direct_client = triton.InferenceServerClient(f"127.0.0.1:{stack.ports.grpc}")
    async with direct_client, harness.gateway_client(stack) as session:

        async def direct() -> float:
            return (await harness.ask_triton(direct_client, TEXT, TOKENS, stream=False))[0]

        async def through() -> float:
            return await harness.ask_gateway(session, {"text_input": TEXT, "max_tokens": TOKENS})

        for clients in REQUESTS:
            await latencies(clients, direct)
            await latencies(clients, through)
            rounds = [(await latencies(clients, direct), await latencies(clients, through)) for _ in range(ROUNDS)]
            figures[f"clients_{clients}"] = _summary(rounds)
    return figures


def _summary(rounds: list[tuple[list[float], list[float]]]) -> dict[str, float]:
    result = {}
    for name, share in (("p50", 0.50), ("p99", 0.99)):
        direct = [harness.percentile(each, share) * 1e3 for each, _ in rounds]
        through = [harness.percentile(each, share) * 1e3 for _, each in rounds]
        result[f"direct_{name}_ms"] = harness.median(direct)
        result[f"gateway_{name}_ms"] = harness.median(through)
        result[f"added_{name}_ms"] = harness.median([b - a for a, b in zip(direct, through, strict=True)])
    return result


if __name__ == "__main__":
    with harness.running_stack() as running:
        harness.save("overhead", asyncio.run(measure(running)))
