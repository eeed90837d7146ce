"""How rows become padded calls: every token once, in its slot, and never past the slot's end."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from build_engine.backend.engine import Row
from build_engine.backend.slots import PAD_TOKENS, SlotTable, plan

CAPACITY = 64


@st.composite
def steps(draw: st.DrawFn) -> tuple[SlotTable, list[Row]]:
    """A table whose sequences hold any number of tokens, some closed again, and rows for any of the others."""
    count = draw(st.integers(1, 8))
    table = SlotTable(count, CAPACITY)
    ids = [table.open(CAPACITY) for _ in range(count)]
    rows = []
    for number, sequence in enumerate(ids):
        assert sequence is not None
        past = draw(st.integers(0, CAPACITY))
        table.advance(table._open[sequence], past)
        size = draw(st.one_of(st.just(1), st.integers(0, 40)))
        if draw(st.booleans()) and 0 < size <= CAPACITY - past:
            rows.append(Row(sequence, np.arange(size) + 100 * number, sample=draw(st.booleans())))
        elif draw(st.booleans()):
            table.close(sequence)
    return table, draw(st.permutations(rows))


@given(steps(), st.integers(1, 4), st.integers(0, 9))
@settings(max_examples=300, deadline=None)
def test_every_row_is_in_one_call_and_no_call_leaves_its_slots(
    step: tuple[SlotTable, list[Row]], prefill_batch: int, spare: int
) -> None:
    """A row's tokens stand in its slot's line behind what the slot holds; what only passes by writes where nobody
    looks; padding stops at the slot's end and calls stay inside their bounds, also where the longest row is the most
    that a prefill call takes."""
    table, rows = step
    prefill_tokens = max((row.tokens.size for row in rows), default=1) + spare
    slots = [table.slot(row, 10_000) for row in rows]
    seen: dict[int, int] = {}
    sampled = set()
    for call in plan(rows, slots, table, prefill_batch=prefill_batch, prefill_tokens=prefill_tokens):
        batch, length = call.input_ids.shape
        assert call.first >= 0
        assert call.first + batch <= table.slots
        assert (call.start_pos + length <= CAPACITY).all()
        assert length == 1 or batch <= prefill_batch
        assert length <= prefill_tokens
        owners = {slot.index: row for row, slot in zip(rows, slots, strict=True)}
        for line in range(batch):
            row = owners.get(call.first + line)
            slot = next((each for each in slots if each.index == call.first + line), None)
            if row is not None and slot is not None and (row.tokens.size == 1) == (length == 1):
                np.testing.assert_array_equal(call.input_ids[line, : row.tokens.size], row.tokens)
                assert (call.start_pos[line], call.last_idx[line]) == (slot.past, row.tokens.size - 1)
                seen[slot.index] = seen.get(slot.index, 0) + 1
            else:
                assert length == 1
                assert call.start_pos[line] >= min(table._past[call.first + line], CAPACITY - 1)
        sampled |= {(place, call.first + line) for place, line in call.lines}
        assert length == 1 or length < max(row.tokens.size for row in rows) + PAD_TOKENS
    assert seen == {slot.index: 1 for slot in slots}
    assert sampled == {(k, slot.index) for k, (row, slot) in enumerate(zip(rows, slots, strict=True)) if row.sample}


@given(steps(), st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_after_a_step_every_slot_holds_its_own_tokens(step: tuple[SlotTable, list[Row]], prefill_batch: int) -> None:
    """Whatever the calls of a step write in their order, padding and passing over included: a row's tokens are behind
    what its slot held, and nobody else's cells have changed where they are read again."""
    table, rows = step
    slots = [table.slot(row, 10_000) for row in rows]
    cells = np.full((table.slots, CAPACITY), -1)
    for index, past in enumerate(table._past):
        cells[index, :past] = -2 - index
    wanted = cells.copy()
    for row, slot in zip(rows, slots, strict=True):
        wanted[slot.index, slot.past : slot.past + row.tokens.size] = row.tokens
    for call in plan(rows, slots, table, prefill_batch=prefill_batch, prefill_tokens=40):
        for line, start in enumerate(call.start_pos):
            cells[call.first + line, start : start + call.input_ids.shape[1]] = call.input_ids[line]
    grown = {slot.index: slot.past + row.tokens.size for row, slot in zip(rows, slots, strict=True)}
    for index, past in enumerate(table._past):
        read_again = grown.get(index, min(past, CAPACITY - 1))
        np.testing.assert_array_equal(cells[index, :read_again], wanted[index, :read_again])


def test_prompts_of_neighbours_share_a_call_and_a_short_one_does_not_pay_for_a_long_one() -> None:
    """Two prompts of about one length are one padded call; beside a much longer one they are not."""
    table = SlotTable(4, CAPACITY)
    ids = [table.open(CAPACITY) or 0 for _ in range(4)]
    sizes = [20, 17, 2, 3]
    rows = [Row(i, np.arange(size), sample=True) for i, size in zip(ids, sizes, strict=True)]
    calls = plan(rows, [table.slot(row, 100) for row in rows], table, prefill_batch=4, prefill_tokens=40)
    assert [call.input_ids.shape for call in calls] == [(2, 24), (2, 8)]


def test_the_lowest_free_slot_is_taken_first() -> None:
    """Occupied slots stay neighbours, so that a decode call passes over few others."""
    table = SlotTable(4, CAPACITY)
    ids = [table.open(1) or 0 for _ in range(4)]
    table.close(ids[2])
    table.close(ids[0])
    sequence = table.open(1)
    assert sequence is not None
    assert table.slot(Row(sequence, np.array([1]), sample=True), 10).index == 0
    assert table.free_tokens == CAPACITY
