"""Small hand-written parts for the tests: an engine that is arithmetic, a sink that remembers, a tokenizer
of letters.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence as Many

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel

from build_engine.backend.engine import EngineError, Logits, Row
from build_engine.backend.logprobs import TokenLogprob
from build_engine.backend.paged_cache import PagedCache
from build_engine.backend.scheduler import Totals

LETTERS = "abcdefghijklmnopqrstuvwxyz"
EOS = len(LETTERS)


def next_token(history: Many[int]) -> int:
    """What the fake engine says behind ``history``: any earlier token changes it."""
    state = 7
    for token in history:
        state = (state * 31 + token + 1) % 1_000_003
    return state % len(LETTERS)


def expected_text(prompt: Many[int], tokens: int) -> str:
    """The greedy completion of a prompt."""
    history = list(prompt)
    for _ in range(tokens):
        history.append(next_token(history))
    return "".join(LETTERS[token] for token in history[len(prompt) :])


class FakeEngine:
    """An engine whose next token is :func:`next_token`, with a real block budget and the contract's
    refusals.

    ``poison`` is a token that fails every step which carries it; ``spoil`` one whose row has NaN logits;
    ``gate``, when set, is waited for at the start of each step.
    """

    vocab_size = len(LETTERS) + 1
    context_length = 512

    def __init__(
        self,
        *,
        cache_tokens: int = 2048,
        max_sequences: int = 16,
        step_tokens: int = 64,
        row_tokens: int = 64,
    ) -> None:
        self.max_sequences = max_sequences
        self.max_step_tokens = step_tokens
        self.max_row_tokens = row_tokens
        self.poison: int | None = None
        self.spoil: int | None = None
        self.gate: threading.Semaphore | None = None
        self.steps: list[list[tuple[int, int]]] = []
        """Each step's rows as (sequence, tokens)."""
        self._cache = PagedCache(cache_tokens // 16, 16, max_sequences)
        self._history: dict[int, list[int]] = {}

    def open(self, max_tokens: int) -> int | None:
        if not 0 < max_tokens <= min(self.context_length, self.total_tokens()):
            raise ValueError(f"a sequence of {max_tokens} tokens never fits")
        sequence = self._cache.open(max_tokens)
        if sequence is not None:
            self._history[sequence] = []
        return sequence

    def close(self, sequence: int) -> None:
        self._cache.close(sequence)
        del self._history[sequence]

    def step(self, rows: Many[Row]) -> Logits:
        if self.gate is not None:
            self.gate.acquire()
        spans = [self._cache.span(row, self.vocab_size) for row in rows]
        if sum(row.tokens.size for row in rows) > self.max_step_tokens:
            raise EngineError("too many tokens in a step")
        if any(row.tokens.size > self.max_row_tokens for row in rows):
            raise EngineError("too many tokens in a row")
        if any(self.poison in row.tokens.tolist() for row in rows):
            raise EngineError("poisoned")
        self.steps.append([(row.sequence, row.tokens.size) for row in rows])
        logits = []
        for row, span in zip(rows, spans, strict=True):
            self._history[row.sequence] += row.tokens.tolist()
            span.past += row.tokens.size
            if row.sample:
                logits.append(self._logits(self._history[row.sequence]))
        return np.array(logits, np.float32).reshape(-1, self.vocab_size)

    def _logits(self, history: list[int]) -> Logits:
        line = np.zeros(self.vocab_size, np.float32)
        line[next_token(history)] = 10
        if self.spoil in history:
            line[0] = np.nan
        return line

    def free_tokens(self) -> int:
        return self._cache.free_tokens

    def total_tokens(self) -> int:
        return self._cache.total_tokens


class Collector:
    """A sink that remembers what it was told; ``done`` is set by the last call."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.logprobs: list[list[TokenLogprob]] = []
        self.reason = ""
        self.counts = (0, 0)
        self.failure: tuple[str, str] | None = None
        self.done = threading.Event()
        self.first = threading.Event()
        self.leave = False
        self.calls_after_end = 0

    @property
    def text(self) -> str:
        """All that was emitted."""
        return "".join(self.pieces)

    def emit(
        self,
        text: str,
        reason: str,
        prompt_tokens: int,
        completion_tokens: int,
        logprobs: Many[TokenLogprob] = (),
    ) -> None:
        self.logprobs.append(list(logprobs))
        self.calls_after_end += self.done.is_set()
        self.pieces.append(text)
        self.reason = reason
        self.counts = (prompt_tokens, completion_tokens)
        self.first.set()
        if reason:
            self.done.set()

    def fail(self, code: str, text: str) -> None:
        self.calls_after_end += self.done.is_set()
        self.failure = (code, text)
        self.done.set()

    def cancelled(self) -> bool:
        return self.leave


class LastTotals:
    """A meter that keeps the last totals and how often it was told."""

    def __init__(self) -> None:
        self.totals = Totals()
        self.times = 0
        self.idle = threading.Event()

    def publish(self, totals: Totals, *, idle: bool) -> None:
        self.totals = totals
        self.times += 1
        if idle:
            self.idle.set()
        else:
            self.idle.clear()


def letter_tokenizer() -> Tokenizer:
    """Token ``i`` is the letter ``LETTERS[i]``."""
    tokenizer = Tokenizer(WordLevel({letter: i for i, letter in enumerate(LETTERS)}, unk_token="a"))
    tokenizer.decoder = Fuse()
    return tokenizer
