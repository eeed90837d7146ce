"""The loop between requests and engine: a real thread, a real budget, an engine that is arithmetic."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from fakes import EOS, Collector, FakeEngine, LastTotals, expected_text, letter_tokenizer

from build_engine.backend.detokenizer import TextStream
from build_engine.backend.sampling import RowSampler, SamplingParams
from build_engine.backend.scheduler import Scheduler, Sequence

TIMEOUT = 5.0
Start = Callable[[FakeEngine], Scheduler]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts schedulers and stops them."""
    running: list[tuple[FakeEngine, Scheduler]] = []

    def started(engine: FakeEngine) -> Scheduler:
        running.append((engine, Scheduler(engine, LastTotals())))
        return running[-1][1]

    yield started
    for engine, scheduler in running:
        if engine.gate is not None:
            engine.gate.release(10_000)
        scheduler.stop()


def ask(
    prompt: list[int], max_tokens: int, stops: tuple[str, ...] = (), ends: frozenset[int] = frozenset([EOS])
) -> tuple[Sequence, Collector]:
    """A greedy request and where its text goes."""
    sink = Collector()
    tokens = np.array(prompt, np.int64)
    text = TextStream(letter_tokenizer(), frozenset([EOS]), stops)
    return Sequence(tokens, max_tokens, RowSampler(SamplingParams(), tokens), text, ends, sink), sink


def finished(*sinks: Collector) -> None:
    """Every sink got its last call, and nothing after it."""
    for sink in sinks:
        assert sink.done.wait(TIMEOUT)
        assert sink.calls_after_end == 0


def submitted(scheduler: Scheduler, sequence: Sequence) -> threading.Thread:
    """Submit from a thread of its own, because submitting may wait."""
    thread = threading.Thread(target=scheduler.submit, args=(sequence,))
    thread.start()
    return thread


def test_a_request_gets_its_text_and_its_counts(start: Start) -> None:
    """Every token's text once, in order, the length as reason, and what was counted."""
    scheduler = start(FakeEngine())
    sequence, sink = ask([1, 2, 3], 20)
    assert scheduler.submit(sequence)
    finished(sink)
    assert sink.text == expected_text([1, 2, 3], 20)
    assert len(sink.pieces) == 20
    assert (sink.reason, sink.counts) == ("length", (3, 20))


def test_requests_in_company_get_what_they_get_alone(start: Start) -> None:
    """Forty requests of all sizes, on eight places and a step of 64 tokens, never mix."""
    engine = FakeEngine(max_sequences=8)
    scheduler = start(engine)
    rng = np.random.default_rng(3)
    asked = []
    for _ in range(40):
        prompt = rng.integers(0, 26, int(rng.integers(1, 150))).tolist()
        asked.append((prompt, int(rng.integers(1, 40))))
    sinks = []
    for prompt, count in asked:
        sequence, sink = ask(prompt, count)
        assert scheduler.submit(sequence)
        sinks.append(sink)
    finished(*sinks)
    for (prompt, count), sink in zip(asked, sinks, strict=True):
        assert sink.text == expected_text(prompt, count)
        assert sink.counts == (len(prompt), count)
    assert engine.free_tokens() == engine.total_tokens()


def test_decode_rows_come_first_and_prompts_fill_what_is_left(start: Start) -> None:
    """While somebody decodes, a newcomer's prompt takes at most half a step, and the one who decodes is in
    every step; when nobody does, a prompt takes the whole step.
    """
    engine = FakeEngine(step_tokens=64)
    engine.gate = threading.Semaphore(0)
    scheduler = start(engine)
    old, old_sink = ask([1] * 100, 30)
    scheduler.submit(old)
    engine.gate.release(2)
    assert old_sink.first.wait(TIMEOUT)
    new, new_sink = ask([2] * 90, 2)
    scheduler.submit(new)
    engine.gate.release(100)
    finished(old_sink, new_sink)
    assert engine.steps[:2] == [[(1, 64)], [(1, 36)]]
    first = next(i for i, step in enumerate(engine.steps) if len(step) == 2)
    assert engine.steps[first : first + 3] == [[(1, 1), (2, 31)], [(1, 1), (2, 31)], [(1, 1), (2, 28)]]
    assert all(sum(size for _, size in step) <= 64 for step in engine.steps)


