"""The one seam between generation and the hardware.

An engine owns its weights and its KV cache. The scheduler above it knows sequences, tokens and budgets; it
never sees a block, a slot's address or a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

TokenIds = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]


class EngineError(Exception):
    """The engine failed in a step. The sequences of that step are lost, the engine itself goes on."""


@dataclass(frozen=True)
class Row:
    """One sequence's share of a step.

    ``sequence`` is the id that :meth:`Engine.open` returned. ``tokens`` int64 ``[n]``, ``n >= 1``, continue
    the sequence right behind what earlier steps have put into its cache. ``sample`` asks for the logits
    behind the last of them; a prefill chunk that is not the prompt's last one leaves it false.
    """

    sequence: int
    tokens: TokenIds
    sample: bool


class Engine(Protocol):
    """What the scheduler needs from an engine.

    One thread calls :meth:`step`. The caller serialises :meth:`open`, :meth:`close` and :meth:`free_tokens`
    among themselves, but they may run while a step runs in another thread; a sequence of that step is never
    closed then.
    """

    vocab_size: int
    context_length: int
    """Most tokens, prompt and completion together, that one sequence may hold."""
    max_sequences: int
    """Most sequences open at once."""
    max_step_tokens: int
    """Most tokens, over all rows, that one step takes."""
    max_row_tokens: int
    """Most tokens that one row of a step takes; at most ``max_step_tokens``."""

    def open(self, max_tokens: int) -> int | None:
        """Reserve room for a sequence of at most ``max_tokens`` tokens. Returns its id, or None when there
        is no room now. Reserving whole keeps every admitted sequence able to finish.
        """

    def close(self, sequence: int) -> None:
        """Give the sequence's room back. Also right after a failed step."""

    def step(self, rows: Sequence[Row]) -> Logits:
        """Run one step. Each sequence appears at most once. Returns float32 ``[sampled, vocab_size]``, one
        line per row with ``sample`` set, in the order of ``rows``; the array is valid until the next step.
        Raises :class:`EngineError`.
        """

    def free_tokens(self) -> int:
        """Tokens that can still be reserved, rounded down to what the cache can hand out."""

    def total_tokens(self) -> int:
        """Tokens the whole cache can hold; ``1 - free_tokens / total_tokens`` is its use."""
