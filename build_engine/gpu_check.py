"""Whether a plan that was just built has run on the GPU here, and said there what its ONNX graph says on the CPU.

Without a GPU that the plan is for, nothing is claimed: the manifest then says ``"gpu_verified": false``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from build_engine import work
from build_engine.backend.engine import Engine, EngineError
from build_engine.backend.engines import open_engine
from build_engine.errors import AccuracyError, EngineBuildError
from build_engine.first_run import lay_out
from build_engine.verify import PREFILL_TOKENS, Gate, compare

SAME = Gate(top1=0.95, kl=0.01)
"""Of one graph on two devices: other kernels round differently; a wrong mask or cache is far beyond this."""
SEQUENCES, TOKENS = 4, 65
"""Enough for padded prefill calls of two rows and for steps that also decode (:func:`build_engine.verify.compare`)."""


def verified(graph: Path, plan: Path, facts: dict[str, Any], work_dir: Path) -> bool:
    """Run ``plan`` against ``graph``, folders with an engine's files; ``facts`` is the plan's ``engine.json``. False
    when the plan cannot run here. Raises :class:`AccuracyError` when it does and says something else, and
    :class:`EngineBuildError` when it fails in a step or was built for the very GPU here and does not load."""
    slots = min(SEQUENCES, facts["slots"])
    shape = (slots, min(TOKENS, facts["context_length"]))
    windows = np.random.default_rng(0).integers(0, facts["vocab_size"], shape)
    with work.part(work_dir, "gpu") as folder:
        try:
            candidate = _opened(folder / "plan", plan, facts)
        except EngineError as error:
            if facts["kind"] == "tensorrt":
                raise EngineBuildError(f"the plan was built for the GPU here and does not load: {error}") from None
            return False
        try:
            reference = _opened(folder / "graph", graph, facts | {"kind": "onnxruntime"})
            failures = compare(reference, candidate, windows).failures(SAME)
        except EngineError as error:
            raise EngineBuildError(f"the plan loads on the GPU here and fails: {error}") from None
    if failures:
        raise AccuracyError(f"on the GPU the engine says something else than its ONNX graph: {'; '.join(failures)}")
    return True


def _opened(version: Path, files: Path, facts: dict[str, Any]) -> Engine:
    """The engine in ``files`` as a version would have it."""
    lay_out(version, files, facts)
    tokens, most = facts["slots"] * facts["context_length"], SEQUENCES * PREFILL_TOKENS
    return open_engine(version, threads=1, cache_tokens=tokens, step_tokens=most, max_sequences=facts["slots"])
