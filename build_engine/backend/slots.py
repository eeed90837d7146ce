"""Which slot of the static KV cache belongs to whom, and how the rows of a step become padded calls of the graph.

A slot is one sequence's row in every cache and holds ``capacity`` tokens. A call works on neighbouring slots, because
their rows are one block of memory. This file knows no tensors of the cache itself.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .engine import EngineError, Row, TokenIds

PAD_TOKENS = 8
"""A prefill call's length is a multiple of this where the slot has room: fewer shapes, and the one that GPUs like."""


@dataclass
class Slot:
    """An open sequence's place. ``limit`` tokens were reserved, ``past`` are in the cache."""

    index: int
    limit: int
    past: int = 0


@dataclass(frozen=True)
class Call:
    """One run of the graph on the slots ``first`` to ``first + B - 1``.

    ``input_ids`` int64 ``[B, T]``, ``start_pos`` and ``last_idx`` int64 ``[B]``; ``start_pos + T`` never exceeds a
    slot's capacity. ``lines`` names, for each row of the step that samples, its place in the step and its line in B.
    """

    first: int
    input_ids: TokenIds
    start_pos: TokenIds
    last_idx: TokenIds
    lines: tuple[tuple[int, int], ...]


class SlotTable:
    """Hands out slots, the lowest free one first, so that the occupied ones stay neighbours.

    :meth:`open` and :meth:`close` are serialised by the caller.
    """

    def __init__(self, slots: int, capacity: int) -> None:
        self._free = list(range(slots))
        self._open: dict[int, Slot] = {}
        self._past = np.zeros(slots, dtype=np.int64)
        self._next = 0
        self.slots = slots
        self.capacity = capacity

    def open(self, tokens: int) -> int | None:
        """A slot for ``tokens`` tokens. Returns the new sequence's id, or None when every slot is taken."""
        if not self._free:
            return None
        self._next += 1
        self._open[self._next] = Slot(heapq.heappop(self._free), tokens)
        return self._next

    def close(self, sequence: int) -> None:
        """Give the slot back. Raises KeyError for a sequence that is not open."""
        slot = self._open.pop(sequence)
        self._past[slot.index] = 0
        heapq.heappush(self._free, slot.index)

    def slot(self, row: Row, vocab_size: int) -> Slot:
        """The row's slot. Raises EngineError when the sequence is not open, its tokens do not fit what was reserved,
        or a token is outside the vocabulary.
        """
        slot = self._open.get(row.sequence)
        if slot is None:
            raise EngineError(f"sequence {row.sequence} is not open")
        if row.tokens.size == 0 or slot.past + row.tokens.size > slot.limit:
            raise EngineError(
                f"sequence {row.sequence} holds {slot.past} of {slot.limit} reserved tokens; "
                f"a row of {row.tokens.size} does not fit"
            )
        if row.tokens.min() < 0 or row.tokens.max() >= vocab_size:
            raise EngineError(f"a token of sequence {row.sequence} is outside the vocabulary of {vocab_size}")
        return slot

    def advance(self, slot: Slot, tokens: int) -> None:
        """``tokens`` more are in the slot's cache."""
        slot.past += tokens
        self._past[slot.index] = slot.past

    def idle_position(self, index: int) -> int:
        """Where a call may write for a slot that it only passes over: behind what the slot holds. A slot that is full
        takes no further token, so its last position is never read again.
        """
        return min(int(self._past[index]), self.capacity - 1)

    @property
    def free_tokens(self) -> int:
        """Tokens in slots that nobody holds."""
        return len(self._free) * self.capacity

    @property
    def total_tokens(self) -> int:
        """Tokens in all slots."""
        return self.slots * self.capacity


@dataclass(frozen=True)
class _Share:
    """One row of a step with its slot and its place in the step."""

    place: int
    row: Row
    slot: Slot

    @property
    def size(self) -> int:
        return int(self.row.tokens.size)


def plan(
    rows: Sequence[Row], slots: Sequence[Slot], table: SlotTable, *, prefill_batch: int, prefill_tokens: int
) -> list[Call]:
    """The calls of one step, in the order in which they must run: one for all rows of one token, and the longer rows in
    groups of neighbours, at most ``prefill_batch`` each, none padded beyond ``prefill_tokens``, which no row exceeds.
    Every row is in exactly one call.

    The first call alone passes over slots, and writes behind what they hold: where the chunks of this very step go.
    """
    pairs = enumerate(zip(rows, slots, strict=True))
    shares = sorted((_Share(place, row, slot) for place, (row, slot) in pairs), key=lambda share: share.slot.index)
    decode = [share for share in shares if share.size == 1]
    groups: list[list[_Share]] = []
    for share in shares:
        if share.size == 1:
            continue
        if groups and len(groups[-1]) < prefill_batch and _joins(groups[-1], share, table.capacity):
            groups[-1].append(share)
        else:
            groups.append([share])
    calls = [_call(group, min(_padded(group, table.capacity), prefill_tokens), table) for group in groups]
    return [_call(decode, 1, table), *calls] if decode else calls


def _joins(group: Sequence[_Share], share: _Share, capacity: int) -> bool:
    """Whether ``share`` is the group's next neighbour, and padding to one length fits every slot and at most doubles
    a row.
    """
    together = [*group, share]
    length = max(each.size for each in together)
    return (
        share.slot.index == group[-1].slot.index + 1
        and all(each.slot.past + length <= capacity for each in together)
        and length <= 2 * min(each.size for each in together)
    )


def _padded(group: Sequence[_Share], capacity: int) -> int:
    """The call's length T: the longest row, rounded up as far as every slot has room."""
    longest = max(share.size for share in group)
    room = min(capacity - share.slot.past for share in group)
    return min(-(-longest // PAD_TOKENS) * PAD_TOKENS, room)


def _call(shares: Sequence[_Share], length: int, table: SlotTable) -> Call:
    """Shares in the order of their slots, as one call over all slots from the first to the last."""
    first = shares[0].slot.index
    batch = shares[-1].slot.index - first + 1
    input_ids = np.zeros((batch, length), dtype=np.int64)
    start_pos = np.array([table.idle_position(first + line) for line in range(batch)], dtype=np.int64)
    last_idx = np.zeros(batch, dtype=np.int64)
    lines = []
    for share in shares:
        line = share.slot.index - first
        input_ids[line, : share.size] = share.row.tokens
        start_pos[line] = share.slot.past
        last_idx[line] = share.size - 1
        if share.row.sample:
            lines.append((share.place, line))
    return Call(first, input_ids, start_pos, last_idx, tuple(lines))
