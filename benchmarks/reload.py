"""What a reload costs those who are being served: ``python -m benchmarks.reload``, about a minute.

A policy of 100,000 words is read anew in a thread, as the gateway does it, while an event loop wakes up every
millisecond; the longest time that it was kept from doing so is the stall that a request would have seen.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import harness
from benchmarks.policy import make_words
from gateway.policy.benign import shipped_texts
from gateway.policy.compiled import load_policy
from gateway.policy.engine import PolicyEngine
from gateway.policy.reload import reload
from gateway.telemetry import Telemetry

WORDS, ROUNDS = 100_000, 5


async def stall(path: Path, engine: PolicyEngine, telemetry: Telemetry) -> tuple[float, float]:
    """Milliseconds of the longest stall, and seconds of the reload."""
    done, longest = asyncio.Event(), 0.0

    async def tick() -> None:
        nonlocal longest
        while not done.is_set():
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - began - 0.001)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.05)
    began = time.perf_counter()
    assert await reload(path, engine, telemetry)
    seconds = time.perf_counter() - began
    done.set()
    await ticking
    return 1000 * longest, seconds


def main() -> None:
    """Measure and save."""
    draw, telemetry = random.Random(1), Telemetry()
    words = make_words(WORDS, [text for text in shipped_texts() if not text.isascii()], draw)
    with tempfile.TemporaryDirectory(prefix="tidegate-reload-") as name:
        path = Path(name) / "policy.yaml"
        path.write_text(
            "version: '1'\nlists: [{name: many, file: many.txt}]\nlint: {on_fail: flag}\n", encoding="utf-8"
        )
        (path.parent / "many.txt").write_text("\n".join(words), encoding="utf-8")
        engine = PolicyEngine(load_policy(path), telemetry)
        rounds = []
        for number in range(ROUNDS):
            (path.parent / "many.txt").write_text("\n".join(words[number:]), encoding="utf-8")
            rounds.append(asyncio.run(stall(path, engine, telemetry)))
            print(rounds[-1])
    figures = {
        "stall_ms": statistics.median(each for each, _ in rounds),
        "stall_ms_most": max(each for each, _ in rounds),
    }
    harness.save("reload", {**figures, "words": WORDS, "seconds": statistics.median(each for _, each in rounds)})
    print(figures)


if __name__ == "__main__":
    main()
