"""What a quota costs: ``python -m benchmarks.quotas``, ten seconds; starts a redis-server of its own.

A stream's question whether it may go on (``take``), and a request's admission with its settlement, one after another,
with accounts in memory, in a shared folder and in Redis: µs of this process, and µs until the answer.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import harness
from gateway.telemetry import Telemetry
from gateway.traffic.quotas import Quotas, open_quotas

FILE = """
default: all
classes:
  all: {requests_per_second: 1000000, concurrent_streams: 1000, tokens_per_minute: 100000000, tokens_per_day: 100000000}
"""
TAKES, REQUESTS, ROUNDS, RUNNING = 200_000, 2000, 5, 64


async def take(quotas: Quotas) -> float:
    """µs of one ``take`` in a stream of many tokens; asking the account every 256 tokens is part of it."""
    lease = await quotas.admit("tenant", "", TAKES * 2)
    began = time.process_time()
    for number in range(TAKES):
        lease.take(number)
    spent = time.process_time() - began
    await lease.settle(TAKES)
    return spent / TAKES * 1e6


async def requests(quotas: Quotas) -> tuple[float, float]:
    """µs of this process, and µs gone by, for an admission and a settlement, while other streams of the tenant run."""
    running = [await quotas.admit("tenant", "", 500, 100) for _ in range(RUNNING)]
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(REQUESTS):
        lease = await quotas.admit("tenant", "", 500, 100)
        await lease.settle(300)
    spent = time.process_time() - cpu, time.perf_counter() - wall
    for lease in running:
        await lease.settle(300)
    return spent[0] / REQUESTS * 1e6, spent[1] / REQUESTS * 1e6


async def measure(opened: Callable[[], Quotas]) -> dict[str, float]:
    """The medians of the rounds."""
    takes, cpus, walls = [], [], []
    for _ in range(ROUNDS):
        quotas = opened()
        takes.append(await take(quotas))
        cpu, wall = await requests(quotas)
        cpus.append(cpu)
        walls.append(wall)
        await quotas.close()
    return {
        "take_us": harness.median(takes),
        "request_cpu_us": harness.median(cpus),
        "request_wall_us": harness.median(walls),
    }


def redis_server(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A redis-server and its port."""
    program = shutil.which("redis-server")
    assert program, "there is no redis-server here: run deploy/local/install-test-tools"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process, port
        except ConnectionRefusedError:
            assert process.poll() is None, "redis-server did not start"
            time.sleep(0.02)


async def main(folder: Path) -> dict[str, Any]:
    """By place of the accounts."""
    file = folder / "quotas.yaml"
    file.write_text(FILE, encoding="utf-8")
    process, port = redis_server(folder)
    try:
        return {
            "memory": await measure(lambda: open_quotas(file, Telemetry(), lifetime_seconds=600)),
            "folder": await measure(
                lambda: open_quotas(file, Telemetry(), lifetime_seconds=600, directory=folder / "accounts")
            ),
            "redis": await measure(
                lambda: open_quotas(file, Telemetry(), lifetime_seconds=600, redis_url=f"redis://127.0.0.1:{port}/0")
            ),
        }
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="tidegate-quotas-") as name:
        harness.save("quotas", asyncio.run(main(Path(name))))
