"""Runs the encoder on a GPU with TensorRT or TensorRT-RTX. Built against the documented API; nobody has run it yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..backend.cuda import Cuda
from ..backend.engine import EngineError
from ..backend.plan import load_plan, new_context
from .runner import Mask, Scores, TokenIds


class TensorRtRunner:
    """A :class:`~.runner.Runner`. Made by :func:`open_runner`; device memory is taken once, for the largest batch."""

    def __init__(self, engine: Any, cuda: Cuda, facts: dict[str, Any]) -> None:
        self._engine, self._cuda, self._facts = engine, cuda, facts
        self._context = new_context(engine, cuda, 0)
        tokens = facts["max_batch_size"] * facts["max_tokens"]
        self._inputs = {"input_ids": cuda.allocate(8 * tokens), "mask": cuda.allocate(tokens)}
        self._scores: Scores = np.zeros((facts["max_batch_size"], facts["labels"]), np.float32)
        self._device_scores = cuda.allocate(self._scores.nbytes)

    def run(self, input_ids: TokenIds, mask: Mask) -> Scores:
        """See :meth:`Runner.run`. Raises EngineError."""
        for name, values in (("input_ids", input_ids), ("mask", mask)):
            self._cuda.copy_in(self._inputs[name], values)
            self._context.set_input_shape(name, values.shape)
            self._context.set_tensor_address(name, self._inputs[name])
        self._context.set_tensor_address("scores", self._device_scores)
        if not self._context.execute_async_v3(self._cuda.stream):
            raise EngineError("TensorRT failed; its log says why")
        scores = self._scores[: len(input_ids)]
        self._cuda.copy_out(scores, self._device_scores)
        self._cuda.wait()
        return scores.copy()


def open_runner(folder: Path, facts: dict[str, Any], threads: int) -> TensorRtRunner:
    """Load ``<folder>/engine.plan``; ``threads`` is the CPU's and not used. Raises EngineError when TensorRT, the GPU
    or the file is not what the engine needs."""
    engine, cuda = load_plan(folder, facts["builder"])
    return TensorRtRunner(engine, cuda, facts)
