"""A gateway as a process of its own, as the platform starts it, before a fake Triton."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from .conftest import KEY, POLICY, free_port, good_token, serve_triton
from .fake_triton import FakeTriton


@dataclass
class Running:
    """The process, where it listens, and the Triton behind it."""

    process: asyncio.subprocess.Process
    url: str
    port: int
    triton: FakeTriton

    def client(self) -> httpx.AsyncClient:
        """A client with a good token."""
        headers = {"Authorization": f"Bearer {good_token()}"}
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20, limits=limits)

    async def until_ready(self) -> None:
        """Wait until it answers that it is ready; fails when it has ended."""
        async with httpx.AsyncClient(base_url=self.url) as client:
            while True:
                assert self.process.returncode is None, "the gateway did not start"
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get("/health/ready")).status_code == 200:
                        return
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(tmp_path: Path, **settings: object) -> AsyncIterator[Running]:
    """``python -m gateway serve`` with these settings, ended by SIGKILL if it still runs at the end."""
    (tmp_path / "words.txt").write_text("bad word\n", encoding="utf-8")
    (tmp_path / "policy.yaml").write_text(POLICY, encoding="utf-8")
    triton, address, port = FakeTriton(), f"127.0.0.1:{free_port()}", free_port()
    server = await serve_triton(triton, address)
    values = {"jwt_key": KEY, "policy_file": tmp_path / "policy.yaml", "triton_url": address, "port": port, **settings}
    environment = {**os.environ, **{f"TIDEGATE_{name.upper()}": str(value) for name, value in values.items()}}
    with (tmp_path / "gateway.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "serve", env=environment, stdout=log, stderr=log
        )
    each = Running(process, f"http://127.0.0.1:{port}", port, triton)
    try:
        await asyncio.wait_for(each.until_ready(), 30)
        yield each
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await server.stop(None)
