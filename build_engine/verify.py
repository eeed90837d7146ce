"""How far an engine is from its reference, and whether that is near enough to publish.

Both run the same held-out tokens through the seam they will be served through (:mod:`build_engine.backend.engine`), a
token a step with the cache they serve with, so what is measured is what is served.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from build_engine.backend.engine import Engine, Row
from build_engine.errors import AccuracyError

Logits = npt.NDArray[np.float32]
TokenIds = npt.NDArray[np.int64]


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
    """Run ``windows`` int64 ``[n, length]`` through both engines. ``on_step`` is called after each step of both. Raises
    :class:`AccuracyError` when a logit is not a number."""
    batch = min(len(windows), reference.max_sequences, candidate.max_sequences, candidate.max_step_tokens)
    tally = _Tally()
    for first in range(0, len(windows), batch):
        part = windows[first : first + batch]
        pairs = zip(_steps(reference, part), _steps(candidate, part), strict=True)
        for position, ((wanted, wanted_seconds), (got, seconds)) in enumerate(pairs):
            tally.add(wanted, got, part[:, position + 1])
            tally.times.append((wanted_seconds, seconds))
            on_step()
    return tally.agreement(batch)


def _steps(engine: Engine, part: TokenIds) -> Iterator[tuple[Logits, float]]:
    """Logits ``[sequences, vocab]`` and seconds of each step but the last token's."""
    sequences = [engine.open(part.shape[1]) for _ in part]
    try:
        if None in sequences:
            raise AccuracyError(f"the engine has no room for {len(part)} sequences of {part.shape[1]} tokens")
        for position in range(part.shape[1] - 1):
            rows = [
                Row(sequence, part[index, position : position + 1], sample=True)
                for index, sequence in enumerate(sequences)
                if sequence is not None
            ]
            began = time.perf_counter()
            logits = engine.step(rows)
            yield logits, time.perf_counter() - began
    finally:
        for sequence in sequences:
            if sequence is not None:
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
        if not np.isfinite(candidate).all():
            raise AccuracyError("the engine's logits are infinite or not a number")
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
