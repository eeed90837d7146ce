"""The emitted graph computes the decoder that the checkpoint describes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from build_engine.backend.engine import Row
from build_engine.backend.engine_openvino import GraphFacts, OpenVinoEngine, open_engine, read_graph

from . import reference
from .checkpoints import LLAMA3_ROPE, Float32, Shape, rounded, weights, write_directory, write_gguf, write_safetensors
from .conftest import Builder

LLAMA = Shape()
TIED = Shape(tied=True, head_dim=16)
QWEN2 = Shape(architecture="Qwen2ForCausalLM", theta=1e6)
LLAMA3 = Shape(rope=LLAMA3_ROPE, theta=5e5)
RNG = np.random.default_rng(7)
PROMPTS = [RNG.integers(0, LLAMA.vocab, size) for size in (70, 5)]
FOLLOWS = [RNG.integers(0, LLAMA.vocab, 6) for _ in PROMPTS]

Write = Callable[[Path], Path]


def opened(version: Path) -> OpenVinoEngine:
    """The engine as the backend opens it."""
    return open_engine(version, threads=1, cache_tokens=512, step_tokens=256, max_sequences=4)


def found(version: Path) -> list[Float32]:
    """Logits behind both prompts and behind each of the tokens that follow: two ragged sequences in one batch."""
    engine = opened(version)
    ids = [engine.open(128) for _ in PROMPTS]
    steps = [PROMPTS, *([follow[k : k + 1] for follow in FOLLOWS] for k in range(len(FOLLOWS[0])))]
    lines: list[list[Float32]] = [[] for _ in ids]
    for step in steps:
        rows = [Row(i, tokens, sample=True) for i, tokens in zip(ids, step, strict=True) if i is not None]
        for line, row in zip(lines, engine.step(rows), strict=True):
            line.append(row.copy())
    return [np.array(line) for line in lines]


def wanted(shape: Shape, tensors: dict[str, Float32]) -> list[Float32]:
    """The same by definition."""
    pairs = zip(PROMPTS, FOLLOWS, strict=True)
    return [
        reference.logits(shape, tensors, [*prompt, *follow])[len(prompt) - 1 :].astype(np.float32)
        for prompt, follow in pairs
    ]


def agree(one: list[Float32], other: list[Float32], tolerance: float) -> None:
    """Every logit of both sequences, prefill and decode."""
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [LLAMA, TIED, QWEN2, LLAMA3], ids=["llama", "tied", "qwen2", "llama3"])
def test_fp32_is_the_decoder_by_definition(
    publish_from: Builder, repository: Path, tmp_path: Path, shape: Shape
) -> None:
    """Prefill and decode of two ragged sequences, from a Hugging Face directory."""
    publish_from(write_directory(tmp_path / "source", shape))
    agree(found(repository / "tiny/1"), wanted(shape, weights(shape)), 1e-4)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_is_widened_exactly(publish_from: Builder, repository: Path, tmp_path: Path, dtype: str) -> None:
    """float16 and bfloat16 lose nothing on the way, and shards are one model."""
    publish_from(write_directory(tmp_path / "source", LLAMA, dtype=dtype, shards=3))
    stored = {name: rounded(values, dtype) for name, values in weights(LLAMA).items()}
    agree(found(repository / "tiny/1"), wanted(LLAMA, stored), 1e-4)


def test_transformers_5_writes_its_rope_elsewhere(publish_from: Builder, repository: Path, tmp_path: Path) -> None:
    """``rope_parameters`` holds base and scaling; neither ``rope_theta`` nor ``rope_scaling`` is there."""
    parameters = {**LLAMA3_ROPE, "rope_theta": LLAMA3.theta}
    changes = {"rope_theta": None, "rope_scaling": None, "rope_parameters": parameters}
    publish_from(write_directory(tmp_path / "source", LLAMA3, **changes))
    agree(found(repository / "tiny/1"), wanted(LLAMA3, weights(LLAMA3)), 1e-4)


@pytest.mark.parametrize("shape", [LLAMA, TIED, QWEN2], ids=["llama", "tied", "qwen2"])
def test_a_gguf_file_is_the_same_model(publish_from: Builder, repository: Path, tmp_path: Path, shape: Shape) -> None:
    """llama.cpp's order of q and k rows is undone; Qwen2's is left alone."""
    publish_from(write_gguf(tmp_path / "model.gguf", shape))
    agree(found(repository / "tiny/1"), wanted(shape, weights(shape)), 1e-4)


def test_a_quantised_gguf_file_is_what_its_blocks_say(publish_from: Builder, repository: Path, tmp_path: Path) -> None:
    """Q8_0: 32 values share one float16 scale, which is the block's largest value divided by 127."""
    publish_from(write_gguf(tmp_path / "model.gguf", LLAMA, quantised=True))
    agree(found(repository / "tiny/1"), wanted(LLAMA, {k: _q8_0(v) for k, v in weights(LLAMA).items()}), 1e-4)


