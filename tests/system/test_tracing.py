"""A real Triton goes on with the gateway's trace."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.instant.repository import instant_repository
from deploy.local.triton_server import Ports, command, environment
from tests.gateway.conftest import free_port, serve
from tests.gateway.telemetry.collector import Collector, collecting

RECORDED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOT_RECORDED = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


async def test_tritons_spans_are_part_of_the_requests_trace(tmp_path: Path) -> None:
    """Under the gateway's call, queue and computation included, as docs/tracing.md sets Triton up; a request that
    nobody records leaves none there either."""
    with collecting() as collector, tracing_triton(tmp_path, collector) as address:
        await asked(tmp_path, address, collector)
    call, within = collector.named("triton"), collector.named("InferRequest")
    assert (within.trace_id, within.parent_span_id) == (call.trace_id, call.span_id)
    model = collector.named("generate")
    assert model.parent_span_id == within.span_id
    assert collector.named("compute").parent_span_id == model.span_id
    assert {each.trace_id.hex() for each in collector.spans} == {RECORDED[3:35]}
    assert not any(b"MARKER" in body for body in collector.bodies)


@contextlib.contextmanager
def tracing_triton(tmp_path: Path, collector: Collector) -> Iterator[str]:
    """The address of a Triton with an instant model; it may still be starting."""
    ports = Ports(free_port(), free_port(), free_port())
    flags = ["mode=opentelemetry", f"opentelemetry,url={collector.url}/v1/traces", "rate=0", "level=TIMESTAMPS"]
    line = command(instant_repository(tmp_path / "repository"), tmp_path, ports)
    line += [f"--trace-config={each}" for each in [*flags, "opentelemetry,bsp_schedule_delay=100"]]
    with (tmp_path / "triton.log").open("wb") as log:
        triton = subprocess.Popen(line, env=environment(), stdout=log, stderr=log)
        try:
            yield f"127.0.0.1:{ports.grpc}"
        finally:
            triton.terminate()
            triton.wait(30)


async def asked(tmp_path: Path, address: str, collector: Collector) -> None:
    """A request that is not recorded, then one that is; returns when Triton has sent its part."""
    async with serve(tmp_path, triton_url=address, tracing_endpoint=collector.url) as served, served.client() as client:
        ends = time.monotonic() + 60
        while (await client.get("/health/ready")).status_code != 200:
            assert time.monotonic() < ends, (tmp_path / "triton.log").read_text()
            await asyncio.sleep(0.05)
        for parent in (NOT_RECORDED, RECORDED):
            body = {"text_input": "MARKER", "max_tokens": 3, "stream": True}
            answer = await client.post("/generate", json=body, headers={"traceparent": parent})
            assert answer.status_code == 200
        while not any(each.name == "InferRequest" for each in collector.spans):
            assert time.monotonic() < ends, "Triton has sent nothing"
            await asyncio.sleep(0.05)
