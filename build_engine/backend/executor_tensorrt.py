"""Runs the slot engine's graph on a GPU with TensorRT or TensorRT-RTX, and nothing more: bind, enqueue, wait.

Built against the documented API; nobody has run it on a GPU yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .cuda import Cuda
from .engine import EngineError, Logits
from .engine_slots import SlotFacts
from .plan import load_plan, new_context
from .slots import Call

PREFILL, DECODE = 0, 1  # the optimisation profiles, in the order in which the builder adds them


class TensorRtExecutor:
    """An :class:`~.engine_slots.Executor`. Made by :func:`open_executor`; one execution context a profile."""

    def __init__(self, engine: Any, cuda: Cuda, facts: SlotFacts, slots: int) -> None:
        self._engine, self._cuda, self._facts = engine, cuda, facts
        self._contexts = [new_context(engine, cuda, profile) for profile in (PREFILL, DECODE)]
        self._caches = {name: cuda.allocate(slots * facts.slot_bytes) for name in facts.cache_names}
        tokens = max(slots, facts.prefill_batch * facts.prefill_tokens)
        sizes = {"input_ids": 8 * tokens, "start_pos": 8 * slots, "last_idx": 8 * slots}
        self._small = {name: cuda.allocate(size) for name, size in sizes.items()}
        self._logits: npt.NDArray[np.float32] = np.zeros((slots, facts.vocab_size), np.float32)
        self._device_logits = cuda.allocate(self._logits.nbytes)

    def run(self, call: Call) -> Logits:
        """See :meth:`Executor.run`."""
        facts, batch = self._facts, len(call.input_ids)
        context = self._contexts[DECODE if call.input_ids.shape[1] == 1 else PREFILL]
        small = {"input_ids": call.input_ids, "start_pos": call.start_pos, "last_idx": call.last_idx}
        for name, values in small.items():
            self._cuda.copy_in(self._small[name], values)
            context.set_input_shape(name, values.shape)
            context.set_tensor_address(name, self._small[name])
        for name, base in self._caches.items():
            address = base + call.first * facts.slot_bytes
            context.set_input_shape(f"past_{name}", facts.cache_shape(batch))
            context.set_tensor_address(f"past_{name}", address)
            context.set_tensor_address(f"present_{name}", address)
        context.set_tensor_address("logits", self._device_logits)
        if not context.execute_async_v3(self._cuda.stream):
            raise EngineError("TensorRT failed in a step; its log says why")
        logits = self._logits[:batch]
        self._cuda.copy_out(logits, self._device_logits)
        self._cuda.wait()
        return logits


def open_executor(folder: Path, facts: SlotFacts, *, slots: int, threads: int) -> TensorRtExecutor:
    """Load ``<folder>/engine.plan``; ``threads`` is the CPU executors' and not used. Raises EngineError when TensorRT,
    the GPU or the file is not what the engine needs.
    """
    engine, cuda = load_plan(folder, facts.builder)
    return TensorRtExecutor(engine, cuda, facts, slots)
