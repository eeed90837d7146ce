"""Ten thousand HTTP requests that the gateway should never see, or refuse: ``python -m benchmarks.api_fuzz``.

A gateway process as the platform starts it, before a small Triton. Schemathesis tries out what the API says of itself,
and then come requests that no description knows: mutated paths, odd headers, lengths that lie, bodies that are no
JSON. ``--examples`` is how many at least, half of them or more of the second kind; each run draws others. The command
fails for an answer that breaks the description, for a 5xx (503 and 504 are documented, and none is due here), for a
text that reaches Triton past the policy, and for a process that does not live through it.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import harness
from tests.gateway.fuzzing import described, fuzz
from tests.gateway.processes import running

EXAMPLES_A_DRAW = 20
"""Of those asked for: schemathesis draws for each of eleven operations, beside the cases that it always tries."""


async def measure(examples: int) -> dict[str, Any]:
    """How many were tried, and how they ended."""
    began, loop = time.perf_counter(), asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with running(folder) as gateway:
            usual = await described(gateway.url, max(examples // EXAMPLES_A_DRAW, 1), folder / "report.ndjson")
            others = max(examples // 2, examples - usual.total())
            odd = await asyncio.to_thread(fuzz, gateway.port, gateway.triton, loop, others, reproducible=False)
            async with gateway.client() as client:
                metrics = (await client.get("/metrics")).text
            assert gateway.process.returncode is None, "the gateway has ended"
        tracebacks = (folder / "gateway.log").read_text(encoding="utf-8").count("Traceback")
    assert "tidegate_requests_in_flight 0.0" in metrics, "a request never ended"
    assert set(re.findall(r'outcome="internal",route="[^"]+"} (\S+)', metrics)) == {"0.0"}, "a request failed inside"
    assert tracebacks == 0, "the log has a traceback"
    return {
        "cases": usual.total() + odd.total(),
        "seconds": round(time.perf_counter() - began, 1),
        "schemathesis": {"cases": usual.total(), "statuses": dict(sorted(usual.items()))},
        "raw": {"cases": odd.total(), "statuses": dict(sorted(odd.items()))},
        "server_errors": sum(count for status, count in (usual + odd).items() if status.startswith("5")),
        "crashes": 0,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=10_000)
    harness.save("api_fuzz", asyncio.run(measure(parser.parse_args().examples)))
