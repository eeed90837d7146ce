"""Whether a plan that was just built has run on the GPU here, and said there what its ONNX graph says on the CPU.

Without a GPU that the plan is for, nothing is claimed: the manifest then says ``"gpu_verified": false``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from build_engine import work
from build_engine.backend.engine import Engine, EngineError
from build_engine.backend.engines import open_engine
from build_engine.errors import AccuracyError
from build_engine.verify import Gate, compare

SAME = Gate(top1=0.95, kl=0.01)
"""Of one graph on two devices: other kernels round differently; a wrong mask or cache is far beyond this."""
SEQUENCES, TOKENS = 4, 33


def verified(graph: Path, plan: Path, facts: dict[str, Any], work_dir: Path) -> bool:
    """Run ``plan`` against ``graph``, folders with an engine's files; ``facts`` is the plan's ``engine.json``. False
    when the plan cannot run here. Raises :class:`AccuracyError` when it does and says something else."""
    slots = min(SEQUENCES, facts["slots"])
    shape = (slots, min(TOKENS, facts["context_length"]))
    windows = np.random.default_rng(0).integers(0, facts["vocab_size"], shape)
    with work.part(work_dir, "gpu") as folder:
        try:
            candidate = _opened(folder / "plan", plan, facts)
        except EngineError:
            return False
        reference = _opened(folder / "graph", graph, facts | {"kind": "onnxruntime"})
        failures = compare(reference, candidate, windows).failures(SAME)
    if failures:
        raise AccuracyError(f"on the GPU the engine says something else than its ONNX graph: {'; '.join(failures)}")
    return True


def _opened(version: Path, files: Path, facts: dict[str, Any]) -> Engine:
    """The engine in ``files`` as a version would have it."""
    (version / "engine").mkdir(parents=True)
    for file in files.iterdir():
        (version / "engine" / file.name).symlink_to(file.resolve())
    described = version / "engine" / "engine.json"
    described.unlink(missing_ok=True)
    described.write_text(json.dumps(facts))
    tokens = facts["slots"] * facts["context_length"]
    return open_engine(version, threads=1, cache_tokens=tokens, step_tokens=TOKENS, max_sequences=facts["slots"])
