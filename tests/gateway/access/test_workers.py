"""Every worker hears of a revocation: real processes, the real command."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx

from tests.gateway.conftest import good_token
from tests.gateway.processes import Running, running

from .test_revocation import command

AT_ONCE = 24


async def asked_at_once(gateway: Running) -> set[int]:
    """The statuses of requests on connections of their own, so that every worker gets some."""

    async def ask() -> int:
        headers = {"Authorization": f"Bearer {good_token()}"}
        async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=20) as client:
            return (await client.post("/generate", json={"text_input": "hi"})).status_code

    return set(await asyncio.gather(*(ask() for _ in range(AT_ONCE))))


async def test_a_revocation_is_in_force_in_every_worker(tmp_path: Path) -> None:
    """With the settings' own interval: from the end of the command, not one request gets in after 5 s."""
    revoked = tmp_path / "revoked.jsonl"
    revoked.touch()
    async with running(tmp_path, workers=2, revocation_file=revoked) as gateway:
        assert await asked_at_once(gateway) == {200}
        done = await asyncio.to_thread(command, "revoke", "--subject", "ann", "--file", str(revoked))
        assert done.returncode == 0, done.stderr
        began = time.monotonic()
        while await asked_at_once(gateway) != {401}:
            assert time.monotonic() - began < 5, "not within 5 s"
        for _ in range(3):
            assert await asked_at_once(gateway) == {401}
