"""How far an engine is from its reference, and whether that is near enough to publish.

Both run the same held-out tokens through the seam they will be served through (:mod:`build_engine.backend.engine`),
with the cache they serve with, and as they are served: one half of each window in prefill chunks, the other a token
a step, and chunks of some sequences in one step with the tokens of others.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from build_engine.backend.engine import Engine, EngineError, Row
from build_engine.errors import AccuracyError

Logits = npt.NDArray[np.float32]
TokenIds = npt.NDArray[np.int64]
Step = list[tuple[int, int, int]]
"""A row each: the window it is of, and which of its tokens."""
PREFILL_TOKENS = 16


@dataclass(frozen=True)
class Gate:
    """What a precision must reach against fp32. ``kl`` is in nats, mean over positions."""

    perplexity_ratio: float = math.inf
    top1: float = 0.0
    kl: float = math.inf


GATES = {
    "fp32": Gate(perplexity_ratio=1.001, top1=0.999, kl=1e-4),
    "fp16": Gate(perplexity_ratio=1.01, top1=0.995, kl=1e-3),
    "int8": Gate(perplexity_ratio=1.01, top1=0.95, kl=0.01),
    "int8-weight-only": Gate(perplexity_ratio=1.01, top1=0.95, kl=0.01),
}


@dataclass(frozen=True)
class Agreement:
    """An engine against its reference over ``positions`` next-token predictions. KL divergences are in nats, latencies
    in milliseconds a step of ``batch`` sequences."""

    positions: int
    batch: int
    reference_perplexity: float
    perplexity: float
    top1: float
    kl_mean: float
    kl_p99: float
    reference_step_ms: float
    step_ms: float

    @property
    def perplexity_ratio(self) -> float:
        """1.0 is the reference."""
        return self.perplexity / self.reference_perplexity

    def failures(self, gate: Gate) -> list[str]:
        """What misses the gate, one line each; empty when it is passed."""
        lines = []
        if not self.perplexity_ratio <= gate.perplexity_ratio:
            lines.append(f"perplexity {self.perplexity_ratio:.4f}x fp32, at most {gate.perplexity_ratio:g}x")
        if not self.top1 >= gate.top1:
            lines.append(f"top-1 agreement {self.top1:.4f}, at least {gate.top1:g}")
        if not self.kl_mean <= gate.kl:
            lines.append(f"mean KL {self.kl_mean:.5f}, at most {gate.kl:g}")
        return lines

    def as_json(self) -> dict[str, Any]:
        """For ``accuracy.json``."""
        return {**asdict(self), "perplexity_ratio": self.perplexity_ratio}


def compare(
    reference: Engine, candidate: Engine, windows: TokenIds, on_step: Callable[[], object] = lambda: None
) -> Agreement:
    """Run ``windows`` int64 ``[n, length]`` through both engines; a position is measured where a row of a step ends.
    ``on_step`` is called after each step of both. Raises :class:`EngineError` when the candidate fails or says what is
    no number, :class:`AccuracyError` when the reference does."""
    engines = (reference, candidate)
    batch = min(len(windows), candidate.max_step_tokens, *(engine.max_sequences for engine in engines))
    most = min(PREFILL_TOKENS, *(min(engine.max_step_tokens // batch, engine.max_row_tokens) for engine in engines))
    tally = _Tally()
    for first in range(0, len(windows), batch):
        part = windows[first : first + batch]
        steps = _schedule(len(part), part.shape[1], most)
        with closing(_sound(reference, part, steps)) as wanted, closing(_run(candidate, part, steps)) as got:
            for step, (a, seconds_a), (b, seconds_b) in zip(steps, wanted, got, strict=True):
                tally.add(a, b, np.array([part[row, end] for row, _, end in step]))
                if all(end - begin == 1 for _, begin, end in step):
                    tally.times.append((seconds_a, seconds_b))
                on_step()
    return tally.agreement(batch)


def _schedule(sequences: int, length: int, most: int) -> list[Step]:
    """The steps of ``sequences`` windows. Two neighbours take the first half of their window in chunks of at most
    ``most`` tokens and the second a token a step, the next two the other way round (of fewer than four sequences, one
    and one); neighbours' chunks differ in size.
    """
    positions, middle = length - 1, (length - 1) // 2
    pieces = -(-middle // max(1, most - 1))
    alike = 2 if sequences >= 4 else 1
    ends = []
    for row in range(sequences):
        early = row % (2 * alike) < alike
        begin, end = (0, middle) if early else (positions - middle, positions)
        cuts = np.linspace(begin, end, pieces + 1).astype(int)[1:]
        cuts[:-1] -= row % 2 if middle >= 2 * pieces else 0
        singles = range(end + 1, positions + 1) if early else range(1, begin + 1)
        ends.append([*cuts, *singles] if early else [*singles, *cuts])
    parts = [list(zip([0, *map(int, each)], map(int, each), strict=False)) for each in ends]
    return [[(row, *part) for row, part in enumerate(step)] for step in zip(*parts, strict=True)]


def _sound(reference: Engine, part: TokenIds, steps: Sequence[Step]) -> Generator[tuple[Logits, float], None, None]:
    """The reference's steps. What it cannot do ends the proof."""
    try:
        yield from _run(reference, part, steps)
    except EngineError as error:
        raise AccuracyError(f"the model fails on this text in the reference's precision already: {error}") from error


