"""The builder's lines as a script runs them: one command each, for what every line has to withstand."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .checkpoints import Shape, write_directory, write_text
from .encoders import write_encoder
from .encoders import write_texts as write_labelled

LINES = ("openvino", "onnxruntime", "classifier", "tensorrt-rtx")


def command(line: str, folder: Path, repository: Path, work_dir: Path) -> list[str]:
    """The longest way through a line: int8, fitted and judged where it can be. Sources and texts lie in ``folder`` and
    are written when they are not there."""
    if line != "openvino" and importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("ONNX Runtime has no wheel for this Python")
    if line == "tensorrt-rtx" and importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("the extra tensorrt-rtx is not installed")
    source = folder / f"{line}-source"
    if not source.exists():
        _write(line, folder, source)
    options = ["--name", "tiny", "--precision", "int8", "--source", str(source), "--repository", str(repository)]
    options += ["--work-dir", str(work_dir), "--quiet", "--held-out", str(folder / f"{line}-held-out.jsonl")]
    if line == "openvino":
        options += ["--target", "openvino"]
    else:
        options += ["--calibration", str(folder / f"{line}-calibration.jsonl")]
        slots = ["--target", line, "--sequence-length", "64", "--slots", "2"]
        options += ["--task", "text-classification"] if line == "classifier" else slots
        options += ["--compute-capability", "8.9"] if line == "tensorrt-rtx" else []
    return [sys.executable, "-m", "build_engine", "build", *options]


def _write(line: str, folder: Path, source: Path) -> None:
    writers: tuple[Callable[[Path], Path], Callable[[Path, int], Path]]
    writers = (lambda file: write_directory(file, Shape()), lambda file, _: write_text(file))
    if line == "classifier":
        writers = (write_encoder, lambda file, seed: write_labelled(file, 200, seed))
    for seed, use in enumerate(("held-out", "calibration")):
        writers[1](folder / f"{line}-{use}.jsonl", seed)
    writers[0](source)
