"""What a reload costs those who are being served: ``python -m benchmarks.reload``, about a minute.

A policy of 100,000 words is read anew, as the gateway does it, with folds that it did not have before, and a prompt is
checked by it, while an event loop wakes up every millisecond; the longest time that it was kept from doing so is the
stall that a request would have seen. Each round is followed by one
in which another process only works as long: what the machine itself makes the loop wait.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import NamedTuple

from benchmarks import harness
from benchmarks.policy import make_words
from gateway.policy.benign import shipped_texts
from gateway.policy.compiled import load_policy
from gateway.policy.engine import PolicyEngine
from gateway.policy.reload import reload
from gateway.policy.verdict import Context
from gateway.telemetry import Telemetry

WORDS, ROUNDS = 100_000, 5


class Wait(NamedTuple):
    """How long the loop was kept at most from waking up, in milliseconds; how much of the processor this process used
    meanwhile at most, which no other process can make longer; and the seconds that it all took."""

    stall_ms: float
    own_ms: float
    seconds: float


async def longest_wait(work: Awaitable[object]) -> Wait:
    """While ``work`` goes on."""
    done, stall, own = asyncio.Event(), 0.0, 0.0

    async def tick() -> None:
        nonlocal stall, own
        while not done.is_set():
            began, used = time.perf_counter(), time.process_time()
            await asyncio.sleep(0.001)
            stall = max(stall, time.perf_counter() - began - 0.001)
            own = max(own, time.process_time() - used)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.05)
    stall, own, began = 0.0, 0.0, time.perf_counter()
    await work
    seconds = time.perf_counter() - began
    done.set()
    await ticking
    return Wait(1000 * stall, 1000 * own, seconds)


def write(path: Path, repeat: int) -> None:
    """A policy of the list beside it."""
    lists = f"[{{name: many, file: many.txt, folds: {{repeat: {repeat}}}}}]"
    path.write_text(f"version: '{repeat}'\nlists: {lists}\nlint: {{on_fail: flag}}\n", encoding="utf-8")


async def busy(seconds: float) -> None:
    """A process of its own works as hard as the one that builds a policy, and has nothing to hand over: what the
    machine itself makes a loop wait."""
    code = f"import os, time; os.nice(10); end = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    await process.wait()


async def renewed(path: Path, engine: PolicyEngine, telemetry: Telemetry) -> None:
    """Read anew, and checked by for the first time, on the loop."""
    assert await reload(path, engine, telemetry)
    await engine.check_input([shipped_texts()[0]], Context("", "", "input"))


def main() -> None:
    """Measure and save."""
    draw, telemetry = random.Random(1), Telemetry()
    words = make_words(WORDS, [text for text in shipped_texts() if not text.isascii()], draw)
    with tempfile.TemporaryDirectory(prefix="tidegate-reload-") as name:
        path = Path(name) / "policy.yaml"
        write(path, 0)
        (path.parent / "many.txt").write_text("\n".join(words), encoding="utf-8")
        engine = PolicyEngine(load_policy(path), telemetry)
        loaded, idle = [], []
        for number in range(ROUNDS):
            write(path, number + 4)
            loaded.append(asyncio.run(longest_wait(renewed(path, engine, telemetry))))
            idle.append(asyncio.run(longest_wait(busy(loaded[-1].seconds))))
            print(f"reload {loaded[-1]}, machine {idle[-1]}")
    figures = {
        "words": WORDS,
        "stall_ms": statistics.median(each.stall_ms for each in loaded),
        "stall_ms_most": max(each.stall_ms for each in loaded),
        "own_ms_most": max(each.own_ms for each in loaded),
        "machine_alone_ms": statistics.median(each.stall_ms for each in idle),
        "machine_alone_ms_most": max(each.stall_ms for each in idle),
        "seconds": statistics.median(each.seconds for each in loaded),
    }
    harness.save("reload", figures)


if __name__ == "__main__":
    main()
