"""The ONNX graph computes the decoder that the checkpoint describes, through the slot engine that serves it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from build_engine import emit_onnx
from build_engine.backend.engine import Row
from build_engine.backend.engines import open_engine
from build_engine.decoder import FloatArray
from build_engine.errors import RecipeError, UnsupportedModel
from build_engine.pipeline import open_source

from . import reference
from .checkpoints import LLAMA3_ROPE, Float32, Shape, weights, write_directory, write_safetensors
from .conftest import Builder

SHAPES = {
    "llama": Shape(),
    "tied": Shape(tied=True, head_dim=16),
    "qwen2": Shape(architecture="Qwen2ForCausalLM", theta=1e6),
    "llama3": Shape(rope=LLAMA3_ROPE, theta=5e5),
}
STANDARD = {
    "Add",
    "Attention",
    "Cast",
    "Gather",
    "GatherND",
    "Gemm",
    "LessOrEqual",
    "MatMul",
    "Mul",
    "RMSNormalization",
}
STANDARD |= {"Range", "Reshape", "RotaryEmbedding", "Shape", "Sigmoid", "TensorScatter", "Transpose", "Unsqueeze"}
RNG = np.random.default_rng(7)
PROMPTS = [RNG.integers(0, 264, size) for size in (70, 5, 60)]
FOLLOWS = [RNG.integers(0, 264, 6) for _ in PROMPTS]


def found(version: Path) -> list[Float32]:
    """Logits behind three ragged prompts, the long ones in two chunks, and behind each of the tokens that follow."""
    engine = open_engine(version, threads=1, cache_tokens=512, step_tokens=256, max_sequences=4)
    ids = [engine.open(128) or 0 for _ in PROMPTS]
    engine.step([Row(i, prompt[:33], sample=False) for i, prompt in zip(ids, PROMPTS, strict=True) if prompt.size > 33])
    steps = [[prompt[33:] if prompt.size > 33 else prompt for prompt in PROMPTS]]
    steps += [[follow[k : k + 1] for follow in FOLLOWS] for k in range(len(FOLLOWS[0]))]
    logits = [engine.step([Row(i, part, sample=True) for i, part in zip(ids, step, strict=True)]) for step in steps]
    return [np.array(lines) for lines in zip(*logits, strict=True)]


def wanted(shape: Shape, tensors: dict[str, Float32]) -> list[Float32]:
    """The same by definition."""
    pairs = zip(PROMPTS, FOLLOWS, strict=True)
    return [reference.logits(shape, tensors, [*p, *f])[len(p) - 1 :].astype(np.float32) for p, f in pairs]


@pytest.mark.parametrize("name", SHAPES)
def test_fp32_is_the_decoder_by_definition(publish_from: Builder, repository: Path, tmp_path: Path, name: str) -> None:
    """Prefill in ragged, padded chunks and decode of three sequences at once."""
    shape = SHAPES[name]
    source = write_directory(tmp_path / "source", shape)
    publish_from(source, target="onnxruntime", context_length=128, slots=4)
    for a, b in zip(found(repository / "tiny/1"), wanted(shape, weights(shape)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_fp16_is_close(publish_from: Builder, repository: Path, tmp_path: Path, name: str) -> None:
    """Weights, activations and cache in half precision move the logits by a thousandth of their spread or so."""
    shape = SHAPES[name]
    source = write_directory(tmp_path / "source", shape)
    manifest = publish_from(source, target="onnxruntime", precision="fp16", context_length=128, slots=4)
    assert manifest["engine"]["kv_cache_precision"] == "fp16"
    for a, b in zip(found(repository / "tiny/1"), wanted(shape, weights(shape)), strict=True):
        assert np.sqrt(((a - b) ** 2).mean()) < 0.005 * b.std()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_graph_is_standard_and_its_cache_in_place(tmp_path: Path, precision: str) -> None:
    """Opset 24, operators of ONNX alone, an explicit mask, and for each cache an output of its own shape and type.
    The whole weights lie beside it, each on a page."""
    source = open_source(write_directory(tmp_path / "source", Shape()))
    emit_onnx.emit(source.config, source.read, precision, 128, tmp_path)
    model = onnx.load(tmp_path / emit_onnx.MODEL, load_external_data=False)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 24)]
    assert model.ir_version == 11
    assert {node.op_type for node in model.graph.node} == STANDARD
    assert {len(node.input) for node in model.graph.node if node.op_type == "Attention"} == {4}
    ports = {port.name: port.type.tensor_type for port in (*model.graph.input, *model.graph.output)}
    caches = [f"{side}_{layer}" for layer in range(2) for side in ("key", "value")]
    assert set(ports) == {"input_ids", "start_pos", "last_idx", "logits"} | {
        f"{when}_{cache}" for when in ("past", "present") for cache in caches
    }
    for cache in caches:
        assert ports[f"past_{cache}"] == ports[f"present_{cache}"]
        assert [dim.dim_value for dim in ports[f"past_{cache}"].shape.dim][1:] == [2, 128, 32]
    entries = [{entry.key: entry.value for entry in tensor.external_data} for tensor in model.graph.initializer]
    assert all(int(entry["offset"]) % 4096 == 0 for entry in entries if entry)
    assert sum(1 for entry in entries if entry) == len(weights(Shape())) + 2


def test_a_tied_embedding_is_stored_once(tmp_path: Path) -> None:
    """It is read once, and is the head too."""
    shape = Shape(tied=True)
    source = open_source(write_directory(tmp_path / "source", shape))
    asked: list[str] = []

    def read(name: str) -> FloatArray:
        asked.append(name)
        return source.read(name)

    emit_onnx.emit(source.config, read, "fp32", 64, tmp_path)
    assert sorted(asked) == sorted(weights(shape))


def test_a_weight_beyond_fp16_is_refused_by_name(publish_from: Builder, repository: Path, tmp_path: Path) -> None:
    """It would become infinite, and the text noise."""
    source = write_directory(tmp_path / "source")
    tensors = weights(Shape())
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = -7e4
    write_safetensors(source / "model.safetensors", tensors)
    with pytest.raises(UnsupportedModel, match=r"layers\.1\.mlp\.up_proj\.weight reaches 7e\+04"):
        publish_from(source, target="onnxruntime", precision="fp16")
    assert not (repository / "tiny").exists()


def test_slots_are_what_was_asked_for_or_paid_for(publish_from: Builder, tmp_path: Path) -> None:
    """``--slots`` counts them; without it, ``--kv-cache-tokens`` is divided by the length of one."""
    source = write_directory(tmp_path / "source")
    asked = publish_from(source, target="onnxruntime", context_length=64, slots=3)
    assert asked["serving"] | {"threads": 0} == {
        "kv_cache_tokens": 192,
        "step_tokens": 128,
        "max_sequences": 3,
        "threads": 0,
    }
    paid = publish_from(source, target="onnxruntime", kv_cache_tokens=1024)
    assert (paid["engine"]["context_length"], paid["serving"]["max_sequences"]) == (256, 4)
    assert json.loads(json.dumps(paid["engine"])) == paid["engine"]


def test_what_a_target_cannot_do_is_said_with_what_it_can(publish_from: Builder, tmp_path: Path) -> None:
    """A precision that only another target has, int8 without text to fit and judge it by, slots without slots."""
    source = write_directory(tmp_path / "source")
    with pytest.raises(
        RecipeError, match=r"openvino \(int8 or int8-weight-only or fp32\), onnxruntime \(fp32 or fp16 or int8"
    ):
        publish_from(source, target="openvino", precision="fp16")
    with pytest.raises(RecipeError, match="--calibration FILE and --held-out FILE"):
        publish_from(source, target="onnxruntime", precision="int8")
    with pytest.raises(RecipeError, match="--held-out FILE to judge by"):
        publish_from(source, target="onnxruntime", precision="fp16", strict=True)
    with pytest.raises(RecipeError, match="--slots"):
        publish_from(source, slots=4)
