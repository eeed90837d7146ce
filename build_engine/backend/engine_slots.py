"""The slot engine: a static KV cache, one slot a sequence, in padded prefill and decode calls.

Everything but the last call is the same on every device: an executor binds the caches and runs one
:class:`~.slots.Call`. ONNX Runtime does it on the CPU with the very graph that TensorRT compiles.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .engine import EngineError, Logits, Row
from .slots import Call, SlotTable, plan

CACHE_DTYPES: dict[str, type[np.floating[Any]]] = {"fp32": np.float32, "fp16": np.float16}
_EXECUTORS = {
    "onnxruntime": ".executor_onnxruntime",
    "tensorrt": ".executor_tensorrt",
    "tensorrt-rtx": ".executor_tensorrt",
}


@dataclass(frozen=True)
class SlotFacts:
    """``engine.json``: the graph's shape, and the most that one call may ask of it.

    ``context_length`` is a slot's capacity in tokens; ``prefill_tokens`` and ``prefill_batch`` bound a prefill call,
    ``slots`` a decode call's batch. ``builder`` is what built the engine, for an executor to compare with.
    """

    kind: str
    layers: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    kv_cache_precision: str
    slots: int
    prefill_tokens: int
    prefill_batch: int
    builder: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> SlotFacts:
        """Raises EngineError when the file is missing, lacks a key or names another kind of engine."""
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            if facts["kind"] not in _EXECUTORS or facts["kv_cache_precision"] not in CACHE_DTYPES:
                raise EngineError(f"{path}: kind {facts['kind']!r} with {facts['kv_cache_precision']!r} is unknown")
            return cls(**{name: facts[name] for name in cls.__dataclass_fields__})
        except (OSError, KeyError, json.JSONDecodeError) as error:
            raise EngineError(f"{path} cannot be used: {error!r}") from error

    @property
    def cache_dtype(self) -> np.dtype[Any]:
        """Of keys and values."""
        return np.dtype(CACHE_DTYPES[self.kv_cache_precision])

    @property
    def cache_names(self) -> list[str]:
        """The caches; ``past_<name>`` goes into the graph, ``present_<name>`` comes out."""
        return [f"{side}_{layer}" for layer in range(self.layers) for side in ("key", "value")]

    def cache_shape(self, batch: int) -> tuple[int, int, int, int]:
        """Of one cache over ``batch`` slots; slot-major, so that neighbouring slots are one block."""
        return (batch, self.kv_heads, self.context_length, self.head_dim)

    @property
    def slot_bytes(self) -> int:
        """Of one slot in one cache: what the next slot's address is further on."""
        return int(np.prod(self.cache_shape(1))) * self.cache_dtype.itemsize


class Executor(Protocol):
    """A device that holds weights and caches and runs the graph."""

    def run(self, call: Call) -> Logits:
        """Float32 ``[B, vocab_size]`` behind token ``last_idx[b]`` of each line, valid until the next run; the call's
        tokens are in the caches then. Raises EngineError.
        """


class SlotEngine:
    """An :class:`~.engine.Engine` on any executor. Made by :func:`open_engine`."""

    def __init__(self, executor: Executor, facts: SlotFacts, table: SlotTable, step_tokens: int) -> None:
        self.vocab_size = facts.vocab_size
        self.context_length = facts.context_length
        self.max_sequences = table.slots
        self.max_step_tokens = step_tokens
        self.max_row_tokens = min(step_tokens, facts.prefill_tokens)
        self._most = {"prefill_batch": facts.prefill_batch, "prefill_tokens": facts.prefill_tokens}
        self._executor = executor
        self._table = table

    def open(self, max_tokens: int) -> int | None:
        """See :meth:`Engine.open`. Raises ValueError for more tokens than a slot holds."""
        if not 0 < max_tokens <= self.context_length:
            raise ValueError(f"a sequence of {max_tokens} tokens never fits a slot of {self.context_length}")
        return self._table.open(max_tokens)

    def close(self, sequence: int) -> None:
        """See :meth:`Engine.close`."""
        self._table.close(sequence)

    def step(self, rows: Sequence[Row]) -> Logits:
        """See :meth:`Engine.step`."""
        slots = [self._table.slot(row, self.vocab_size) for row in rows]
        sizes = [row.tokens.size for row in rows]
        if not 0 < sum(sizes) <= self.max_step_tokens or max(sizes) > self.max_row_tokens:
            raise EngineError(
                f"a step takes 1 to {self.max_step_tokens} tokens, {self.max_row_tokens} of one sequence, not {sizes}"
            )
        order = {place: line for line, place in enumerate(k for k, row in enumerate(rows) if row.sample)}
        logits: npt.NDArray[np.float32] = np.empty((len(order), self.vocab_size), dtype=np.float32)
        for call in plan(rows, slots, self._table, **self._most):
            found = self._executor.run(call)
            for place, line in call.lines:
                logits[order[place]] = found[line]
        for slot, size in zip(slots, sizes, strict=True):
            self._table.advance(slot, size)
        return logits

    def free_tokens(self) -> int:
        """See :meth:`Engine.free_tokens`."""
        return self._table.free_tokens

    def total_tokens(self) -> int:
        """See :meth:`Engine.total_tokens`."""
        return self._table.total_tokens


def open_engine(
    version_dir: Path, *, threads: int, cache_tokens: int, step_tokens: int, max_sequences: int
) -> SlotEngine:
    """Load ``<version_dir>/engine`` with the executor that its ``engine.json`` names. ``cache_tokens`` is rounded down
    to whole slots. Raises EngineError when it cannot be loaded here.
    """
    folder = version_dir / "engine"
    facts = SlotFacts.read(folder / "engine.json")
    slots = min(max_sequences, cache_tokens // facts.context_length, facts.slots)
    if slots < 1 or step_tokens < 1 or threads < 1:
        raise EngineError(
            f"threads, step_tokens and max_sequences start at 1, cache_tokens at one slot of {facts.context_length}"
        )
    try:
        module = importlib.import_module(_EXECUTORS[facts.kind], __package__)
    except ImportError as error:
        raise EngineError(f"{folder} is an engine for {facts.kind}, which cannot be imported here: {error}") from error
    executor: Executor = module.open_executor(folder, facts, slots=slots, threads=threads)
    return SlotEngine(executor, facts, SlotTable(slots, facts.context_length), step_tokens)
