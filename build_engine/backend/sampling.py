"""Choose the next token of each row from its logits.

The order is penalties, bias, grammar, temperature, top-k, top-p, min-p. Each row has its own random generator and is
worked on alone, so the same seed and the same logits give the same text whatever else is in the batch. All
probabilities are float64, and candidates are ordered by falling logit, equal logits by rising token id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .engine import EngineError, Logits, TokenIds
from .grammar import Grammar, GrammarFailed

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

PREFILTER = 1024
"""Top-p alone looks at this many tokens first; sorting a whole vocabulary costs ten times as much."""

STRETCH = 64
"""Few largest logits are looked for by the largest of each stretch: ten times as fast as partitioning a vocabulary."""


@dataclass(frozen=True)
class SamplingParams:
    """How a request wants its tokens chosen. The defaults are greedy and change nothing."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Tokens and what is added to their logits."""


class RowSampler:
    """One sequence's parameters, generator, history and, if its text has to keep to one, its grammar. ``prompt`` int64
    ``[n]``.
    """

    def __init__(self, params: SamplingParams, prompt: TokenIds, grammar: Grammar | None = None) -> None:
        self.params, self._grammar = params, grammar
        self.plain_greedy = params.temperature == 0 and not (
            self._penalised or params.logit_bias or grammar is not None
        )
        self._bias = tuple(np.array(each) for each in zip(*params.logit_bias, strict=True))
        self._rng = np.random.Generator(np.random.PCG64(params.seed)) if params.temperature > 0 else None
        self._counts: dict[int, int] = {}
        self._prompt_ids = np.unique(prompt)

    @property
    def _penalised(self) -> bool:
        params = self.params
        return bool(params.repetition_penalty != 1 or params.frequency_penalty or params.presence_penalty)

    @property
    def complete(self) -> bool:
        """Whether the grammar says that the text is whole."""
        return self._grammar is not None and self._grammar.complete

    def choose(self, logits: Float32) -> int:
        """The next token from one row ``[vocab_size]``, which is not changed. Remembers it for the
        penalties and the grammar. Raises GrammarFailed.
        """
        if self._penalised:
            logits = self._penalise(logits)
        if self._bias:
            logits = logits.copy()
            logits[self._bias[0]] += self._bias[1].astype(np.float32)
        if self._grammar is not None:
            logits = np.where(self._grammar.allowed(), logits, np.float32(-np.inf))
        token = int(logits.argmax()) if self._rng is None else draw(logits, self.params, self._rng.random())
        if self._penalised:
            self._counts[token] = self._counts.get(token, 0) + 1
        if self._grammar is not None:
            self._grammar.accept(token)
        return token

    def _penalise(self, logits: Float32) -> Float32:
        """Repetition counts prompt and completion (a factor, as in the CTRL paper); frequency and presence
        count the completion only (subtracted).
        """
        params, logits = self.params, logits.copy()
        own = np.fromiter(self._counts, np.int64, len(self._counts))
        if params.repetition_penalty != 1:
            seen = np.union1d(self._prompt_ids, own)
            factor = np.float32(params.repetition_penalty)
            logits[seen] = np.where(logits[seen] > 0, logits[seen] / factor, logits[seen] * factor)
        if own.size:
            times = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            logits[own] -= np.float32(params.frequency_penalty) * times + np.float32(params.presence_penalty)
        return logits


Chosen = int | EngineError | GrammarFailed


def sample(logits: Logits, samplers: Sequence[RowSampler]) -> list[Chosen]:
    """The next token of each row of ``logits`` ``[rows, vocab_size]``, or an EngineError in its place when
    the row's largest logit is not finite (a NaN anywhere, +inf, or nothing but -inf), or what its grammar failed with.
    """
    best = logits.argmax(axis=1)
    largest = logits[np.arange(len(logits)), best]
    chosen: list[Chosen] = []
    for row, sampler in enumerate(samplers):
        if not np.isfinite(largest[row]):
            chosen.append(EngineError(f"the largest logit of a row is {largest[row]}"))
        elif sampler.plain_greedy:
            chosen.append(int(best[row]))
        else:
            try:
                chosen.append(sampler.choose(logits[row]))
            except GrammarFailed as failure:
                chosen.append(failure)
    return chosen


def draw(logits: Float32, params: SamplingParams, uniform: float) -> int:
    """The token at ``uniform`` (0 <= u < 1) of the distribution that ``params`` leaves; temperature > 0."""
    ids, weights = candidates(logits, params)
    mass = np.cumsum(weights)
    place = np.searchsorted(mass, uniform * mass[-1], side="right")
    last = np.searchsorted(mass, mass[-1], side="left")
    return int(ids[min(place, last)])


def candidates(logits: Float32, params: SamplingParams) -> tuple[TokenIds, Float64]:
    """The tokens that may be drawn and their weights (not normalised; the likeliest weighs 1)."""
    if 0 < params.top_k < logits.size:
        ids = largest(logits, params.top_k)[: params.top_k]
        weights = _weights(logits, ids, params.temperature)
        total = float(weights.sum())
    elif params.top_p < 1:
        everything = _weights(logits, None, params.temperature)
        total = float(everything.sum())
        ids = largest(logits, min(PREFILTER, logits.size))
        if everything[ids].sum() < params.top_p * total:
            ids = largest(logits, logits.size)
        weights = everything[ids]
    else:
        ids = np.arange(logits.size)
        weights = _weights(logits, None, params.temperature)
        total = float(weights.sum())
    if params.top_p < 1:
        kept = int(np.searchsorted(np.cumsum(weights), params.top_p * total, side="left")) + 1
        ids, weights = ids[:kept], weights[:kept]
    if params.min_p > 0:
        likely = weights >= params.min_p
        ids, weights = ids[likely], weights[likely]
    return ids, weights


def largest(logits: Float32, count: int) -> TokenIds:
    """The ids of the ``count`` largest logits and of all that equal the smallest of them, in candidate
    order. None may be NaN.
    """
    ids = np.arange(logits.size)
    if count < logits.size:
        stretches = logits.size // STRETCH
        if count <= stretches:
            # As many stretches have a logit of at least ``bound``, so no smaller one is among the largest.
            tops = logits[: stretches * STRETCH].reshape(stretches, STRETCH).max(axis=1)
            ids = np.flatnonzero(logits >= np.partition(tops, stretches - count)[stretches - count])
        found = logits[ids]
        ids = ids[found >= np.partition(found, found.size - count)[found.size - count]]
    return ids[np.argsort(-logits[ids], kind="stable")]


def _weights(logits: Float32, ids: TokenIds | None, temperature: float) -> Float64:
    chosen = logits if ids is None else logits[ids]
    scaled = (chosen.astype(np.float64) - float(logits.max())) / temperature
    weights: Float64 = np.exp(scaled, out=scaled)
    return weights
