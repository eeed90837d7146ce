"""Opens whatever engine a version holds. Each kind is imported only when a version asks for it: a GPU host has no
OpenVINO, a CPU host no TensorRT.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np

from .engine import Engine, EngineError, Row, TokenIds

_MODULES = {
    "openvino": ".engine_openvino",
    "onnxruntime": ".engine_slots",
    "tensorrt": ".engine_slots",
    "tensorrt-rtx": ".engine_slots",
}

WARM_UP = np.zeros(32, np.int64)


def open_engine(version_dir: Path, *, threads: int, cache_tokens: int, step_tokens: int, max_sequences: int) -> Engine:
    """The engine of ``<version_dir>/engine``, with room for ``cache_tokens`` tokens of all sequences and steps of
    ``step_tokens``. Raises EngineError when it cannot be loaded here, with the reason.
    """
    path = version_dir / "engine" / "engine.json"
    try:
        kind = json.loads(path.read_text(encoding="utf-8"))["kind"]
        module = importlib.import_module(_MODULES[kind], __package__)
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise EngineError(f"{path} names no engine that this backend knows: {error!r}") from error
    except ImportError as error:
        raise EngineError(f"{path} is for {kind}, which cannot be imported here: {error}") from error
    engine: Engine = module.open_engine(
        version_dir,
        threads=threads,
        cache_tokens=cache_tokens,
        step_tokens=step_tokens,
        max_sequences=max_sequences,
    )
    return engine


def warm_up(engine: Engine, prompt: TokenIds = WARM_UP) -> None:
    """Run ``prompt``, as much of it as there is room for, and a token behind it, so that no request pays for what an
    engine does only once, and a version that cannot step never becomes ready. Raises EngineError, also when a logit is
    not a number.
    """
    room = min(engine.context_length, engine.total_tokens())
    prompt = prompt[: max(1, min(room - 1, engine.max_row_tokens))]
    sequence = engine.open(min(room, prompt.size + 1))
    if sequence is None:
        raise EngineError(f"the engine has no room for a sequence of {prompt.size + 1} tokens")
    try:
        for tokens in (prompt, prompt[:1])[: min(room, 2)]:
            logits = engine.step([Row(sequence, tokens, sample=True)])
            if not np.isfinite(logits).all():
                raise EngineError("the engine's logits are infinite or not a number")
    finally:
        engine.close(sequence)
