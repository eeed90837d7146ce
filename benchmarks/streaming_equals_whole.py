"""Streamed equals whole, many times over: ``python -m benchmarks.streaming_equals_whole``, about ten minutes.

The examples of ``make test``, drawn further: entries and texts that provoke, under every set of folds, cut anyhow. The
matches of the stream, those of the whole text and those of an independent brute force must be the same, and what has
left a stream must never be part of a match. Then whole policies (words, patterns, allow list, masks, blocks): what
leaves is what the whole text would give. A disagreement is written down with its seed and ends the command with 1.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from benchmarks import harness
from tests.gateway.policy import agreement, provoking

MATCHES, POLICIES, CHUNK = 200_000, 50_000, 2_500


def matches(seed: int) -> None:
    """Stream, whole text and brute force."""
    agreement.of_matches(seed, provoking.FOLDS[seed % len(provoking.FOLDS)])


def failing(check: Callable[[int], None], first: int) -> list[int]:
    """The seeds from ``first`` on that do not agree."""
    found = []
    for seed in range(first, first + CHUNK):
        try:
            check(seed)
        except AssertionError:
            found.append(seed)
    return found


def main() -> int:
    """Draw, compare, save."""
    began = time.perf_counter()
    figures: dict[str, object] = {}
    wrong = 0
    with ProcessPoolExecutor() as pool:
        for name, check, count in (("matches", matches, MATCHES), ("policies", agreement.of_policies, POLICIES)):
            chunks = pool.map(partial(failing, check), range(0, count, CHUNK))
            seeds = [seed for chunk in chunks for seed in chunk]
            figures |= {f"{name}_examples": count, f"{name}_disagreements": len(seeds), f"{name}_seeds": seeds[:20]}
            wrong += len(seeds)
    harness.save("streaming_equals_whole", {**figures, "seconds": time.perf_counter() - began})
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
