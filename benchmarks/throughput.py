"""Requests a second that one gateway core serves: ``python -m benchmarks.throughput``, half a minute.

wrk (closed loop, 16 and 64 connections) asks ``POST /generate`` before an instant model in a real Triton, with
everything on: token, policy, metrics, log. The gateway has a core to itself; wrk and Triton share the other one.
Beside it the same question straight to Triton, by the same kind of gRPC call from that same core: what no gateway can
undercut.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from benchmarks import harness
from benchmarks.cores import cpu_seconds, pin
from deploy.local.stack import Stack
from gateway.triton import contract

CONNECTIONS, SECONDS, ROUNDS = (16, 64), 4, 3
BODY: dict[str, Any] = {
    "text_input": "Please tell me in a few words what the weather in the mountains is like in early spring, and what "
    "one should take along.",
    "max_tokens": 16,
}
SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {token}"
wrk.body = '{body}'
done = function(summary, latency)
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration,
    summary.errors.status + summary.errors.timeout + summary.errors.read + summary.errors.connect,
    latency:percentile(50), latency:percentile(99)))
end
"""


def wrk(
    url: str,
    token: str,
    connections: int,
    seconds: int,
    script: Path,
    path: str = "/generate",
    body: Mapping[str, Any] = BODY,
) -> dict[str, float]:
    """One run: requests a second and latencies in ms. Raises RuntimeError when a request failed."""
    script.write_text(SCRIPT.format(token=token, body=json.dumps(body)), encoding="utf-8")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url + path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    requests, microseconds, failed, p50, p99 = map(int, line.split()[1:])
    if failed:
        raise RuntimeError(f"{failed} of {requests} requests failed:\n{done.stdout}")
    return {
        "requests": requests,
        "per_second": requests / microseconds * 1e6,
        "p50_ms": p50 / 1000,
        "p99_ms": p99 / 1000,
    }


async def direct(stack: Stack, clients: int) -> dict[str, float]:
    """Calls a second and microseconds of processor time a call, without a gateway."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.ports.grpc}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = contract.infer_request("generate", "x", {**BODY, "stream": False})
        done, end = 0, time.perf_counter() + SECONDS

        async def client() -> None:
            nonlocal done
            while time.perf_counter() < end:
                call = stub.ModelStreamInfer()
                await call.write(request)
                await call.done_writing()
                async for message in call:
                    assert not message.error_message
                done += 1

        began, used = time.perf_counter(), time.process_time()
        await asyncio.gather(*(client() for _ in range(clients)))
        return {
            "per_second": done / (time.perf_counter() - began),
            "cpu_us_per_request": (time.process_time() - used) / done * 1e6,
        }


def measure(stack: Stack, folder: Path) -> dict[str, Any]:
    """By number of connections, the median of the rounds."""
    figures: dict[str, Any] = {}
    gateway, token, script = harness.pid_of(stack.gateway), stack.token(), folder / "ask.lua"
    for connections in CONNECTIONS:
        pin(os.getpid(), 1)
        figures[f"direct_{connections}"] = asyncio.run(direct(stack, connections))
        pin(os.getpid(), 0)
        wrk(stack.url, token, connections, 1, script)
        rows = []
        for _ in range(ROUNDS):
            before = cpu_seconds(gateway)
            row = wrk(stack.url, token, connections, SECONDS, script)
            row["cpu_us_per_request"] = (cpu_seconds(gateway) - before) / row["requests"] * 1e6
            rows.append(row)
        figures[f"connections_{connections}"] = {key: harness.median([row[key] for row in rows]) for key in rows[0]}
    return figures


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="tidegate-wrk-") as name, harness.instant_stack() as running:
        harness.save("throughput", measure(running, Path(name)))
