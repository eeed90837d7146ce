"""The first run of an engine that was just written: what does not open here, or says what is no number, is not
published, whether there is text to judge it by or not.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from build_engine import work
from build_engine.backend.engine import Engine, EngineError
from build_engine.backend.engines import open_engine, warm_up
from build_engine.errors import EngineBuildError
from build_engine.source import TokenizerFiles

TEXT = "The capital of France is Paris. 1, 2, 3, 4, 5, 6; def add(a, b): return a + b"


def run_first(files: Path, facts: dict[str, Any], tokenizer: TokenizerFiles, work_dir: Path) -> None:
    """Run a text and a token behind it through the engine in the folder ``files``; ``facts`` is its ``engine.json``.
    Raises :class:`EngineBuildError` when it does not open or a logit is infinite or not a number."""
    ids = np.array(Tokenizer.from_str(tokenizer.json).encode(TEXT).ids or [0], np.int64)
    with work.part(work_dir, "first-run") as version:
        lay_out(version, files, facts)
        try:
            warm_up(_opened(version, facts), ids)
        except EngineError as error:
            raise EngineBuildError(f"the engine was built and does not work, so it is not published: {error}") from None


def lay_out(version: Path, files: Path, facts: dict[str, Any]) -> None:
    """The engine in ``files`` as the folder ``version`` would have it: links, and an ``engine.json`` of its own."""
    (version / "engine").mkdir(parents=True)
    for file in files.iterdir():
        (version / "engine" / file.name).symlink_to(file.resolve())
    described = version / "engine" / "engine.json"
    described.unlink(missing_ok=True)
    described.write_text(json.dumps(facts))


def _opened(version: Path, facts: dict[str, Any]) -> Engine:
    """With room for one sequence. A graph for ONNX Runtime leaves its weights in the mapped file: a build needs room
    for the largest tensor and not for the model."""
    room: dict[str, int] = {"threads": len(os.sched_getaffinity(0)), "step_tokens": 256}
    if facts["kind"] == "openvino":
        return open_engine(version, cache_tokens=2 * facts["block_size"], max_sequences=1, **room)
    slots, executors = (
        importlib.import_module(f"build_engine.backend.{name}") for name in ("engine_slots", "executor_onnxruntime")
    )
    shape = slots.SlotFacts.read(version / "engine" / "engine.json")
    executor = executors.open_executor(version / "engine", shape, slots=1, threads=room["threads"], mapped=True)
    engine: Engine = slots.SlotEngine(executor, shape, slots.SlotTable(1, shape.context_length), room["step_tokens"])
    return engine
