"""Whatever an HTTP request looks like, the gateway answers or refuses it, and goes on."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from .fuzzing import fuzz
from .processes import running


async def test_no_request_breaks_the_gateway(tmp_path: Path) -> None:
    """300 cases, the same each time; `python -m benchmarks.api_fuzz` tries thousands of others."""
    async with running(tmp_path) as gateway:
        loop = asyncio.get_running_loop()
        statuses = await asyncio.to_thread(fuzz, gateway.port, gateway.triton, loop, 300, reproducible=True)
        assert statuses.total() >= 300
        assert {"200", "400", "404", "405", "422"} <= statuses.keys()
        assert gateway.process.returncode is None
        async with gateway.client() as client:
            assert (await client.post("/generate", json={"text_input": "hi"})).status_code == 200
            metrics = (await client.get("/metrics")).text
    assert "tidegate_requests_in_flight 0.0" in metrics
    assert set(re.findall(r'outcome="internal",route="[^"]+"} (\S+)', metrics)) == {"0.0"}
    assert "Traceback" not in (tmp_path / "gateway.log").read_text()