def test_an_engine_with_short_rows_gets_short_rows(start: Start) -> None:
    """A row never holds more tokens than the engine takes in one, and the budget goes to the next prompt."""
    engine = FakeEngine(step_tokens=64, row_tokens=16)
    engine.gate = threading.Semaphore(0)
    scheduler = start(engine)
    asked = [ask([i] * 40, 3) for i in range(3)]
    for sequence, _ in asked:
        scheduler.submit(sequence)
    engine.gate.release(100)
    finished(*(sink for _, sink in asked))
    assert max(size for step in engine.steps for _, size in step) == 16
    for i, (_, sink) in enumerate(asked):
        assert sink.text == expected_text([i] * 40, 3)


def test_submitting_waits_for_room_in_order_of_arrival(start: Start) -> None:
    """Whoever came first is admitted first, even when a later one would fit."""
    engine = FakeEngine(cache_tokens=256)
    engine.gate = threading.Semaphore(0)
    scheduler = start(engine)
    holder, holder_sink = ask([1] * 100, 28)
    scheduler.submit(holder)
    large, large_sink = ask([2] * 150, 10)
    waits = submitted(scheduler, large)
    while not scheduler._state.waiting:
        pass
    small, small_sink = ask([3], 5)
    also_waits = submitted(scheduler, small)
    waits.join(0.1)
    assert waits.is_alive()
    assert also_waits.is_alive()
    engine.gate.release(1000)
    finished(holder_sink, large_sink, small_sink)
    waits.join()
    also_waits.join()
    order = [sequence for step in engine.steps for sequence, _ in step]
    assert order.index(2) < order.index(3)
    assert large_sink.text == expected_text([2] * 150, 10)


def test_a_request_cancelled_while_it_waits_leaves_without_a_place(start: Start) -> None:
    """Its submit returns, it never reaches the engine, and the one behind it moves up."""
    engine = FakeEngine(max_sequences=1)
    engine.gate = threading.Semaphore(0)
    scheduler = start(engine)
    holder, holder_sink = ask([1], 3)
    scheduler.submit(holder)
    waiting, sink = ask([2], 3)
    thread = submitted(scheduler, waiting)
    sink.leave = True
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert sink.failure is not None
    assert sink.failure[0] == "cancelled"
    engine.gate.release(100)
    finished(holder_sink)
    assert holder_sink.text == expected_text([1], 3)
    assert {sequence for step in engine.steps for sequence, _ in step} == {1}


def test_a_cancelled_request_leaves_at_the_next_step(start: Start) -> None:
    """Its room is free after the step that was running, and the others do not notice."""
    engine = FakeEngine()
    engine.gate = threading.Semaphore(0)
    scheduler = start(engine)
    leaver, leaver_sink = ask([1], 400)
    stayer, stayer_sink = ask([2], 10)
    scheduler.submit(leaver)
    scheduler.submit(stayer)
    engine.gate.release(3)
    assert stayer_sink.first.wait(TIMEOUT)
    leaver_sink.leave = True
    engine.gate.release(1000)
    finished(leaver_sink, stayer_sink)
    assert leaver_sink.failure is not None
    assert leaver_sink.failure[0] == "cancelled"
    assert stayer_sink.text == expected_text([2], 10)
    assert engine.free_tokens() == engine.total_tokens()


def test_a_failed_step_fails_its_sequences_and_the_loop_goes_on(start: Start) -> None:
    """Those in the step get an error without internals, it is counted, and the next request is served."""
    engine = FakeEngine()
    engine.poison = 25
    scheduler = start(engine)
    bad, bad_sink = ask([1, 25], 5)
    scheduler.submit(bad)
    finished(bad_sink)
    assert bad_sink.failure is not None
    assert bad_sink.failure[0] == "engine_failed"
    assert "poisoned" not in bad_sink.failure[1]
    good, good_sink = ask([1, 2], 1)
    scheduler.submit(good)
    finished(good_sink)
    assert good_sink.text == expected_text([1, 2], 1)
    assert engine.free_tokens() == engine.total_tokens()
    assert scheduler._totals.engine_errors == 1


