"""On a GPU: the built engine says what the reference says. Without one every test here is skipped, by name.

Run them on the host that will serve, with its TensorRT: ``python -m pytest tests/gpu -v``.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build_engine.backend.cuda import Cuda
from build_engine.backend.engine import Engine, EngineError, Row
from build_engine.backend.engines import open_engine
from build_engine.pipeline import build
from build_engine.recipe import RTX_CAPABILITIES, Recipe
from build_engine.tensorrt_api import MODULES
from deploy.local.demo_model import demo_model

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "smollm2.json").read_text())
CASES = GOLDENS["cases"]
SLOTS, LENGTH = 16, 256


def capability() -> str:
    """Of the GPU here; skips without one."""
    try:
        return Cuda().compute_capability()
    except EngineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=[(t, p) for t in MODULES for p in ("fp32", "fp16")], ids="-".join)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Engine]:
    """The demo model, built for the GPU here and loaded; with its precision."""
    target, precision = request.param
    found = capability()
    try:
        importlib.import_module(MODULES[target])
    except ImportError as error:
        pytest.skip(str(error))
    if target == "tensorrt-rtx" and found not in RTX_CAPABILITIES:
        pytest.skip(f"TensorRT-RTX has no kernels for compute capability {found}")
    folder = tmp_path_factory.mktemp(f"{target}-{precision}")
    asked: dict[str, Any] = {"compute_capabilities": (found,)} if target == "tensorrt-rtx" else {}
    build(
        Recipe(
            source=demo_model(),
            name="generate",
            repository=folder / "repository",
            work_dir=folder / "work",
            target=target,
            precision=precision,
            context_length=LENGTH,
            slots=SLOTS,
            **asked,
        ),
        quiet=True,
    )
    return precision, opened(folder / "repository/generate/1")


def opened(version: Path) -> Engine:
    """The version with all its slots."""
    return open_engine(version, threads=2, cache_tokens=SLOTS * LENGTH, step_tokens=256, max_sequences=SLOTS)


def told(engine: Engine, cases: list[dict[str, Any]]) -> list[list[int]]:
    """The greedy token behind each prompt and behind each token of its completion, which is given: all cases at once,
    so a wrong answer does not lead the rest astray."""
    ids = [engine.open(LENGTH) for _ in cases]
    open_ids = [sequence for sequence in ids if sequence is not None]
    assert len(open_ids) == len(cases)
    answers: list[list[int]] = [[] for _ in cases]
    for place, (sequence, case) in enumerate(zip(open_ids, cases, strict=True)):
        logits = engine.step([Row(sequence, np.array(case["prompt_ids"]), sample=True)])
        answers[place].append(int(logits[0].argmax()))
    for step in range(max(len(case["completion_ids"]) for case in cases) - 1):
        going = [k for k, case in enumerate(cases) if step + 1 < len(case["completion_ids"])]
        rows = [Row(open_ids[k], np.array([cases[k]["completion_ids"][step]]), sample=True) for k in going]
        for k, line in zip(going, engine.step(rows), strict=True):
            answers[k].append(int(line.argmax()))
    for sequence in open_ids:
        engine.close(sequence)
    return answers


def test_greedy_tokens_equal_the_goldens(engine: tuple[str, Engine]) -> None:
    """fp32: every token of all 16 goldens, alone and together. fp16: 99.5 % of them."""
    precision, loaded = engine
    expected = [case["completion_ids"] for case in CASES]
    together = told(loaded, CASES)
    alone = [told(loaded, [case])[0] for case in CASES]
    for found in (together, alone):
        pairs = [pair for a, b in zip(found, expected, strict=True) for pair in zip(a, b, strict=True)]
        agreement = sum(a == b for a, b in pairs) / len(pairs)
        assert agreement == 1.0 if precision == "fp32" else agreement >= 0.995


def test_a_prompt_in_chunks_is_the_prompt_in_one(engine: tuple[str, Engine]) -> None:
    """Prefill behind what the slot holds already."""
    _, loaded = engine
    prompt = np.array(max((case["prompt_ids"] for case in CASES), key=len))
    lines = []
    for chunk in (prompt.size, 9):
        sequence = loaded.open(LENGTH)
        assert sequence is not None
        for start in range(0, prompt.size, chunk):
            line = loaded.step([Row(sequence, prompt[start : start + chunk], sample=True)])[-1].copy()
        loaded.close(sequence)
        lines.append(line)
    assert lines[0].argmax() == lines[1].argmax()