def _q8_0(values: Float32) -> Float32:
    if values.ndim == 1:
        return values
    blocks = values.reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    whole = np.round(blocks / scale)
    return (whole * scale.astype(np.float16).astype(np.float32)).reshape(values.shape)


@pytest.mark.parametrize("shape", [LLAMA, TIED, QWEN2], ids=["llama", "tied", "qwen2"])
def test_int8_is_close(publish_from: Builder, repository: Path, tmp_path: Path, shape: Shape) -> None:
    """Weights, activations and cache in eight bits move the logits by a few percent of their spread, not more."""
    publish_from(write_directory(tmp_path / "source", shape), precision="int8")
    for a, b in zip(found(repository / "tiny/1"), wanted(shape, weights(shape)), strict=True):
        assert np.sqrt(((a - b) ** 2).mean()) < 0.05 * b.std()


def _int8_constants(version: Path) -> dict[tuple[int, ...], list[tuple[np.ndarray, np.ndarray]]]:
    """Every int8 constant of the published graph with the scale it is multiplied by, by its shape."""
    facts = GraphFacts.read(version / "engine/engine.json")
    graph = read_graph(ov.Core(), version / "engine/openvino.xml", facts)
    pairs: dict[tuple[int, ...], list[tuple[np.ndarray, np.ndarray]]] = {}
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Multiply" or node.input_value(0).get_node().get_type_name() != "Convert":
            continue
        values = node.input_value(0).get_node().input_value(0).get_node()
        if values.get_type_name() == "Constant" and values.get_element_type() == ov.Type.i8:
            scale = node.input_value(1).get_node()
            pairs.setdefault(tuple(values.get_output_shape(0)), []).append((values.data.copy(), scale.data.copy()))
    return pairs


def test_int8_weights_are_rounded_to_the_nearest(publish_from: Builder, repository: Path, tmp_path: Path) -> None:
    """Groups of 64 inputs, symmetric: the largest weight of a group is 127 steps, every other the nearest step. Where
    64 does not divide the inputs, a whole row is one group. A group of zeros stays zero."""
    shape = Shape(layers=1)
    source = write_directory(tmp_path / "source", shape)
    publish_from(source, precision="int8")
    pairs = _int8_constants(repository / "tiny/1")
    tensors = weights(shape)
    base = "model.layers.0."
    down = tensors[f"{base}mlp.down_proj.weight"].reshape(64, 1, 96)
    output = tensors[f"{base}self_attn.o_proj.weight"].reshape(64, 2, 64)
    joined = np.concatenate([tensors[f"{base}self_attn.{kind}_proj.weight"] for kind in "qkv"]).reshape(-1, 1, 64)
    for weight in (down, output, joined):
        ((values, scale),) = pairs[weight.shape]
        step = np.abs(weight.astype(np.float64)).max(axis=2, keepdims=True) / 127
        np.testing.assert_allclose(scale, step, rtol=1e-6)
        assert np.abs(values).max(axis=2).min() == np.abs(values).max() == 127
        assert np.abs(values * scale.astype(np.float64) - weight).max() <= (step / 2).max() * (1 + 1e-5)
        assert (np.abs(values * scale.astype(np.float64) - weight) <= step / 2 * (1 + 1e-5)).all()


def test_a_row_of_zeros_stays_zero(publish_from: Builder, repository: Path, tmp_path: Path) -> None:
    """An unused token's row has no largest weight; it must not become a division by zero."""
    source = write_directory(tmp_path / "source")
    tensors = weights(Shape())
    tensors["lm_head.weight"][5] = 0
    write_safetensors(source / "model.safetensors", tensors)
    publish_from(source, precision="int8")
    for line in found(repository / "tiny/1"):
        assert np.isfinite(line).all()
        assert (line[:, 5] == 0).all()