def _run(engine: Engine, part: TokenIds, steps: Sequence[Step]) -> Generator[tuple[Logits, float], None, None]:
    """Logits ``[sequences, vocab]`` and seconds of each step. Raises :class:`EngineError`."""
    sequences: list[int] = []
    try:
        for _ in part:
            sequence = engine.open(part.shape[1])
            if sequence is None:
                raise EngineError(f"the engine has no room for {len(part)} sequences of {part.shape[1]} tokens")
            sequences.append(sequence)
        for step in steps:
            rows = [Row(sequences[row], part[row, begin:end], sample=True) for row, begin, end in step]
            began = time.perf_counter()
            logits = engine.step(rows)
            seconds = time.perf_counter() - began
            if not np.isfinite(logits).all():
                raise EngineError("the engine's logits are infinite or not a number")
            yield logits, seconds
    finally:
        for sequence in sequences:
            engine.close(sequence)


class _Tally:
    """Sums over positions; nothing of size ``[positions, vocab]`` is kept."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []
        self._losses: list[npt.NDArray[np.float64]] = []
        self._reference_losses: list[npt.NDArray[np.float64]] = []
        self._divergences: list[npt.NDArray[np.float64]] = []
        self._agree = 0

    def add(self, wanted: Logits, got: Logits, following: TokenIds) -> None:
        """One step: logits ``[n, vocab]`` of both, and the tokens ``[n]`` that really follow."""
        reference, candidate = log_softmax(wanted), log_softmax(got)
        rows = np.arange(len(following))
        self._reference_losses.append(-reference[rows, following])
        self._losses.append(-candidate[rows, following])
        self._divergences.append((np.exp(reference) * (reference - candidate)).sum(axis=1))
        self._agree += int((reference.argmax(axis=1) == candidate.argmax(axis=1)).sum())

    def agreement(self, batch: int) -> Agreement:
        """The means."""
        losses, divergences = np.concatenate(self._losses), np.concatenate(self._divergences)
        return Agreement(
            positions=len(losses),
            batch=batch,
            reference_perplexity=float(np.exp(np.concatenate(self._reference_losses).mean())),
            perplexity=float(np.exp(losses.mean())),
            top1=self._agree / len(losses),
            kl_mean=float(divergences.mean()),
            kl_p99=float(np.quantile(divergences, 0.99)),
            reference_step_ms=1000 * statistics.median(times[0] for times in self.times),
            step_ms=1000 * statistics.median(times[1] for times in self.times),
        )


def log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Log-probabilities ``[n, vocab]`` of ``logits [n, vocab]``."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
