"""The API does what its own description says, whatever is sent: schemathesis against a served gateway."""

from __future__ import annotations

import asyncio
import re
import sys

from .conftest import Served, good_token

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "ignored_auth",
    "unsupported_method",
)


async def test_every_operation_keeps_to_its_description(served: Served) -> None:
    """No 500, no undocumented status, no body of another shape, no bad body accepted, no way around the token."""
    fuzzer = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json",
        "--header", f"Authorization: Bearer {good_token(scope='generate models:read')}", "--checks", ",".join(CHECKS),
        "--phases", "examples,coverage,fuzzing", "--mode", "all", "--max-examples", "100",
        "--generation-database", "none", "--suppress-health-check", "all", "--no-color",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output = (await asyncio.wait_for(fuzzer.communicate(), 120))[0].decode()
    assert fuzzer.returncode == 0, output[-6000:]
    cases = re.search(r"(\d+) generated", output)
    assert cases is not None, output[-2000:]
    assert int(cases[1]) > 400, output[-2000:]
