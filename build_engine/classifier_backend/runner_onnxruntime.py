"""Runs the encoder on the CPU with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime

from .runner import Mask, Scores, TokenIds


class OnnxRuntimeRunner:
    """A :class:`~.runner.Runner`. Made by :func:`open_runner`."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session

    def run(self, input_ids: TokenIds, mask: Mask) -> Scores:
        """See :meth:`Runner.run`."""
        scores: Scores = self._session.run(["scores"], {"input_ids": input_ids, "mask": mask})[0]
        return scores


def open_runner(folder: Path, facts: dict[str, Any], threads: int) -> OnnxRuntimeRunner:
    """Load ``<folder>/model.onnx``."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin between two operators take the cores from the server around us.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = str(folder / "model.onnx")
    return OnnxRuntimeRunner(onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"]))
