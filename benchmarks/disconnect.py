"""How soon a client that leaves has freed its place in the batch: ``python -m benchmarks.disconnect``.

A long generation is started through the gateway, the client leaves once it runs in the batch, and the backend's own
gauge is polled until the sequence is gone. 50 times streaming, 50 times not, over ``/generate``, ``/v1/completions``
and gRPC. The poll's own round trip (an HTTP request to Triton's metrics endpoint) is part of the figure.
"""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from typing import Any

import aiohttp
import grpc
from tritonclient.grpc import service_pb2_grpc

from benchmarks import harness
from deploy.local.stack import Stack
from gateway.triton import contract
from gateway.triton.contract import Value

TIMES = 50
LONG: dict[str, Value] = {"text_input": "Count to ten thousand: 1, 2, 3,", "max_tokens": 1500, "ignore_eos": True}
OPENAI = {"model": "generate", "prompt": LONG["text_input"], "max_tokens": 1500, "ignore_eos": True}


async def running_sequences(session: aiohttp.ClientSession, url: str) -> float:
    """The backend's gauge, as Triton exports it."""
    async with session.get(url) as response:
        text = await response.text()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith("tidegate_backend_running_sequences{")
    )


async def leave_once(stack: Stack, session: aiohttp.ClientSession, path: str, stream: bool) -> float:
    """Seconds from closing the connection to the empty batch."""
    url = f"http://127.0.0.1:{stack.ports.metrics}/metrics"
    async with harness.gateway_client(stack) as client:
        body = {**LONG, "stream": stream} if path == "/generate" else {**OPENAI, "stream": stream}
        request = asyncio.create_task(client.post(path, json=body))
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


async def leave_grpc_once(
    stack: Stack, session: aiohttp.ClientSession, stub: Any, metadata: Any, stream: bool
) -> float:
    """Seconds from cancelling the call to the empty batch."""
    url = f"http://127.0.0.1:{stack.ports.metrics}/metrics"
    request = contract.infer_request("generate", "x", LONG)
    if stream:
        call = stub.ModelStreamInfer(metadata=metadata)
        await call.write(request)
        await call.read()
    else:
        call = stub.ModelInfer(request, metadata=metadata)
    while await running_sequences(session, url) != 1:
        await asyncio.sleep(0.005)
    began = time.perf_counter()
    call.cancel()
    while await running_sequences(session, url) != 0:
        await asyncio.sleep(0.002)
    return time.perf_counter() - began


async def measure(stack: Stack, address: str) -> dict[str, object]:
    """Milliseconds, streaming and not, over each door."""
    figures: dict[str, object] = {"times": TIMES}
    metadata = (("authorization", f"Bearer {stack.token()}"),)
    async with aiohttp.ClientSession() as session, grpc.aio.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for name, leave in (
            ("streaming", partial(leave_once, stack, session, "/generate", True)),
            ("not_streaming", partial(leave_once, stack, session, "/generate", False)),
            ("openai_streaming", partial(leave_once, stack, session, "/v1/completions", True)),
            ("openai_not_streaming", partial(leave_once, stack, session, "/v1/completions", False)),
            ("grpc_streaming", partial(leave_grpc_once, stack, session, stub, metadata, True)),
            ("grpc_not_streaming", partial(leave_grpc_once, stack, session, stub, metadata, False)),
        ):
            seconds = [await leave() for _ in range(TIMES)]
            figures[f"{name}_median_ms"] = harness.median(seconds) * 1e3
            figures[f"{name}_p90_ms"] = harness.percentile(seconds, 0.9) * 1e3
            figures[f"{name}_max_ms"] = max(seconds) * 1e3
    return figures


if __name__ == "__main__":
    (port,) = harness.free_ports(1)
    os.environ["TIDEGATE_GRPC_PORT"] = str(port)
    with harness.running_stack() as running:
        harness.save("disconnect", asyncio.run(measure(running, f"127.0.0.1:{port}")))
