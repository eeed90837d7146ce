"""The manifest says nothing that is not so."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import resource
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from build_engine.emit_openvino import emit
from build_engine.pipeline import open_source

from .checkpoints import (
    BEGIN,
    CHAT_TEMPLATE,
    END,
    LLAMA3_ROPE,
    SPECIAL_TOKENS,
    Shape,
    tokenizer,
    weights,
    write_directory,
    write_gguf,
)
from .conftest import Builder
from .test_publishing import sha256, tree

DEEP = Shape(layers=24, hidden=128, inner=256)


def test_hashes_and_sizes_are_those_of_the_files(publish_from: Builder, tmp_path: Path, repository: Path) -> None:
    """Of every file of the version but the manifest, and of every file of the source that counts."""
    source = write_directory(tmp_path / "source", shards=2)
    (source / "README.md").write_text("does not count")
    manifest = publish_from(source)
    version = repository / "tiny/1"
    found = tree(version)
    del found["manifest.json"]
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == found
    sizes = {name: (version / name).stat().st_size for name in found}
    assert {name: entry["bytes"] for name, entry in manifest["files"].items()} == sizes
    assert manifest["total_bytes"] == sum(sizes.values())
    wanted = {file.name: sha256(file) for file in source.iterdir() if file.name != "README.md"}
    assert manifest["source"] == {"name": "source", "sha256": wanted}


def test_facts_are_those_of_the_model(publish_from: Builder, tmp_path: Path) -> None:
    """Shape, recipe, tools and time."""
    shape = Shape(rope=LLAMA3_ROPE, tied=True)
    manifest = publish_from(write_directory(tmp_path / "source", shape), precision="int8", threads=2)
    decoder = manifest["decoder"]
    assert (decoder["layers"], decoder["heads"], decoder["kv_heads"], decoder["head_dim"]) == (2, 4, 2, 32)
    assert decoder["tie_embeddings"] is True
    assert decoder["rope_scaling"]["original_context_length"] == LLAMA3_ROPE["original_max_position_embeddings"]
    assert (manifest["name"], manifest["target"], manifest["precision"]) == ("tiny", "openvino", "int8")
    assert manifest["architecture"] == "LlamaForCausalLM"
    assert manifest["serving"] == {"kv_cache_tokens": 16384, "step_tokens": 128, "max_sequences": 64, "threads": 2}
    for name in ("openvino", "numpy", "tokenizers", "gguf", "tritonclient"):
        assert manifest["toolchain"][name] == importlib.metadata.version(name)
    assert manifest["toolchain"]["python"] == platform.python_version()
    assert datetime.now(UTC) - datetime.fromisoformat(manifest["created"]) < timedelta(minutes=1)


def test_peak_memory_is_the_process_s_own(publish_from: Builder, tmp_path: Path) -> None:
    """As the kernel counts it; within a few pages of what `getrusage` says by another road."""
    found = publish_from(write_directory(tmp_path / "source"))["peak_memory_bytes"]
    assert found <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 * 1.02 + 2**21
    assert found > 20e6


@pytest.mark.parametrize("kind", ["directory", "gguf"])
def test_the_tokenizer_is_the_model_s(publish_from: Builder, tmp_path: Path, repository: Path, kind: str) -> None:
    """Same ids for the same text, same special tokens, same template, from either format."""
    from tokenizers import Tokenizer

    source = write_directory(tmp_path / "s") if kind == "directory" else write_gguf(tmp_path / "model.gguf")
    publish_from(source)
    version = repository / "tiny/1"
    published, ours = Tokenizer.from_file(str(version / "tokenizer/tokenizer.json")), tokenizer()
    for text in ("the thé 北京 <|user|> th", "", "\n\n  x", "<|begin|>the<|end|>"):
        assert published.encode(text).ids == ours.encode(text).ids
        assert published.decode(ours.encode(text).ids) == ours.decode(ours.encode(text).ids)
    facts = json.loads((version / "tokenizer/special_tokens.json").read_text())
    assert (facts["bos_token_id"], facts["eos_token_ids"]) == (BEGIN, [END])
    assert facts["special_tokens"] == list(SPECIAL_TOKENS)
    assert (version / "chat_template.jinja").read_text() == CHAT_TEMPLATE


def test_every_end_token_counts(publish_from: Builder, tmp_path: Path, repository: Path) -> None:
    """``generation_config.json`` may name several, and the tokenizer's own belongs to them."""
    source = write_directory(tmp_path / "source")
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    publish_from(source)
    facts = json.loads((repository / "tiny/1/tokenizer/special_tokens.json").read_text())
    assert facts["eos_token_ids"] == [7, 9, END]


@pytest.mark.parametrize("kind", ["F32", "BF16", "gguf", "gguf quantised"])
def test_a_source_keeps_no_tensor(tmp_path: Path, kind: str) -> None:
    """Reading a whole model one tensor after another takes the memory of a few tensors, not of the model."""
    if kind.startswith("gguf"):
        source = open_source(write_gguf(tmp_path / "model.gguf", DEEP, quantised=kind.endswith("quantised")))
    else:
        source = open_source(write_directory(tmp_path / "source", DEEP, dtype=kind))
    sizes = [values.nbytes for values in weights(DEEP).values()]
    tracemalloc.start()
    try:
        for name in source.shapes:
            assert source.finite(name).dtype == np.float32
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(sizes) > 40 * max(sizes)
    assert peak < 6 * max(sizes)
    assert kept < max(sizes)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-weight-only"])
def test_exporting_takes_the_largest_tensor_and_not_the_model(tmp_path: Path, precision: str) -> None:
    """As ONNX: the graph only remembers where a tensor lies."""
    from build_engine.proof import unproven

    source = open_source(write_directory(tmp_path / "source", DEEP))
    sizes = [values.nbytes for values in weights(DEEP).values()]
    tracemalloc.start()
    try:
        unproven(source.config, precision, "fp32", source.finite).emit(source.config, 16, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * max(sizes) < sum(sizes) / 6


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_emitting_keeps_only_the_graph_s_own_constants(tmp_path: Path, precision: str) -> None:
    """Python holds a few tensors at a time; what is emitted is held once, by OpenVINO."""
    source = open_source(write_directory(tmp_path / "source", DEEP))
    sizes = [values.nbytes for values in weights(DEEP).values()]
    tracemalloc.start()
    try:
        emit(source.config, source.finite, precision)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < sum(sizes) / 6
