"""Logits of a published version, by the engine that serves it, and of a torch model, over the same tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from build_engine.backend.engine import Engine, Row
from build_engine.backend.engines import open_engine
from build_engine.pipeline import build
from build_engine.recipe import Recipe

PROMPTS, DECODED, CHUNK = (150, 37), 6, 64


def tokens(vocabulary: int) -> list[np.ndarray]:
    """One sequence for each prompt length, what is decoded behind it included."""
    return [np.random.default_rng(size).integers(3, vocabulary, size + DECODED) for size in PROMPTS]


def built(source: Path, work: Path, **options: Any) -> Path:
    """The folder of a version, built as float32 by the pipeline itself."""
    recipe = Recipe(source=source, name="model", repository=work / "repository", work_dir=work / "build")
    build(
        replace(recipe, precision="fp32", kv_cache_tokens=1024, context_length=256, **options), quiet=True, force=True
    )
    return max((work / "repository" / "model").glob("[0-9]*"), key=lambda version: int(version.name))


def engine_logits(version: Path) -> np.ndarray:
    """Behind each prompt and each decoded token, ``[sequences, 1 + decoded, vocab]``. The prompts are prefilled in
    chunks and together, then decoded together."""
    engine: Engine = open_engine(version, threads=2, cache_tokens=1024, step_tokens=2 * CHUNK, max_sequences=4)
    sequences = tokens(engine.vocab_size)
    ids = [engine.open(sequence.size) or no_room() for sequence in sequences]
    lines: list[list[np.ndarray]] = [[] for _ in sequences]
    for start in range(0, max(PROMPTS), CHUNK):
        sampled = []
        rows = []
        for number, (sequence, size) in enumerate(zip(sequences, PROMPTS, strict=True)):
            if start < size:
                end = min(start + CHUNK, size)
                rows.append(Row(ids[number], sequence[start:end], sample=end == size))
                sampled += [number] if end == size else []
        for number, line in zip(sampled, engine.step(rows), strict=True):
            lines[number].append(line.copy())
    for step in range(DECODED):
        rows = [
            Row(each, sequence[size + step, None], sample=True)
            for each, sequence, size in zip(ids, sequences, PROMPTS, strict=True)
        ]
        for number, line in enumerate(engine.step(rows)):
            lines[number].append(line.copy())
    return np.array(lines)


def no_room() -> int:
    """A sequence that there is no room for."""
    raise AssertionError("no room for a sequence")


def torch_logits(model: Any) -> np.ndarray:
    """The same by a torch model, the whole sequence at once."""
    with torch.no_grad():
        return np.array(
            [
                model(torch.tensor(sequence)[None]).logits[0, size - 1 :].float().numpy()
                for sequence, size in zip(tokens(model.config.vocab_size), PROMPTS, strict=True)
            ]
        )
