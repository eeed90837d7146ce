"""Which blocks of the paged KV cache belong to whom, and how rows of a step are packed for the graph.

A block holds ``block_size`` tokens of one sequence, in every layer. A sequence gets all its blocks when it
is opened, so there is no eviction and nothing to move. This file knows no tensors of the cache itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .engine import EngineError, Row

Int32 = npt.NDArray[np.int32]


@dataclass
class Span:
    """An open sequence: its ``blocks`` int32 ``[n]`` in token order, and how much of them is used."""

    blocks: Int32
    limit: int
    """Tokens that were reserved."""
    past: int = 0
    """Tokens already in the cache."""


class PagedCache:
    """Hands out blocks. :meth:`open` and :meth:`close` are serialised by the caller."""

    def __init__(self, blocks: int, block_size: int, max_sequences: int) -> None:
        self._free = list(range(blocks))[::-1]
        self._spans: dict[int, Span] = {}
        self._next = 0
        self._blocks = blocks
        self._block_size = block_size
        self.max_sequences = max_sequences

    def open(self, tokens: int) -> int | None:
        """Reserve room for ``tokens`` tokens. Returns the new sequence's id, or None without room."""
        needed = -(-tokens // self._block_size)
        if needed > len(self._free) or len(self._spans) >= self.max_sequences:
            return None
        blocks = np.array([self._free.pop() for _ in range(needed)], dtype=np.int32)
        self._next += 1
        self._spans[self._next] = Span(blocks, tokens)
        return self._next

    def close(self, sequence: int) -> None:
        """Give the blocks back. Raises KeyError for a sequence that is not open."""
        self._free.extend(self._spans.pop(sequence).blocks.tolist())

    def span(self, row: Row, vocab_size: int) -> Span:
        """The row's span. Raises EngineError when the sequence is not open, its tokens do not fit what was
        reserved, or a token is outside the vocabulary.
        """
        span = self._spans.get(row.sequence)
        if span is None:
            raise EngineError(f"sequence {row.sequence} is not open")
        if row.tokens.size == 0 or span.past + row.tokens.size > span.limit:
            raise EngineError(
                f"sequence {row.sequence} holds {span.past} of {span.limit} reserved tokens; "
                f"a row of {row.tokens.size} does not fit"
            )
        if row.tokens.min() < 0 or row.tokens.max() >= vocab_size:
            raise EngineError(f"a token of sequence {row.sequence} is outside the vocabulary of {vocab_size}")
        return span

    @property
    def free_tokens(self) -> int:
        """Tokens in blocks that nobody holds; 0 when no further sequence can be opened."""
        return 0 if len(self._spans) >= self.max_sequences else len(self._free) * self._block_size

    @property
    def total_tokens(self) -> int:
        """Tokens in all blocks."""
        return self._blocks * self._block_size


def _begins(lengths: Sequence[int]) -> Int32:
    begins = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=begins[1:])
    return begins


def pack(rows: Sequence[Row], spans: Sequence[Span], block_size: int) -> dict[str, npt.NDArray[np.generic]]:
    """The graph's small inputs for one step, by name: ``T`` tokens of all rows one behind the other, no
    padding.

    ``sampled_tokens_indices`` names the last token of each row that samples; when none does it names token
    0, as the graph has not been shown to take none.
    """
    sizes = [row.tokens.size for row in rows]
    filled = [span.past + size for span, size in zip(spans, sizes, strict=True)]
    used = [span.blocks[: -(-length // block_size)] for span, length in zip(spans, filled, strict=True)]
    begins = _begins(sizes)
    sampled = [end - 1 for row, end in zip(rows, begins[1:].tolist(), strict=True) if row.sample]
    return {
        "input_ids": np.concatenate([row.tokens for row in rows]).astype(np.int64, copy=False),
        "position_ids": np.concatenate(
            [np.arange(span.past, end, dtype=np.int64) for span, end in zip(spans, filled, strict=True)]
        ),
        "past_lens": np.array([span.past for span in spans], dtype=np.int32),
        "subsequence_begins": begins,
        "block_indices": np.concatenate(used),
        "block_indices_begins": _begins([len(blocks) for blocks in used]),
        "max_context_len": np.array(max(filled), dtype=np.int32),
        "sampled_tokens_indices": np.array(sampled or [0], dtype=np.int64),
    }
