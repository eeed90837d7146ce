"""Opens whatever engine a version holds. Each kind is imported only when a version asks for it: a GPU host has no
OpenVINO, a CPU host no TensorRT.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from .engine import Engine, EngineError

_MODULES = {
    "openvino": ".engine_openvino",
    "onnxruntime": ".engine_slots",
    "tensorrt": ".engine_slots",
    "tensorrt-rtx": ".engine_slots",
}


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
