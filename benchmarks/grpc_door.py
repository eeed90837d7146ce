"""What the gRPC door costs beside the HTTP one: ``python -m benchmarks.grpc_door``, a minute.

An instant model in a real Triton answers; everything is on (token, policy, quota, metrics, log). In turn over both
doors: 64 streams of 100 responses at once, and 16 clients that ask one request after the other. The figure is the
processor time of the gateway, which has a core to itself.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from benchmarks import harness
from benchmarks.cores import cpu_seconds
from benchmarks.streams import RESPONSES, STREAMS, read_stream
from benchmarks.throughput import BODY
from deploy.local.stack import Stack
from gateway.triton import contract

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
CLIENTS, REQUESTS, ROUNDS = 16, 1600, 5


def request(tokens: int) -> pb.ModelInferRequest:
    """What a client of the gRPC door sends."""
    return contract.infer_request("generate", "x", {"text_input": str(BODY["text_input"]), "max_tokens": tokens})


async def read_grpc_stream(stub: Any, metadata: Any) -> None:
    """One stream with one request, read to its end."""
    call = stub.ModelStreamInfer(metadata=metadata)
    await call.write(request(RESPONSES))
    await call.done_writing()
    count = 0
    async for message in call:
        assert not message.error_message, message.error_message
        count += 1
    assert count == RESPONSES, count


async def alternated(pid: int, work: Mapping[str, Callable[[], Awaitable[object]]], units: int) -> dict[str, float]:
    """Processor time by unit in µs over each door, in turn; medians of the rounds, and of the rounds' ratios."""
    rows: list[dict[str, float]] = []
    for _ in range(ROUNDS + 1):
        row = {}
        for name, one_round in work.items():
            before = cpu_seconds(pid)
            await one_round()
            row[f"{name}_cpu_us"] = (cpu_seconds(pid) - before) / units * 1e6
        row["grpc_to_http"] = row["grpc_cpu_us"] / row["http_cpu_us"]
        rows.append(row)
    return {key: harness.median([row[key] for row in rows[1:]]) for key in rows[0]}


async def closed_loop(ask: Callable[[], Awaitable[None]]) -> None:
    """Clients that ask one request after the other."""

    async def client() -> None:
        for _ in range(REQUESTS // CLIENTS):
            await ask()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


async def measure(stack: Stack, address: str) -> dict[str, Any]:
    """By relayed response, and by request."""
    pid, headers = harness.pid_of(stack.gateway), {"Content-Type": "application/json"}
    metadata = (("authorization", f"Bearer {stack.token()}"),)
    body = json.dumps(BODY).encode()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        async def http_streams() -> None:
            async with harness.gateway_client(stack) as session:  # an old one's connections are closed by now
                await asyncio.gather(*(read_stream(session, RESPONSES) for _ in range(STREAMS)))

        async def grpc_streams() -> None:
            await asyncio.gather(*(read_grpc_stream(stub, metadata) for _ in range(STREAMS)))

        async def http_requests() -> None:
            async with harness.gateway_client(stack) as session:

                async def ask() -> None:
                    async with session.post("/generate", data=body, headers=headers) as response:
                        await response.read()
                        assert response.status == 200

                await closed_loop(ask)

        async def grpc_requests() -> None:
            async def ask() -> None:
                await stub.ModelInfer(request(int(str(BODY["max_tokens"]))), metadata=metadata)

            await closed_loop(ask)

        relayed = {"http": http_streams, "grpc": grpc_streams}
        asked = {"http": http_requests, "grpc": grpc_requests}
        return {
            "rounds": ROUNDS,
            "by_relayed_response": await alternated(pid, relayed, STREAMS * RESPONSES),
            "by_unary_request": await alternated(pid, asked, REQUESTS),
        }


def write_table(figures: dict[str, Any]) -> None:
    """Renew the table of docs/grpc.md."""
    rows = []
    for key, what in (("by_relayed_response", "a relayed response"), ("by_unary_request", "a unary request")):
        each = figures[key]
        rows.append(
            f"| {what} | {each['http_cpu_us']:.0f} µs | {each['grpc_cpu_us']:.0f} µs | {each['grpc_to_http']:.2f} |"
        )
    table = "\n".join([BEGIN, "| | HTTP | gRPC | gRPC to HTTP |", "|---|---|---|---|", *rows, END])
    page = harness.ROOT / "docs" / "grpc.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(before + table + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    (port,) = harness.free_ports(1)
    os.environ |= {"TIDEGATE_GRPC_PORT": str(port), "TIDEGATE_MAX_CONCURRENT_REQUESTS": "1000"}
    with harness.instant_stack() as running:
        measured = asyncio.run(measure(running, f"127.0.0.1:{port}"))
    harness.save("grpc_door", measured)
    write_table(measured)
