"""The tiny model of the contract tests as a slot engine's folder: the emitted graph, and a token that breaks it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import onnx

from build_engine.backend.cuda import Cuda
from build_engine.backend.engine import EngineError
from build_engine.decoder import DecoderConfig, FloatArray, expected_tensors
from build_engine.emit_onnx import MODEL, emit
from build_engine.recipe import RTX_CAPABILITIES
from build_engine.tensorrt_api import MODULES, Settings
from build_engine.tensorrt_build import build_plan

CONFIG = DecoderConfig(
    architecture="LlamaForCausalLM",
    vocab_size=96,
    hidden_size=64,
    intermediate_size=96,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=32,
    rms_eps=1e-5,
    context_length=512,
    tie_embeddings=True,
    rope_theta=10000.0,
)


def read(name: str) -> FloatArray:
    """Random weights, the same for the same name."""
    shape = expected_tensors(CONFIG)[name]
    rng = np.random.default_rng([*name.encode()])
    values = rng.standard_normal(shape) * (4 if "embed" in name else 1) / np.sqrt(shape[-1])
    return (1 + values if len(shape) == 1 else values).astype(np.float32)


def write(folder: Path, *, precision: str = "fp32", poison: int | None = None, **changes: object) -> Path:
    """Write ``<folder>/engine``. A call that carries the token ``poison`` fails inside ONNX Runtime."""
    engine = folder / "engine"
    engine.mkdir(parents=True)
    emit(CONFIG, read, precision, CONFIG.context_length, engine)
    if poison is not None:
        _poison(engine / MODEL, poison)
    facts = {name: getattr(CONFIG, name) for name in ("layers", "kv_heads", "head_dim", "vocab_size", "context_length")}
    facts |= {"kind": "onnxruntime", "kv_cache_precision": precision, "slots": 8, "builder": {}}
    facts |= {"prefill_tokens": 256, "prefill_batch": 4}
    (engine / "engine.json").write_text(json.dumps(facts | changes))
    return folder


def _poison(path: Path, token: int) -> None:
    """The embedding is asked for a row that it does not have."""
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    constants = {"poison": token, "no_such_row": CONFIG.vocab_size + 1}
    for name, value in constants.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.int64), name))
    embedding = next(node for node in graph.node if node.op_type == "Gather" and node.input[1] == "input_ids")
    embedding.input[1] = "poisoned_ids"
    nodes = [
        onnx.helper.make_node("Equal", ["input_ids", "poison"], ["is_poison"]),
        onnx.helper.make_node("Where", ["is_poison", "no_such_row", "input_ids"], ["poisoned_ids"]),
    ]
    for node in reversed(nodes):
        graph.node.insert(0, node)
    path.write_bytes(model.SerializeToString())


def gpu_for(target: str) -> str | None:
    """The compute capability of the GPU here when ``target`` can build for it."""
    try:
        importlib.import_module(MODULES[target])
        found = Cuda().compute_capability()
    except (ImportError, EngineError):
        return None
    return found if target == "tensorrt" or found in RTX_CAPABILITIES else None


def write_plan(folder: Path, target: str) -> Path:
    """``<folder>/engine`` as a plan for the GPU here."""
    write(folder, precision="fp16", kind=target)
    engine = folder / "engine"
    facts = json.loads((engine / "engine.json").read_text())
    capability = gpu_for(target)
    assert capability is not None
    settings = Settings(target, (capability,), None, False, "none", folder)
    built = build_plan(engine, settings, facts | {"quantize_nodes": 0, "dequantize_nodes": 0}, engine)
    (engine / "engine.json").write_text(json.dumps(facts | built))
    return folder
