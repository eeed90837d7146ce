"""What the benchmarks share: a stack of their own, one request, medians, and a result file."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import tritonclient.grpc.aio as triton

from benchmarks.cores import pin
from benchmarks.instant.repository import instant_repository
from deploy.local import stack as local
from deploy.local.processes import Background
from deploy.local.triton_server import Ports

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
INT8_REPOSITORY = ROOT / "model_repository"
FP32_REPOSITORY = ROOT / ".build" / "repository-fp32"


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextlib.contextmanager
def running_stack(repository: Path = INT8_REPOSITORY) -> Iterator[local.Stack]:
    """Triton and a gateway on free loopback ports, stopped at the end."""
    gateway, http, grpc, metrics = free_ports(4)
    with tempfile.TemporaryDirectory() as run_dir:
        stack = local.Stack(repository, Path(run_dir), gateway, Ports(http, grpc, metrics))
        try:
            local.start(stack)
            yield stack
        finally:
            local.stop(stack)


@contextlib.contextmanager
def instant_stack(**options: float) -> Iterator[local.Stack]:
    """A stack with the instant model (see :mod:`benchmarks.instant.repository`): the gateway has a core to itself,
    Triton and this process share the other one."""
    with contextlib.ExitStack() as held:
        folder = held.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-instant-"))
        stack = held.enter_context(running_stack(instant_repository(Path(folder) / "repository", **options)))
        for process, core in ((stack.gateway, 1), (stack.triton, 0)):
            pin(pid_of(process), core)
        pin(os.getpid(), 0)
        yield stack


def pid_of(process: Background) -> int:
    """The id of a process that runs."""
    pid = process.pid()
    assert pid is not None, f"{process.name} does not run"
    return pid


@contextlib.asynccontextmanager
async def gateway_client(stack: local.Stack) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client with a token and as many connections as it likes."""
    headers = {"Authorization": f"Bearer {stack.token()}"}
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(stack.url, headers=headers, connector=connector, timeout=timeout) as session:
        yield session


async def ask_gateway(session: aiohttp.ClientSession, body: dict[str, Any]) -> float:
    """One request through the gateway, read to its end. Returns seconds."""
    began = time.perf_counter()
    async with session.post("/generate", json=body) as response:
        content = await response.read()
        if response.status != 200:
            raise RuntimeError(content.decode())
    return time.perf_counter() - began


async def ask_triton(
    client: triton.InferenceServerClient, text: str, max_tokens: int, stream: bool
) -> tuple[float, str]:
    """One request straight to Triton with its own client. Returns seconds and the text."""
    values = {
        "text_input": ("BYTES", text.encode(), np.object_),
        "max_tokens": ("INT32", max_tokens, np.int32),
    }
    values |= {"stream": ("BOOL", stream, np.bool_), "add_special_tokens": ("BOOL", False, np.bool_)}
    inputs = []
    for name, (kind, value, dtype) in values.items():
        tensor = triton.InferInput(name, [1, 1], kind)
        tensor.set_data_from_numpy(np.array([[value]], dtype))
        inputs.append(tensor)

    async def request() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": "generate", "inputs": inputs}

    began = time.perf_counter()
    answer = b""
    async for result, error in client.stream_infer(request()):
        if error is not None:
            raise error
        answer += result.as_numpy("text_output").item()
    return time.perf_counter() - began, answer.decode()


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the sorted values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def save(name: str, figures: dict[str, Any]) -> None:
    """Write ``results/<name>.json`` with the machine beside the figures, and print it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    record = {"command": f"python -m benchmarks.{name}", "machine": machine(), **figures}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    sys.stdout.write(json.dumps(record, indent=1) + "\n")


def renew(page: Path, text: str, name: str = "figures") -> None:
    """Put ``text`` between the page's markers ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def median(values: Sequence[float]) -> float:
    """The median."""
    return float(statistics.median(values))


def machine() -> dict[str, Any]:
    """What figures were measured on."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load_average": [round(each, 2) for each in os.getloadavg()],
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
