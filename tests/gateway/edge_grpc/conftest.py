"""A gateway with a gRPC door."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .kserve import Kserved, kserve


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Kserved]:
    """With ordinary settings."""
    async with kserve(tmp_path) as each:
        yield each
