"""Streams that never pause, through the gateway, each answer judged: what a rollout or a crash must not break."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp

STREAMS = 16


@dataclass(frozen=True)
class Outcome:
    """One request. ``error`` is the gateway's code, or ``connection`` or ``hung``; empty when the answer was whole."""

    error: str
    version: str
    seconds: float


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


@contextlib.asynccontextmanager
async def under_load(
    url: str, headers: dict[str, str], *, max_tokens: int = 200, streams: int = STREAMS, pause: float = 0.0
) -> AsyncIterator[Load]:
    """Keep ``streams`` requests running while inside; a stream waits ``pause`` seconds behind a failure. When it ends,
    every request has ended too."""
    load = Load()
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(url, headers=headers, connector=connector, timeout=timeout) as session:

        async def stream(number: int) -> None:
            while not load.stopping:
                body = {"text_input": f"stream {number}:", "max_tokens": max_tokens, "stream": True}
                load.outcomes.append(await _ask(session, body))
                if load.outcomes[-1].error:
                    await asyncio.sleep(pause)

        tasks = [asyncio.create_task(stream(number)) for number in range(streams)]
        try:
            yield load
        finally:
            load.stopping = True
            await asyncio.gather(*tasks)


async def _ask(session: aiohttp.ClientSession, body: dict[str, object]) -> Outcome:
    began = time.monotonic()
    error, last = "", {}
    try:
        async with session.post("/generate", json=body) as response:
            if response.status != 200:
                error = (await response.json())["error"]["code"]
            else:
                async for line in response.content:
                    if line.startswith(b"data:"):
                        last = json.loads(line[5:])
                error = last["error"]["code"] if "error" in last else "" if last.get("finish_reason") else "cut"
    except TimeoutError:
        error = "hung"
    except aiohttp.ClientError:
        error = "connection"
    return Outcome(error, str(last.get("model_version", "")), time.monotonic() - began)
