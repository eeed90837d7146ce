"""Whatever an infer request looks like, the door answers or refuses it, and goes on."""

from __future__ import annotations

import asyncio
import re

from .fuzzing import fuzz
from .kserve import Kserved, bearer, infer


async def test_no_request_breaks_the_door(door: Kserved) -> None:
    """300 cases, the same each time; `python -m benchmarks.grpc_fuzz` tries thousands of others."""
    tried = await asyncio.to_thread(fuzz, door, asyncio.get_running_loop(), 300, reproducible=True)
    assert tried >= 300
    async with door.stub() as stub:
        await stub.ModelInfer(infer("numbers", 1.0), metadata=bearer())
    async with door.served.client() as client:
        metrics = (await client.get("/metrics")).text
    assert "tidegate_requests_in_flight 0.0" in metrics
    assert "tidegate_grpc_streams_open 0.0" in metrics
    assert set(re.findall(r'outcome="internal",route="[^"]+"} (\S+)', metrics)) == {"0.0"}
