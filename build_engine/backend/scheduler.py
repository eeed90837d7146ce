"""In-flight batching: one straight line, step after step.

admit -> pick this step's tokens (decode rows first, prefill chunks in what is left) -> engine.step ->
sample -> emit -> retire. It knows no Triton, no tensors and no text encoding.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from .detokenizer import TextStream
from .engine import Engine, EngineError, Row, TokenIds
from .grammar import GrammarFailed
from .logprobs import TokenLog, TokenLogprob
from .sampling import RowSampler, sample

log = logging.getLogger(__name__)

FinishReason = Literal["", "stop", "length"]
FailCode = Literal["engine_failed", "cancelled", "invalid_input"]

CANCEL_POLL_SECONDS = 0.02
Line = npt.NDArray[np.float32]


class Sink(Protocol):
    """Where one request's text goes. Its methods must not raise."""

    def emit(
        self,
        text: str,
        reason: FinishReason,
        prompt_tokens: int,
        completion_tokens: int,
        logprobs: Many[TokenLogprob] = (),
    ) -> None:
        """Text that follows what was emitted before, and its tokens, if they were asked for. A ``reason`` other than ""
        makes it the last call.
        """

    def fail(self, code: FailCode, text: str) -> None:
        """The request ends without a result. The last call."""

    def cancelled(self) -> bool:
        """Whether nobody waits for the text any more."""


@dataclass
class Totals:
    """What a scheduler has done, and where it stands after its last step."""

    engine_errors: int = 0
    cancelled: int = 0
    wasted_tokens: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    running: int = 0
    step_rows: int = 0
    kv_tokens_free: int = 0


class Meter(Protocol):
    """Who wants to know. Called by the scheduler's thread."""

    def publish(self, totals: Totals, *, idle: bool) -> None:
        """After every step, and with ``idle`` before the scheduler goes to sleep. ``totals`` is a copy."""


@dataclass(eq=False)
class Sequence:
    """One request on its way. ``prompt`` int64 ``[n]``, n >= 1; ``prompt.size + max_tokens`` fits the
    engine.
    """

    prompt: TokenIds
    max_tokens: int
    sampler: RowSampler
    text: TextStream
    stop_ids: frozenset[int]
    sink: Sink
    log: TokenLog | None = None
    """For a request that wants to know how likely its tokens were."""
    engine_id: int = -1
    fed: int = 0
    """Tokens of the prompt that are in the cache."""
    last: int = -1
    """The token sampled last; it is not in the cache yet."""
    completion: int = 0
    """Tokens sampled so far."""

    @property
    def decoding(self) -> bool:
        """Whether the whole prompt is in the cache."""
        return self.fed == self.prompt.size


@dataclass
class _State:
    """What submitters and the loop share, under the scheduler's lock."""

    waiting: deque[Sequence] = field(default_factory=deque)
    admitted: list[Sequence] = field(default_factory=list)
    stopping: bool = False
    broken: bool = False


