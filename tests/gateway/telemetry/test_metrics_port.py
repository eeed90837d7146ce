"""``/metrics`` on a port of its own."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import httpx
import pytest

from tests.gateway.conftest import free_port
from tests.gateway.processes import running

from .scraping import scrape

OPENMETRICS = {"Accept": "application/openmetrics-text"}


@pytest.mark.parametrize("workers", [1, 2])
async def test_series_are_there_and_nowhere_else(tmp_path: Path, workers: int) -> None:
    """The HTTP port knows no `/metrics`, the other port nothing else; who asks it does not wait for who says nothing;
    with several workers each scrape tells of all; and SIGTERM ends it with the rest."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with running(tmp_path, metrics_port=port, workers=workers) as gateway:
        for _ in range(10):
            async with gateway.client() as client:
                assert (await client.post("/generate", json={"text_input": "one two"})).status_code == 200
                assert (await client.get("/metrics")).status_code == 404
        with socket.create_connection(("127.0.0.1", port)):
            for _ in range(6):
                assert (await scrape(url))("requests_total", route="/generate", outcome="ok") == 10
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("/metrics", headers=OPENMETRICS)).text.endswith("# EOF\n")
            for path in ("/health/live", "/generate", "/"):
                assert (await client.get(path)).status_code == 404
            assert (await client.post("/metrics")).status_code == 501
        gateway.process.terminate()
        assert await asyncio.wait_for(gateway.process.wait(), 15) == 0
        with pytest.raises(httpx.ConnectError):
            await scrape(url)
