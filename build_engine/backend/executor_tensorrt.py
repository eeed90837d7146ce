"""Runs the slot engine's graph on a GPU with TensorRT or TensorRT-RTX, and nothing more: bind, enqueue, wait.

Built against the documented API; nobody has run it on a GPU yet. An engine is a plan for one TensorRT and one kind of
GPU, so both are compared before it is loaded.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .cuda import Cuda
from .engine import EngineError, Logits
from .engine_slots import SlotFacts
from .slots import Call

PLAN = "engine.plan"
PREFILL, DECODE = 0, 1  # the optimisation profiles, in the order in which the builder adds them


@dataclass(frozen=True)
class Here:
    """What an engine would run on. ``version`` is TensorRT's, ``capability`` the GPU's, for example ``8.9``."""

    version: str
    gpu: str
    capability: str


def refuse_mismatch(built: dict[str, Any], here: Here) -> None:
    """Raise EngineError, naming both sides, when an engine built as ``built`` (the ``builder`` of ``engine.json``)
    says cannot run ``here``.
    """
    if not _version_matches(built, here.version):
        raise EngineError(
            f"the engine was built by {built['module']} {built['version']}, here is {here.version}; "
            "build it again with this version"
        )
    if not _gpu_matches(built, here):
        wanted = built["gpu"] or f"compute capability {' or '.join(built['compute_capabilities'])}"
        raise EngineError(
            f"the engine was built for {wanted}, here is {here.gpu} with compute capability {here.capability}; "
            "build it for this GPU"
        )


def _version_matches(built: dict[str, Any], version: str) -> bool:
    """Exactly, or with TensorRT's version compatibility any later one up to the next major version."""
    if not built["version_compatible"]:
        return bool(built["version"] == version)
    old, new = _numbers(built["version"]), _numbers(version)
    return old <= new and new[0] - old[0] <= 1


def _gpu_matches(built: dict[str, Any], here: Here) -> bool:
    if built["hardware_compatibility"] == "ampere-plus":
        return _numbers(here.capability) >= (8, 0)
    same_gpu = built["gpu"] in (None, here.gpu) or built["hardware_compatibility"] == "same-compute-capability"
    return same_gpu and here.capability in built["compute_capabilities"]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


class TensorRtExecutor:
    """An :class:`~.engine_slots.Executor`. Made by :func:`open_executor`; one execution context a profile."""

    def __init__(self, engine: Any, cuda: Cuda, facts: SlotFacts, slots: int) -> None:
        self._engine, self._cuda, self._facts = engine, cuda, facts
        self._contexts = [self._context(profile) for profile in (PREFILL, DECODE)]
        self._caches = {name: cuda.allocate(slots * facts.slot_bytes) for name in facts.cache_names}
        tokens = max(slots, facts.prefill_batch * facts.prefill_tokens)
        sizes = {"input_ids": 8 * tokens, "start_pos": 8 * slots, "last_idx": 8 * slots}
        self._small = {name: cuda.allocate(size) for name, size in sizes.items()}
        self._logits: npt.NDArray[np.float32] = np.zeros((slots, facts.vocab_size), np.float32)
        self._device_logits = cuda.allocate(self._logits.nbytes)

    def _context(self, profile: int) -> Any:
        context = self._engine.create_execution_context()
        if context is None or not context.set_optimization_profile_async(profile, self._cuda.stream):
            raise EngineError(f"TensorRT cannot make a context for profile {profile}; is there enough GPU memory?")
        return context

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
    built = facts.builder
    try:
        trt = importlib.import_module(built["module"])
    except ImportError as error:
        raise EngineError(f"the engine needs {built['module']} {built['version']}: {error}") from error
    if not _version_matches(built, trt.__version__):
        refuse_mismatch(built, Here(trt.__version__, "", ""))
    cuda = Cuda()
    refuse_mismatch(built, Here(trt.__version__, cuda.device_name(), cuda.compute_capability()))
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
    runtime.engine_host_code_allowed = built["version_compatible"]
    try:
        engine = runtime.deserialize_cuda_engine((folder / PLAN).read_bytes())
    except OSError as error:
        raise EngineError(f"{folder / PLAN} cannot be read: {error}") from error
    if engine is None:
        raise EngineError(f"TensorRT cannot load {folder / PLAN}; its log says why")
    return TensorRtExecutor(engine, cuda, facts, slots)
