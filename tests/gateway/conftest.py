"""A gateway served by a real uvicorn, a fake Triton behind it, real HTTP clients before it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
import uvicorn
from tritonclient.grpc import service_pb2_grpc

from gateway.access import mint
from gateway.app import create_app
from gateway.protocol import bounded
from gateway.settings import Settings

from .fake_triton import FakeTriton

POLICY = """
version: test
lists:
  - {name: words, file: words.txt}
"""
KEY = "0123456789abcdef" * 4


@dataclass
class Served:
    """A running gateway and the Triton behind it."""

    url: str
    triton: FakeTriton
    triton_address: str
    triton_server: grpc.aio.Server

    def client(self, token: str | None = None) -> httpx.AsyncClient:
        """An HTTP client; with a good token unless another is given, an empty one for none."""
        token = good_token() if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=10)


def good_token(**changes: str) -> str:
    """A token the gateway takes, unless a claim is changed."""
    claims = {"audience": "tidegate", "issuer": "tidegate", "subject": "ann", "tenant": "acme", "scope": "generate"}
    return mint(KEY, lifetime_seconds=600, **{**claims, **changes})


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def serve_triton(triton: FakeTriton, address: str) -> grpc.aio.Server:
    """Start the fake on ``address``."""
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    assert server.add_insecure_port(address)
    await server.start()
    return server


@contextlib.asynccontextmanager
async def serve(tmp_path: Path, triton: FakeTriton | None = None, **settings: object) -> AsyncIterator[Served]:
    """A gateway with these settings, before ``triton``."""
    words = tmp_path / "words.txt"
    words.write_text("# a comment\n炸弹\tblock\tweapons\nbad word\nfishy\tflag\tfraud\n", encoding="utf-8")
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY, encoding="utf-8")
    triton, address = triton or FakeTriton(), f"127.0.0.1:{free_port()}"
    triton_server = await serve_triton(triton, address)
    defaults: dict[str, object] = {"jwt_key": KEY, "policy_file": policy, "triton_url": address}
    chosen = Settings(**{**defaults, **settings})  # type: ignore[arg-type]
    app, port = create_app(chosen), free_port()
    http = bounded(chosen.max_header_bytes, chosen.header_timeout_seconds, chosen.max_connections)
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, http=http, log_config=None, access_log=False, timeout_graceful_shutdown=1)
    )
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done(), "the gateway did not start"
        await asyncio.sleep(0.01)
    try:
        yield Served(f"http://127.0.0.1:{port}", triton, address, triton_server)
    finally:
        server.should_exit = True
        await task
        await triton_server.stop(None)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """A gateway with ordinary settings."""
    async with serve(tmp_path) as each:
        yield each


@pytest.fixture(autouse=True)
def quiet_uvicorn() -> None:
    """Uvicorn's own log lines are no part of a test's output."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
