"""The API does what its own description says, whatever is sent: schemathesis against a served gateway."""

from __future__ import annotations

from pathlib import Path

from .conftest import Served
from .fuzzing import described


async def test_every_operation_keeps_to_its_description(served: Served, tmp_path: Path) -> None:
    """No 500, no undocumented status, no body of another shape, no bad body accepted, no way around the token; and most
    cases come past the token at all."""
    statuses = await described(served.url, 100, tmp_path / "report.ndjson")
    assert statuses["401"] < statuses.total() / 4, statuses
    assert statuses["200"] + statuses["422"] > 400, statuses
