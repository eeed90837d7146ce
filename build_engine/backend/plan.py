"""A TensorRT plan: loaded where it can run, refused where it cannot.

A plan is for one TensorRT and one kind of GPU, so both are compared before it is loaded. Built against the documented
API; nobody has run it on a GPU yet.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cuda import Cuda
from .engine import EngineError

PLAN = "engine.plan"


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


def load_plan(folder: Path, built: dict[str, Any]) -> tuple[Any, Cuda]:
    """The engine in ``<folder>/engine.plan`` and the GPU it is on; ``built`` is the ``builder`` of ``engine.json``.
    Raises EngineError when TensorRT, the GPU or the file is not what the engine needs.
    """
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
    return engine, cuda


def new_context(engine: Any, cuda: Cuda, profile: int) -> Any:
    """An execution context for one of the engine's profiles."""
    context = engine.create_execution_context()
    if context is None or not context.set_optimization_profile_async(profile, cuda.stream):
        raise EngineError(f"TensorRT cannot make a context for profile {profile}; is there enough GPU memory?")
    return context
