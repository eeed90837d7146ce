"""What one Triton takes for a request, measured through a gateway: the times that benchmarks/autoscaling.py simulates
with.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from benchmarks import harness
from deploy.local.stack import Stack

STREAMS = (1, 2, 4, 8, 16, 32)
PROMPT_WORDS = (16, 48, 96, 160, 224)
TOKENS, ROUNDS = 48, 3
WORDS = (
    "the",
    "road",
    "and",
    "a",
    "price",
    "of",
    "bread",
    "in",
    "that",
    "town",
    "by",
    "river",
    "where",
    "farmers",
    "meet",
)


@dataclass(frozen=True)
class ServiceTimes:
    """Of one Triton. ``decode_seconds[i]`` is a step in which ``rows[i]`` sequences get a token each; a prompt's token
    adds ``prefill_token_seconds`` to a step; a request alone takes ``first_token_seconds`` and its prompt's tokens to
    its first. ``cpu_cores[i]`` is what the process uses meanwhile, ``start_seconds`` what it takes to be ready.
    """

    rows: list[int]
    decode_seconds: list[float]
    cpu_cores: list[float]
    first_token_seconds: float
    prefill_token_seconds: float
    start_seconds: float

    def cores(self, rows: int) -> float:
        """Cores used in a step."""
        return float(np.interp(rows, self.rows, self.cpu_cores))

    def step(self, rows: int, prompt_tokens: int) -> float:
        """Seconds of a step."""
        decode = float(np.interp(rows, self.rows, self.decode_seconds)) if rows else 0.0
        if rows > self.rows[-1]:
            slope = (self.decode_seconds[-1] - self.decode_seconds[-2]) / (self.rows[-1] - self.rows[-2])
            decode += slope * (rows - self.rows[-1])
        return max(decode, 0.0 if rows else self.first_token_seconds) + self.prefill_token_seconds * prompt_tokens


def prompt(words: int, number: int) -> str:
    """``words`` words, different for each ``number``."""
    return " ".join([str(number), *(WORDS[(number + each) % len(WORDS)] for each in range(words - 1))])


async def stream(session: aiohttp.ClientSession, text: str, tokens: int) -> tuple[list[float], int]:
    """One streamed request. The times of its texts on the monotonic clock, and its prompt's tokens."""
    body = {"text_input": text, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    times: list[float] = []
    usage: dict[str, int] = {}
    async with session.post("/generate", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"data:"):
                times.append(time.monotonic())
                usage = json.loads(line[5:]).get("usage", usage)
    return times, usage["prompt_tokens"]


async def measure(stack: Stack, start_seconds: float) -> ServiceTimes:
    """Everything, in about a minute."""
    async with harness.gateway_client(stack) as session:
        await stream(session, prompt(20, 0), TOKENS)
        lengths, firsts = [], []
        for round_ in range(ROUNDS):
            for words in PROMPT_WORDS:
                began = time.monotonic()
                times, tokens = await stream(session, prompt(words, 100 + round_), 2)
                lengths.append(tokens)
                firsts.append(times[0] - began)
        per_token, alone = np.polyfit(lengths, firsts, 1)
        decode, cores = [], []
        for count in STREAMS:
            found = [await _together(session, stack, count) for _ in range(ROUNDS)]
            decode.append(harness.median([each[0] for each in found]))
            cores.append(harness.median([each[1] for each in found]))
    return ServiceTimes(list(STREAMS), decode, cores, float(alone), float(per_token), start_seconds)


async def _together(session: aiohttp.ClientSession, stack: Stack, count: int) -> tuple[float, float]:
    """Seconds of a step and cores used while ``count`` streams run, all of them past their first token."""
    pid = stack.triton.pid()
    assert pid is not None
    tasks = [asyncio.create_task(stream(session, prompt(20, number), TOKENS)) for number in range(count)]
    began, cpu = time.monotonic(), _cpu_seconds(pid)
    streams = [times for times, _ in await asyncio.gather(*tasks)]
    cores = (_cpu_seconds(pid) - cpu) / (time.monotonic() - began)
    first, last = max(times[0] for times in streams), min(times[-1] for times in streams)
    steps = harness.median([sum(first < each <= last for each in times) for times in streams])
    return (last - first) / steps, cores


def _cpu_seconds(pid: int) -> float:
    """Of the process and all beneath it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    threads = Path(f"/proc/{pid}/task").iterdir()
    children = [each for thread in threads for each in (thread / "children").read_text().split()]
    return own + sum(_cpu_seconds(int(child)) for child in children)


def as_json(times: ServiceTimes) -> dict[str, Any]:
    """For a result file."""
    return asdict(times)
