"""The seam between a text classifier and the hardware."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

_MODULES = {
    "onnxruntime": ".runner_onnxruntime",
    "tensorrt": ".runner_tensorrt",
    "tensorrt-rtx": ".runner_tensorrt",
}
TokenIds = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float32]


class Runner(Protocol):
    """A device that holds the encoder."""

    def run(self, input_ids: TokenIds, mask: Mask) -> Scores:
        """Both ``[n, tokens]``; ``mask`` is true for what is text. Returns ``[n, labels]``, each row sums to one."""


def open_runner(folder: Path, threads: int) -> Runner:
    """The engine in ``folder``, on ``threads`` threads where it runs on the CPU. Raises when it cannot run here, with
    the reason."""
    facts: dict[str, Any] = json.loads((folder / "engine.json").read_text(encoding="utf-8"))
    runner: Runner = importlib.import_module(_MODULES[facts["kind"]], __package__).open_runner(folder, facts, threads)
    return runner
