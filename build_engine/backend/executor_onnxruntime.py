"""Runs the slot engine's graph on the CPU with ONNX Runtime.

Keys and values are bound by address, the same address as input and output, so the cache is updated in place and a
call on some of the slots needs no copy: exactly how the GPU's executor does it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as native

from .engine import EngineError, Logits
from .engine_slots import SlotFacts
from .slots import Call

# The package has a dozen without a common base, and a failed run is a bare RuntimeError.
_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    *(e for e in vars(native).values() if isinstance(e, type) and issubclass(e, Exception)),
)


class OnnxRuntimeExecutor:
    """An :class:`~.engine_slots.Executor`. Made by :func:`open_executor`."""

    def __init__(self, session: ort.InferenceSession, facts: SlotFacts, slots: int) -> None:
        self._session, self._facts = session, facts
        self._caches = {name: np.zeros(facts.cache_shape(slots), facts.cache_dtype) for name in facts.cache_names}
        self._logits = np.zeros((slots, facts.vocab_size), np.float32)

    def run(self, call: Call) -> Logits:
        """See :meth:`Executor.run`."""
        facts, binding = self._facts, self._session.io_binding()
        batch = len(call.input_ids)
        small = {"input_ids": call.input_ids, "start_pos": call.start_pos, "last_idx": call.last_idx}
        for name, values in small.items():
            binding.bind_input(name, "cpu", 0, np.int64, values.shape, values.ctypes.data)
        for name, cache in self._caches.items():
            address = cache.ctypes.data + call.first * facts.slot_bytes
            place = ("cpu", 0, facts.cache_dtype, facts.cache_shape(batch), address)
            binding.bind_input(f"past_{name}", *place)
            binding.bind_output(f"present_{name}", *place)
        logits = self._logits[:batch]
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        try:
            self._session.run_with_iobinding(binding)
        except _ERRORS as error:
            raise EngineError(f"ONNX Runtime failed in a step: {error}") from error
        return logits


def open_executor(
    folder: Path, facts: SlotFacts, *, slots: int, threads: int, mapped: bool = False
) -> OnnxRuntimeExecutor:
    """Load ``<folder>/model.onnx``. With ``mapped`` the weights stay in their file, which is slow and takes no memory
    of the model's size. Raises EngineError when it cannot be loaded or is not what ``facts`` say.
    """
    options = ort.SessionOptions()
    if mapped:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False
    options.intra_op_num_threads = threads
    # Threads that spin between two operators take the cores from the server around us and are not faster.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    path = folder / "model.onnx"
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except _ERRORS as error:
        raise EngineError(f"ONNX Runtime cannot load {path}: {error}") from error
    found = {port.name: port.shape[1:] for port in session.get_inputs() if port.name.startswith("past_")}
    wanted = {f"past_{name}": [*facts.cache_shape(1)[1:]] for name in facts.cache_names}
    if found != wanted:
        raise EngineError(f"{path} has {len(found)} caches, engine.json says {len(wanted)}, or their shapes differ")
    return OnnxRuntimeExecutor(session, facts, slots)
