"""One real Triton and one real gateway for the system tests, on ports of their own."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy.local import stack as local
from deploy.local.triton_server import Ports

ROOT = Path(__file__).resolve().parents[2]
INT8_REPOSITORY = ROOT / "model_repository"
FP32_REPOSITORY = ROOT / ".build" / "repository-fp32"
ONNX_REPOSITORY = ROOT / ".build" / "repository-onnx"


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def make_stack(repository: Path, run_dir: Path) -> local.Stack:
    """A stack beside any other that runs on this machine."""
    gateway, http, grpc, metrics = free_ports(4)
    return local.Stack(repository, run_dir, gateway, Ports(http, grpc, metrics))


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[local.Stack]:
    """Triton with the int8 demo model and a gateway before it."""
    assert (INT8_REPOSITORY / "generate").is_dir(), "build the demo model first: make model"
    each = make_stack(INT8_REPOSITORY, tmp_path_factory.mktemp("stack"))
    try:
        local.start(each)
        yield each
    finally:
        local.stop(each)


@pytest.fixture(scope="session")
def auth(stack: local.Stack) -> dict[str, str]:
    """The header of a valid token."""
    return {"Authorization": f"Bearer {stack.token()}"}


@pytest.fixture
def http(stack: local.Stack, auth: dict[str, str]) -> Iterator[httpx.Client]:
    """A client at the gateway's front door, with a token."""
    with httpx.Client(base_url=stack.url, headers=auth, timeout=60) as client:
        yield client


def events(response: httpx.Response) -> list[dict[str, object]]:
    """The JSON payloads of a finished SSE response."""
    return [json.loads(line[5:]) for line in response.text.splitlines() if line.startswith("data:")]


def backend_metric(stack: local.Stack, name: str, **labels: str) -> float:
    """The sum of one of the backend's series, as Triton's own metrics endpoint shows it."""
    text = httpx.get(f"http://127.0.0.1:{stack.ports.metrics}/metrics").text
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    lines = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    values = [float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in wanted)]
    assert values, f"Triton shows no series {name}"
    return sum(values)