class Scheduler:
    """Runs sequences on an engine, in a thread of its own, from construction until :meth:`stop`."""

    def __init__(self, engine: Engine, meter: Meter) -> None:
        self._engine = engine
        self._meter = meter
        self._changed = threading.Condition()
        self._state = _State()
        self._running: list[Sequence] = []
        self._totals = Totals(kv_tokens_free=engine.free_tokens())
        self._thread = threading.Thread(target=self._guarded_loop, name="scheduler", daemon=True)
        self._thread.start()

    @property
    def max_sequence_tokens(self) -> int:
        """Most tokens, prompt and completion together, that a sequence may have."""
        return min(self._engine.context_length, self._engine.total_tokens())

    def submit(self, sequence: Sequence) -> bool:
        """Wait, in arrival order, until the engine has room, and hand the sequence over. False when it was
        cancelled or the scheduler stopped first; the sink has been told.
        """
        refusal = self._admit(sequence)
        if refusal is not None:
            sequence.sink.fail(*refusal)
        return refusal is None

    def _admit(self, sequence: Sequence) -> tuple[FailCode, str] | None:
        waiting = self._state.waiting
        with self._changed:
            waiting.append(sequence)
            try:
                while not self._state.stopping:
                    if sequence.sink.cancelled():
                        self._totals.cancelled += 1
                        return "cancelled", "the request was cancelled while it waited for room"
                    if waiting[0] is sequence and self._open(sequence):
                        return None
                    self._changed.wait(CANCEL_POLL_SECONDS)
                if self._state.broken:
                    return "engine_failed", "the scheduler has failed; the model has to be loaded again"
                return "cancelled", "the model is being unloaded"
            finally:
                waiting.remove(sequence)
                self._changed.notify_all()

    def _open(self, sequence: Sequence) -> bool:
        engine_id = self._engine.open(sequence.prompt.size + sequence.max_tokens)
        if engine_id is None:
            return False
        sequence.engine_id = engine_id
        self._state.admitted.append(sequence)
        return True

    def stop(self) -> None:
        """Cancel everything in flight and wait for the loop to end."""
        with self._changed:
            self._state.stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _guarded_loop(self) -> None:
        reason: tuple[FailCode, str] = ("cancelled", "the model is being unloaded")
        try:
            self._loop()
        except Exception:  # the thread's edge: a defect must not leave requests hanging
            log.exception("the scheduler has failed")
            reason = ("engine_failed", "the scheduler has failed; the model has to be loaded again")
            self._state.broken = True
        with self._changed:
            self._state.stopping = True
            self._running += self._state.admitted
            self._state.admitted = []
            self._changed.notify_all()
        for sequence in list(self._running):
            self._retire(sequence)
            sequence.sink.fail(*reason)

    def _loop(self) -> None:
        while self._take_admitted():
            self._drop_cancelled()
            picked = self._pick()
            if picked:
                self._step(picked)
            self._publish(idle=False)

    def _take_admitted(self) -> bool:
        """Wait for work and take over what submitters have opened. False when it is time to stop."""
        with self._changed:
            while not (self._state.admitted or self._running or self._state.stopping):
                self._publish(idle=True)
                self._changed.wait()
            self._running += self._state.admitted
            self._state.admitted = []
            return not self._state.stopping

    def _drop_cancelled(self) -> None:
        for sequence in [sequence for sequence in self._running if sequence.sink.cancelled()]:
            self._retire(sequence)
            with self._changed:
                self._totals.cancelled += 1
                self._totals.wasted_tokens += sequence.fed + sequence.completion
            sequence.sink.fail("cancelled", "the request was cancelled")

    def _pick(self) -> list[tuple[Sequence, Row]]:
        """Rows of the next step. Sequences that decode come first, one token each; prompts share what is
        left in the order in which they came. While somebody decodes, a step takes half of what the engine
        could: the chunk of a newcomer's prompt is what the others wait for between two tokens.
        """
        decoding = [sequence for sequence in self._running if sequence.decoding]
        room = self._engine.max_step_tokens
        if decoding:
            room = max(room // 2, min(room, 2 * len(decoding)))
        picked = [
            (sequence, Row(sequence.engine_id, np.array([sequence.last]), sample=True)) for sequence in decoding[:room]
        ]
        room -= len(picked)
        for sequence in self._running:
            if room > 0 and not sequence.decoding:
                end = min(sequence.fed + min(room, self._engine.max_row_tokens), sequence.prompt.size)
                chunk = sequence.prompt[sequence.fed : end]
                picked.append((sequence, Row(sequence.engine_id, chunk, sample=end == sequence.prompt.size)))
                room -= chunk.size
        return picked

    def _step(self, picked: Many[tuple[Sequence, Row]]) -> None:
        try:
            logits = self._engine.step([row for _, row in picked])
        except EngineError as error:
            for sequence, _ in picked:
                self._fail(sequence, error)
            self._totals.engine_errors += 1
            return
        sampling = [sequence for sequence, row in picked if row.sample]
        tokens = sample(logits, [sequence.sampler for sequence in sampling])
        self._totals.step_rows = len(picked)
        for sequence, row in picked:
            if not sequence.decoding:
                sequence.fed += row.tokens.size
                self._totals.prompt_tokens += row.tokens.size
        for sequence, token, line in zip(sampling, tokens, logits, strict=True):
            if isinstance(token, EngineError):
                self._fail(sequence, token)
                self._totals.engine_errors += 1
            elif isinstance(token, GrammarFailed):
                self._retire(sequence)
                sequence.sink.fail("invalid_input", "json_schema became too complex while text was made; simplify it")
            else:
                self._advance(sequence, token, line)

    def _advance(self, sequence: Sequence, token: int, line: Line) -> None:
        """Turn a sampled token into text, and end the sequence when it was the last. ``line`` are the logits
        that it was sampled from.
        """
        sequence.last = token
        sequence.completion += 1
        self._totals.completion_tokens += 1
        text, stopped = ("", True) if token in sequence.stop_ids else sequence.text.push(token)
        if sequence.log is not None and token not in sequence.stop_ids and not sequence.text.is_special(token):
            sequence.log.add(line, token, sequence.text.decoded)
        complete = sequence.sampler.complete
        reason: FinishReason = "stop" if stopped else ""
        if token in sequence.stop_ids or (not stopped and (complete or sequence.completion == sequence.max_tokens)):
            rest, found = sequence.text.finish()
            text, reason = text + rest, "stop" if stopped or found or complete else "length"
        if reason:
            self._retire(sequence)
        if text or reason:
            logprobs: Many[TokenLogprob] = ()
            if sequence.log is not None:
                sequence.log.decoded(sequence.text.decoded)
                logprobs = sequence.log.take(len(text))
            sequence.sink.emit(text, reason, sequence.prompt.size, sequence.completion, logprobs)

    def _fail(self, sequence: Sequence, error: EngineError) -> None:
        log.error("engine failed: %s", error)
        self._retire(sequence)
        sequence.sink.fail("engine_failed", "the engine failed in this step; the request may be sent again")

    def _retire(self, sequence: Sequence) -> None:
        """Give the sequence's room back and wake whoever waits for it."""
        with self._changed:
            self._running.remove(sequence)
            self._engine.close(sequence.engine_id)
            self._changed.notify_all()

    def _publish(self, *, idle: bool) -> None:
        with self._changed:
            self._totals.running = len(self._running)
            self._totals.step_rows = 0 if idle else self._totals.step_rows
            self._totals.kv_tokens_free = self._engine.free_tokens()
            totals = replace(self._totals)
        self._meter.publish(totals, idle=idle)
