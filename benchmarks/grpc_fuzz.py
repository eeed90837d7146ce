"""Thousands of infer requests that no client would write, against the gRPC door: ``python -m benchmarks.grpc_fuzz``.

Each is sent by both methods to a gateway before a small Triton with five models. None may end with INTERNAL or UNKNOWN,
and no text may reach Triton that the policy has not seen; the first that does is shrunk and printed. ``--cases`` is how
many, 10,000 unless given; each run draws others.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
import time
from pathlib import Path

from benchmarks import harness
from tests.gateway.edge_grpc.fuzzing import fuzz
from tests.gateway.edge_grpc.kserve import kserve

OUTCOME = re.compile(r'tidegate_requests_total\{outcome="(\w+)",route="(grpc:\w+)"\} (\d+)')


async def measure(cases: int) -> dict[str, object]:
    """How many were tried, and how they ended. Raises AssertionError for one that broke the door."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        async with kserve(Path(folder)) as door:
            tried = await asyncio.to_thread(fuzz, door, asyncio.get_running_loop(), cases, reproducible=False)
            async with door.served.client() as client:
                metrics = (await client.get("/metrics")).text
    outcomes: dict[str, dict[str, int]] = {}
    for outcome, route, count in OUTCOME.findall(metrics):
        outcomes.setdefault(route, {})[outcome] = int(count)
    return {"cases": tried, "seconds": round(time.perf_counter() - began, 1), "outcomes": outcomes}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=10_000)
    harness.save("grpc_fuzz", asyncio.run(measure(parser.parse_args().cases)))