def test_a_row_that_is_not_finite_fails_alone(start: Start) -> None:
    """NaN logits of one sequence are that sequence's error; its neighbour goes on."""
    engine = FakeEngine()
    engine.spoil = 13
    engine.gate = threading.Semaphore(0)
    scheduler = start(engine)
    bad, bad_sink = ask([13], 5)
    good, good_sink = ask([2, 5], 2)
    scheduler.submit(bad)
    scheduler.submit(good)
    engine.gate.release(100)
    finished(bad_sink, good_sink)
    assert bad_sink.failure is not None
    assert bad_sink.failure[0] == "engine_failed"
    assert good_sink.text == expected_text([2, 5], 2)


def test_a_stop_sequence_ends_the_request(start: Start) -> None:
    """The text ends before it, the reason is stop, and no further token is computed."""
    whole = expected_text([5], 30)
    stop = whole[10:14]
    sequence, sink = ask([5], 30, stops=(stop,))
    start(FakeEngine()).submit(sequence)
    finished(sink)
    assert sink.text == whole[: whole.index(stop)]
    assert sink.reason == "stop"
    assert sink.counts[1] == whole.index(stop) + len(stop)


def test_an_end_token_ends_the_request_and_has_no_text(start: Start) -> None:
    """The end token is counted and not shown; held text comes out before it."""
    whole = expected_text([5], 30)
    end = ord(whole[7]) - 97
    first = whole.index(whole[7])
    sequence, sink = ask([5], 30, stops=(whole[:first] + "!",), ends=frozenset([end]))
    start(FakeEngine()).submit(sequence)
    finished(sink)
    assert (sink.text, sink.reason, sink.counts[1]) == (whole[:first], "stop", first + 1)


def test_nothing_is_sent_without_text(start: Start) -> None:
    """Held tokens send no empty pieces; the last response may be empty."""
    whole = expected_text([5], 8)
    sequence, sink = ask([5], 8, stops=(whole + "!",))
    start(FakeEngine()).submit(sequence)
    finished(sink)
    assert sink.pieces == [whole]


def test_stopping_ends_everything_in_flight() -> None:
    """Running and waiting requests are told, their submitters return, and the thread is gone."""
    engine = FakeEngine(max_sequences=1)
    scheduler = Scheduler(engine, LastTotals())
    engine.gate = threading.Semaphore(0)
    running, running_sink = ask([1], 400)
    scheduler.submit(running)
    waiting, waiting_sink = ask([2], 400)
    thread = submitted(scheduler, waiting)
    stopper = threading.Thread(target=scheduler.stop)
    stopper.start()
    engine.gate.release(1)
    for each in (thread, stopper):
        each.join(TIMEOUT)
        assert not each.is_alive()
    finished(running_sink, waiting_sink)
    for sink in (running_sink, waiting_sink):
        assert sink.failure is not None
        assert sink.failure[0] == "cancelled"
    assert not scheduler.submit(ask([3], 1)[0])
    assert engine.free_tokens() == engine.total_tokens()


def test_a_defect_in_the_loop_leaves_nobody_hanging(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """An error that is no EngineError ends the scheduler: everybody is told, then and later, and the log
    says why.
    """

    class Defective(FakeEngine):
        def step(self, rows: object) -> np.ndarray:
            raise ZeroDivisionError("a defect")

    scheduler = start(Defective())
    sequence, sink = ask([1], 5)
    scheduler.submit(sequence)
    finished(sink)
    later, later_sink = ask([1], 5)
    assert not scheduler.submit(later)
    for failed in (sink, later_sink):
        assert failed.failure is not None
        assert failed.failure[0] == "engine_failed"
    assert "a defect" in caplog.text


def test_an_idle_scheduler_sleeps() -> None:
    """Without work the loop tells the meter that it is idle, once, and takes no processor time."""
    meter = LastTotals()
    scheduler = Scheduler(FakeEngine(), meter)
    sequence, sink = ask([1, 2], 5)
    scheduler.submit(sequence)
    finished(sink)
    assert meter.idle.wait(TIMEOUT)
    times = meter.times
    assert not threading.Event().wait(0.2)
    assert meter.times == times
    totals = meter.totals
    assert (totals.prompt_tokens, totals.completion_tokens, totals.running) == (2, 5, 0)
    assert totals.kv_tokens_free == 2048
    scheduler.stop()
