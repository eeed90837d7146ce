"""The API does what its own description says, whatever is sent: schemathesis against a served gateway."""

from __future__ import annotations

import asyncio
from typing import Any

import hypothesis
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from .conftest import Served, good_token

load_all_checks()
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    ignored_auth,
    unsupported_method,
]
EXAMPLES = 100


def fuzz(url: str) -> dict[str, int]:
    """Send generated requests to every operation; how many, by operation. Raises when an answer breaks a promise."""
    schema: Any = schemathesis.openapi.from_url(f"{url}/openapi.json")
    return {
        f"{mode.name} {operation.method.upper()} {operation.path}": fuzz_one(operation, mode)
        for operation in (found.ok() for found in schema.get_all_operations())
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        if mode is GenerationMode.POSITIVE or operation.method == "post"  # the others take nothing to get wrong
    }


def fuzz_one(operation: Any, mode: GenerationMode) -> int:
    """Up to ``EXAMPLES`` requests to one operation."""
    sent = 0

    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        nonlocal sent
        sent += 1
        case.call_and_validate(headers={"Authorization": f"Bearer {good_token()}"}, checks=CHECKS, timeout=10)

    send()
    return sent


async def test_every_operation_keeps_to_its_description(served: Served) -> None:
    """No 500, no undocumented status, no body of another shape, no bad body accepted, no way around the token."""
    sent = await asyncio.to_thread(fuzz, served.url)
    assert {"POSITIVE GET /health/ready", "POSITIVE GET /health/live", "POSITIVE GET /metrics"} <= sent.keys()
    for mode in ("POSITIVE", "NEGATIVE"):
        assert sent[f"{mode} POST /generate"] >= EXAMPLES
        assert sent[f"{mode} POST /generate_stream"] >= EXAMPLES
