"""Streams that never pause, through the gateway, each answer judged: what a rollout or a crash must not break."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

STREAMS = 16
HUNG_SECONDS = 60.0


@dataclass(frozen=True)
class Outcome:
    """One request. ``error`` is empty when the answer was whole; else the gateway's code, or ``connection`` (the server
    was not there), ``cut`` (the connection ended within the answer) or ``hung``. Times are monotonic seconds."""

    error: str
    version: str
    began: float
    ended: float
    gaps: tuple[float, ...] = ()

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.ended - self.began


@dataclass
class Load:
    """What the streams have met so far."""

    outcomes: list[Outcome] = field(default_factory=list)
    stopping: bool = False

    @property
    def failed(self) -> list[Outcome]:
        """The requests that were not answered whole."""
        return [outcome for outcome in self.outcomes if outcome.error]

    @property
    def versions(self) -> set[str]:
        """The versions that have answered."""
        return {outcome.version for outcome in self.outcomes if not outcome.error}

    def counts(self) -> dict[str, int]:
        """Requests by error; ``ok`` for those without."""
        return dict(Counter(outcome.error or "ok" for outcome in self.outcomes))


@contextlib.asynccontextmanager
async def under_load(
    url: str, headers: dict[str, str], *, max_tokens: int = 200, streams: int = STREAMS, pause: float = 0.0
) -> AsyncIterator[Load]:
    """Keep ``streams`` requests running while inside; a stream waits ``pause`` seconds behind a failure. When it ends,
    every request has ended too."""
    load = Load()
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=HUNG_SECONDS)
    async with aiohttp.ClientSession(url, headers=headers, connector=connector, timeout=timeout) as session:

        async def stream(number: int) -> None:
            while not load.stopping:
                body = {"text_input": f"Write about the number {number}:", "max_tokens": max_tokens, "stream": True}
                load.outcomes.append(await _ask(session, body))
                if load.outcomes[-1].error:
                    await asyncio.sleep(pause)

        tasks = [asyncio.create_task(stream(number)) for number in range(streams)]
        try:
            yield load
        finally:
            load.stopping = True
            await asyncio.gather(*tasks)


async def _ask(session: aiohttp.ClientSession, body: dict[str, Any]) -> Outcome:
    began = previous = time.monotonic()
    last: dict[str, Any] = {}
    gaps: list[float] = []
    try:
        async with session.post("/generate", json=body) as response:
            if response.status != 200:
                last = await response.json()
            else:
                async for line in response.content:
                    if line.startswith(b"data:"):
                        last = json.loads(line[5:])
                        now = time.monotonic()
                        gaps.append(now - previous)
                        previous = now
        error = last["error"]["code"] if "error" in last else "" if last.get("finish_reason") else "cut"
    except TimeoutError:
        error = "hung"
    except aiohttp.ClientPayloadError:
        error = "cut"
    except aiohttp.ClientError:
        error = "connection"
    return Outcome(error, str(last.get("model_version", "")), began, time.monotonic(), tuple(gaps))
