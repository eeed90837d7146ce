"""TensorRT and TensorRT-RTX behind one face: they share an API and differ in a few settings.

An ordinary plan is for the GPU that it is built on, which must be there. A TensorRT-RTX engine names its compute
capabilities, needs no GPU to be built, and belongs to one release.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engine.backend.cuda import Cuda
from build_engine.backend.engine import EngineError
from build_engine.errors import EngineBuildError, RecipeError
from build_engine.recipe import RTX_DEFAULT, ForTensorRt

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx_bindings"}
REFUSED = re.compile("unused input|unsupported", re.IGNORECASE)


@dataclass(frozen=True)
class Settings:
    """What a plan is built for. ``workspace_mib`` is TensorRT's scratch memory, its own limit when None;
    ``timing_cache_folder`` is used by ordinary TensorRT alone."""

    target: str
    compute_capabilities: tuple[str, ...]
    workspace_mib: int | None
    version_compatible: bool
    hardware_compatibility: str
    timing_cache_folder: Path


def settings_of(recipe: ForTensorRt) -> Settings:
    """The settings of a recipe, of a decoder or of a classifier."""
    return Settings(
        target=recipe.target,
        compute_capabilities=recipe.compute_capabilities or RTX_DEFAULT,
        workspace_mib=recipe.workspace_mib,
        version_compatible=recipe.version_compatible,
        hardware_compatibility=recipe.hardware_compatibility,
        timing_cache_folder=recipe.work_dir.resolve(),
    )


def load(target: str) -> Any:
    """The module of ``target``. Raises :class:`RecipeError` saying how to get it."""
    try:
        return importlib.import_module(MODULES[target])
    except ImportError as error:
        hint = "pip install 'tidegate[tensorrt-rtx]'" if target == "tensorrt-rtx" else "NVIDIA's tensorrt on a GPU host"
        raise RecipeError(f"--target {target} needs {hint}: {error}") from None


def new_log(trt: Any) -> Any:
    """A logger for ``trt`` that keeps its lines; see :func:`refuse_log`."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[tuple[bool, str]] = []

        def log(self, severity: Any, text: str) -> None:
            if severity <= trt.ILogger.Severity.INFO:
                self.lines.append((severity <= trt.ILogger.Severity.ERROR, text))

    return Log()


def refuse_log(lines: Sequence[tuple[bool, str]]) -> None:
    """Raise :class:`EngineBuildError` when a line is an error, or says that something of the graph was left out:
    TensorRT builds without it and computes something else. Quoted are the first such line, which says where, and the
    last assertion, or else the last line, which says what. ``lines`` are (is an error, text).
    """
    refused = [" ".join(text.split()) for is_error, text in lines if is_error or REFUSED.search(text)]
    if refused:
        reason = [text for text in refused if "assertion" in text.lower()] or refused
        raise EngineBuildError(f"TensorRT: {' ... '.join(dict.fromkeys((refused[0], reason[-1])))}")


class Device:
    """What a plan is for: the GPU of this host, or for TensorRT-RTX the capabilities that were asked for."""

    def __init__(self, settings: Settings) -> None:
        self.gpu: str | None = None
        self.capabilities = settings.compute_capabilities
        if settings.target == "tensorrt":
            try:
                cuda = Cuda()
                self.gpu, self.capabilities = cuda.device_name(), (cuda.compute_capability(),)
            except EngineError as error:
                raise EngineBuildError(f"--target tensorrt builds on the GPU that will serve: {error}") from None


def host_of(recipe: ForTensorRt) -> dict[str, str]:
    """What a plan takes of the host that builds it, and so belongs to the hash of its inputs: for ``--target tensorrt``
    the version and the GPU. Raises :class:`RecipeError` without TensorRT, :class:`EngineBuildError` without a GPU."""
    if recipe.target != "tensorrt":
        return {}
    version = load(recipe.target).__version__
    return {"tensorrt": version, "gpu": str(Device(settings_of(recipe)).gpu)}


def configure(trt: Any, config: Any, settings: Settings, device: Device) -> None:
    """Apply ``settings`` to a builder's ``config``."""
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    if settings.target == "tensorrt-rtx":
        # No timing cache and no compatibility flag: there they do nothing, or need a GPU.
        config.num_compute_capabilities = len(device.capabilities)
        for number, capability in enumerate(device.capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}"), number)
        return
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.hardware_compatibility != "none":
        level = settings.hardware_compatibility.replace("-", "_").upper()
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    file = timing_cache_file(trt, settings, device)
    cache = config.create_timing_cache(file.read_bytes() if file.exists() else b"")
    if cache is None:  # damaged; it only saves time
        cache = config.create_timing_cache(b"")
    config.set_timing_cache(cache, ignore_mismatch=False)


def keep_timings(trt: Any, config: Any, settings: Settings, device: Device) -> None:
    """Save what ordinary TensorRT has measured, for the next build with this version on this GPU."""
    if settings.target == "tensorrt":
        file = timing_cache_file(trt, settings, device)
        part = file.with_suffix(".part")
        part.write_bytes(memoryview(config.get_timing_cache().serialize()))
        part.replace(file)


def timing_cache_file(trt: Any, settings: Settings, device: Device) -> Path:
    """One a TensorRT version and GPU: measurements of another one are wrong."""
    gpu = re.sub(r"[^a-z0-9]+", "-", (device.gpu or "").lower())
    return settings.timing_cache_folder / f"timing-{trt.__version__}-{gpu}.cache"
