"""An engine meets another TensorRT, another GPU or none at all: it says so, naming both, and loads nothing."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from tiny_onnx import write

from build_engine.backend.cuda import Cuda
from build_engine.backend.engine import EngineError
from build_engine.backend.engines import open_engine
from build_engine.backend.plan import Here, refuse_mismatch

PLAN = {
    "module": "tensorrt",
    "version": "11.1.0.106",
    "gpu": "NVIDIA H100 80GB HBM3",
    "compute_capabilities": ["9.0"],
    "version_compatible": False,
    "hardware_compatibility": "none",
}
RTX = PLAN | {"module": "tensorrt_rtx_bindings", "version": "1.7.1.116", "gpu": None}
RTX |= {"compute_capabilities": ["8.6", "8.9"]}


def here(version: str = "11.1.0.106", gpu: str = "NVIDIA H100 80GB HBM3", capability: str = "9.0") -> Here:
    """The host that PLAN was built on, unless told otherwise."""
    return Here(version, gpu, capability)


@pytest.mark.parametrize(
    ("built", "host"),
    [
        (PLAN, here()),
        (PLAN | {"version_compatible": True}, here(version="11.3.0.1")),
        (PLAN | {"version_compatible": True}, here(version="12.0.0.1")),
        (PLAN | {"hardware_compatibility": "same-compute-capability"}, here(gpu="NVIDIA H200")),
        (PLAN | {"hardware_compatibility": "ampere-plus"}, here(gpu="NVIDIA B200", capability="10.0")),
        (RTX, Here("1.7.1.116", "NVIDIA L4", "8.9")),
    ],
)
def test_a_host_that_fits_is_taken(built: dict[str, Any], host: Here) -> None:
    """The same version and GPU, or what the compatibility flags allow."""
    refuse_mismatch(built, host)


@pytest.mark.parametrize(
    ("built", "host", "message"),
    [
        (PLAN, here(version="11.1.0.107"), r"built by tensorrt 11\.1\.0\.106, here is 11\.1\.0\.107"),
        (PLAN | {"version_compatible": True}, here(version="11.0.9.9"), r"11\.1\.0\.106, here is 11\.0\.9\.9"),
        (PLAN | {"version_compatible": True}, here(version="13.0.0.1"), r"11\.1\.0\.106, here is 13\.0"),
        (PLAN, here(gpu="NVIDIA H200"), r"built for NVIDIA H100 80GB HBM3, here is NVIDIA H200 with .* 9\.0"),
        (PLAN, here(gpu="NVIDIA L4", capability="8.9"), r"H100.*here is NVIDIA L4 with compute capability 8\.9"),
        (PLAN | {"hardware_compatibility": "ampere-plus"}, here(gpu="Tesla T4", capability="7.5"), r"Tesla T4"),
        (RTX, Here("1.7.0.1", "NVIDIA L4", "8.9"), r"tensorrt_rtx_bindings 1\.7\.1\.116, here is 1\.7\.0\.1"),
        (RTX, Here("1.7.1.116", "NVIDIA H100", "9.0"), r"capability 8\.6 or 8\.9, here is NVIDIA H100 .* 9\.0"),
    ],
)
def test_a_mismatch_names_both_sides(built: dict[str, Any], host: Here, message: str) -> None:
    """What the engine was built with and for, and what is here."""
    with pytest.raises(EngineError, match=message):
        refuse_mismatch(built, host)


def has_gpu() -> bool:
    """Whether CUDA has a device here."""
    try:
        return bool(Cuda().device_name())
    except EngineError:
        return False


def load(folder: Path, kind: str, builder: dict[str, Any]) -> None:
    """Open the tiny model as an engine of another kind."""
    write(folder, kind=kind, builder=builder)
    open_engine(folder, threads=1, cache_tokens=1024, step_tokens=64, max_sequences=2)


def test_without_the_package_the_engine_names_it(tmp_path: Path) -> None:
    """A version for TensorRT on a host that has none of it."""
    with pytest.raises(EngineError, match=r"needs no_such_tensorrt 11\.1\.0\.106"):
        load(tmp_path, "tensorrt", PLAN | {"module": "no_such_tensorrt"})


def test_another_version_is_refused_before_the_gpu_is_asked(tmp_path: Path) -> None:
    """With the real package, whatever it is called here."""
    with pytest.raises(EngineError, match=r"tensorrt_rtx_bindings 1\.6\.0\.1, here is"):
        load(tmp_path, "tensorrt-rtx", RTX | {"version": "1.6.0.1"})


def test_without_a_gpu_the_engine_says_so(tmp_path: Path) -> None:
    """A host with the package and no driver gets a sentence, not a crash."""
    trt = importlib.import_module("tensorrt_rtx_bindings")
    if has_gpu():
        pytest.skip("there is a GPU here")
    with pytest.raises(EngineError, match=r"no GPU can be used here|CUDA error"):
        load(tmp_path, "tensorrt-rtx", RTX | {"version": trt.__version__})
