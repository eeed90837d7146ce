"""A classifier's build: what is published, what it is judged by, and what is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from build_engine.classifier_pipeline import build_classifier
from build_engine.classifier_proof import open_session
from build_engine.classifier_recipe import ClassifierRecipe
from build_engine.errors import (
    AccuracyError,
    BuildError,
    CorruptSource,
    EngineBuildError,
    RecipeError,
    TextError,
    UnsupportedModel,
)
from build_engine.inspect import inspect

from .checkpoints import write_raw_safetensors
from .encoders import LABELS, weights, write_encoder, write_texts
from .test_corrupt_directories import parts
from .test_publishing import tree


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    """Makes recipes over a tiny classifier."""
    source = write_encoder(tmp_path / "source")

    def make(**fields: Any) -> ClassifierRecipe:
        asked = {"source": source, "name": "mood", "repository": tmp_path / "models/repository"}
        return ClassifierRecipe(**{**asked, "work_dir": tmp_path / "work", **fields})

    return make


def test_what_is_published(recipe: Any, tmp_path: Path) -> None:
    """Whole, as the manifest says; labels and batching in ``config.pbtxt``; a scores row that sums to one."""
    manifest = build_classifier(recipe(precision="fp32", preferred_batch_sizes=(4,), queue_delay_microseconds=250))
    model = tmp_path / "models/repository/mood"
    assert inspect(model / "1")["problems"] == []
    config = text_format.Parse((model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert json.loads(config.parameters["labels"].string_value) == list(LABELS)
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    assert (model / "1/labels.txt").read_text(encoding="utf-8").split() == list(LABELS)
    session = open_session(model / "1/engine")
    feed = {"input_ids": np.array([[2, 5, 6, 3]]), "mask": np.ones((1, 4), bool)}
    (scores,) = session.run(["scores"], feed)
    assert scores.shape == (1, 3)
    assert scores.sum() == pytest.approx(1)
    assert manifest["task"] == "text-classification"
    assert sorted(each.name for each in (model / "1").iterdir()) == sorted(
        ["config.pbtxt", "engine", "labels.txt", "manifest.json", "model.py", "tidegate_classifier", "tokenizer.json"]
    )


def test_the_same_inputs_are_found_again(recipe: Any) -> None:
    """And a change is a new version."""
    first, again = build_classifier(recipe()), build_classifier(recipe())
    assert first["created"] == again["created"]
    build_classifier(recipe(max_tokens=8))
    versions = recipe().repository / "mood"
    assert sorted(each.name for each in versions.iterdir()) == ["1", "2", "config.pbtxt"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-weight-only"])
def test_judged_by_the_user_s_texts(recipe: Any, tmp_path: Path, precision: str) -> None:
    """Agreement with fp32 is measured and recorded."""
    held_out = write_texts(tmp_path / "held.jsonl", 200, 1)
    manifest = build_classifier(recipe(precision=precision, held_out=held_out))
    accuracy = manifest["accuracy"]
    assert accuracy["passed"]
    assert accuracy["attempts"][-1]["label_agreement"] >= 0.99
    assert accuracy["held_out"]["texts"] == 200
    page = (tmp_path / "models/repository/mood/1/engine/report.html").read_text(encoding="utf-8")
    assert "passes its gate" in page
    assert f"{accuracy['attempts'][-1]['label_agreement']:.2%}" in page
    assert inspect(tmp_path / "models/repository/mood/1")["problems"] == []
    if precision != "fp32":
        assert accuracy["attempts"][0]["largest_score_difference"] > 0


def outlying() -> dict[str, Any]:
    """A model that int8 activations ruin: one channel inside is a thousand times the others, and nobody reads it."""
    found = weights()
    for layer in range(2):
        found[f"bert.encoder.layer.{layer}.intermediate.dense.bias"][0] = 5000
        found[f"bert.encoder.layer.{layer}.output.dense.weight"][:, 0] = 0
    return found


def test_falls_back_and_says_so(recipe: Any, tmp_path: Path) -> None:
    """int8 misses the gate, the next precision is published, all attempts are on record; strict refuses."""
    source = write_encoder(tmp_path / "outlier", outlying())
    held_out, calibration = write_texts(tmp_path / "h.jsonl", 300, 1), write_texts(tmp_path / "c.jsonl", 50, 2)
    texts = {"held_out": held_out, "calibration": calibration}
    manifest = build_classifier(recipe(source=source, precision="int8", **texts))
    attempts = manifest["accuracy"]["attempts"]
    assert (attempts[0]["precision"], attempts[0]["passed"]) == ("int8", False)
    assert manifest["precision"] == attempts[-1]["precision"] != "int8"
    with pytest.raises(AccuracyError, match=r"int8: \d+\.\d\d% of the labels agree"):
        build_classifier(recipe(source=source, precision="int8", strict=True, name="other", **texts))
    assert not (recipe().repository / "other").exists()


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"architectures": ["RobertaForSequenceClassification"]}, UnsupportedModel, "RobertaForSequenceClassification"),
        ({"position_embedding_type": "relative_key"}, UnsupportedModel, "position_embedding_type relative_key"),
        ({"hidden_act": "relu"}, UnsupportedModel, "hidden_act relu; supported: gelu"),
        ({"problem_type": "multi_label_classification"}, UnsupportedModel, "problem_type"),
        ({"id2label": {"0": "only"}}, UnsupportedModel, "two different labels"),
        ({"id2label": {"1": "a", "2": "b"}}, CorruptSource, "id2label must name"),
        ({"hidden_size": 30}, CorruptSource, "hidden_size must be a multiple"),
        ({"num_hidden_layers": 3}, CorruptSource, "encoder.layer.2.attention.self.query.weight is missing"),
        ({"intermediate_size": 65}, CorruptSource, "the configuration says [65, 32]"),
        ({"vocab_size": 0}, CorruptSource, "vocab_size must be a positive integer"),
        ({"vocab_size": 12}, CorruptSource, "word_embeddings.weight has shape"),
    ],
)
def test_a_source_that_does_not_hold(
    recipe: Any, tmp_path: Path, changes: dict[str, Any], kind: type[BuildError], says: str
) -> None:
    """Refused with the field or the tensor; nothing is published."""
    with pytest.raises(kind) as refused:
        build_classifier(recipe(source=write_encoder(tmp_path / "bad", **changes)))
    assert says in str(refused.value)
    assert not (recipe().repository / "mood").exists()


def test_a_layer_too_many_is_not_left_out(recipe: Any, tmp_path: Path) -> None:
    """It would be another model; a buffer of another type, which old checkpoints carry, is nobody's weight."""
    with pytest.raises(UnsupportedModel, match=r"encoder\.layer\.1\.\S+ has no place .* with 1 layers"):
        build_classifier(recipe(source=write_encoder(tmp_path / "more", num_hidden_layers=1)))
    source = write_encoder(tmp_path / "old")
    header, data = parts(source / "model.safetensors")
    header["bert.embeddings.position_ids"] = {
        "dtype": "I64",
        "shape": [1, 2],
        "data_offsets": [len(data), len(data) + 16],
    }
    write_raw_safetensors(source / "model.safetensors", header, data + bytes(16))
    assert build_classifier(recipe(source=source, precision="fp32"))["precision"] == "fp32"


@pytest.mark.parametrize(
    ("damage", "kind", "says"),
    [
        ("truncated", CorruptSource, "is truncated: tensor"),
        ("missing", CorruptSource, "tensor classifier.weight is missing"),
        ("dtype", UnsupportedModel, "tensor classifier.weight is I64; F32, F16 and BF16 can be read"),
        ("header", CorruptSource, "no readable safetensors header"),
    ],
)
def test_damaged_weights_leave_the_version_that_is_served(
    recipe: Any, tmp_path: Path, damage: str, kind: type[BuildError], says: str
) -> None:
    """File and tensor are named, nothing is published, the earlier version is as it was."""
    build_classifier(recipe())
    before = tree(tmp_path / "models")
    source = write_encoder(tmp_path / "damaged")
    file = source / "model.safetensors"
    header, data = parts(file)
    if damage == "missing":
        del header["classifier.weight"]
    if damage == "dtype":
        header["classifier.weight"]["dtype"] = "I64"
    write_raw_safetensors(file, header, data[:-8] if damage == "truncated" else data)
    if damage == "header":
        content = file.read_bytes()
        file.write_bytes(content[:8] + b"{" * 40 + content[48:])
    with pytest.raises(kind) as refused:
        build_classifier(recipe(source=source))
    assert says in str(refused.value)
    assert str(source) in str(refused.value)
    assert tree(tmp_path / "models") == before


@pytest.mark.parametrize("use", ["calibration", "held_out"])
@pytest.mark.parametrize(
    ("content", "says"), [("", "is empty"), ("plain words", "line 1: not JSON"), ('{"label": 1}', "neither text")]
)
def test_texts_that_are_none(recipe: Any, tmp_path: Path, use: str, content: str, says: str) -> None:
    """File, line and field are named; the earlier version is as it was."""
    build_classifier(recipe())
    before = tree(tmp_path / "models")
    texts = {
        each: write_texts(tmp_path / f"{each}.jsonl", 150, seed)
        for seed, each in enumerate(("calibration", "held_out"))
    }
    texts[use].write_text(content)
    with pytest.raises(TextError, match=says) as refused:
        build_classifier(recipe(precision="int8", **texts))
    assert f"{use}.jsonl" in str(refused.value)
    assert tree(tmp_path / "models") == before


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_tensorrt_engine_is_really_built(recipe: Any, tmp_path: Path, precision: str) -> None:
    """Without a GPU, from the graph that was judged: counted after parsing, one profile for every batch and length, and
    everything that a GPU host needs beside it. Here, without a driver, it says why it cannot run."""
    texts = {
        use: write_texts(tmp_path / f"{use}.jsonl", 150, seed) for seed, use in enumerate(("calibration", "held_out"))
    }
    asked = {"target": "tensorrt-rtx", "compute_capabilities": ("8.9",), "max_tokens": 20, "max_batch_size": 16}
    manifest = build_classifier(recipe(precision=precision, **asked, **(texts if precision == "int8" else {})))
    engine, version = manifest["engine"], tmp_path / "models/repository/mood/1"
    assert engine["profiles"] == [{"name": "scores", "batch": [1, 16, 16], "tokens": [1, 20, 20]}]
    assert {port["name"]: port["dtype"] for port in engine["io"]} == {
        "input_ids": "int64",
        "mask": "bool",
        "scores": "float",
    }
    assert engine["gpu_verified"] is False
    assert engine["builder"]["compute_capabilities"] == ["8.9"]
    assert set(engine["onnx"]) == {"model.onnx", "model.onnx.data"}
    assert (version / "engine/engine.plan").read_bytes()[:4] == b"vtrt"
    assert manifest["accuracy"] is None or manifest["accuracy"]["passed"]
    assert inspect(version)["problems"] == []
    opened = (
        f"from {{}}.runner import open_runner; open_runner(__import__('pathlib').Path({str(version / 'engine')!r}), 1)"
    )
    run = [sys.executable, "-c", opened.format("tidegate_classifier.classifier_backend")]
    ended = subprocess.run(run, cwd=version, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 or "EngineError" in ended.stderr.splitlines()[-1]


def test_a_plan_that_lost_something_is_not_built(recipe: Any, tmp_path: Path) -> None:
    """The parsed network is held to the graph's attentions, Q/DQ and names."""
    from build_engine import tensorrt_build
    from build_engine.tensorrt_api import Settings

    build_classifier(recipe(precision="fp16"))
    graph = tmp_path / "models/repository/mood/1/engine"
    settings = Settings("tensorrt-rtx", ("8.9",), None, False, "none", tmp_path)
    ports = frozenset(("input_ids", "mask", "scores"))
    for expected, says in (
        (tensorrt_build.Expected({"ATTENTION_INPUT": 3}, ports, True), "parsed 2 layers of type ATTENTION_INPUT"),
        (tensorrt_build.Expected({"QUANTIZE": 4}, ports, True), "parsed 0 layers of type QUANTIZE"),
        (tensorrt_build.Expected({}, ports | {"types"}, True), r"\['types'\]"),
    ):
        with pytest.raises(EngineBuildError, match=says):
            tensorrt_build.compile_plan(graph, settings, expected, [], tmp_path)


def test_a_weight_that_is_no_number(recipe: Any, tmp_path: Path) -> None:
    """Named."""
    broken = weights()
    broken["classifier.bias"][0] = np.nan
    with pytest.raises(CorruptSource, match=r"tensor classifier\.bias holds values that are not finite"):
        build_classifier(recipe(source=write_encoder(tmp_path / "bad", broken)))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "../x"}, "--name"),
        ({"target": "openvino"}, "--target openvino cannot be built; what can: onnxruntime, tensorrt"),
        ({"target": "tensorrt-rtx", "compute_capabilities": ("9.0",)}, "no kernels for Hopper"),
        ({"workspace_mib": 64}, "--workspace-mib is TensorRT's"),
        ({"precision": "int4"}, "--precision must be one of"),
        ({"precision": "int8"}, "give --calibration FILE and --held-out FILE"),
        ({"strict": True}, "need --held-out"),
        ({"preferred_batch_sizes": (64,)}, "--preferred-batch-size must be from 1 to"),
        ({"max_tokens": 1}, "--max-tokens must be at least 4"),
    ],
)
def test_a_request_that_makes_no_sense(recipe: Any, fields: dict[str, Any], says: str) -> None:
    """Names the argument."""
    with pytest.raises(RecipeError) as refused:
        build_classifier(recipe(**fields))
    assert says in str(refused.value)


def test_too_few_texts_say_nothing(recipe: Any, tmp_path: Path) -> None:
    """And the same texts may not fit and judge."""
    few, many = write_texts(tmp_path / "few.jsonl", 20, 1), write_texts(tmp_path / "many.jsonl", 150, 1)
    with pytest.raises(TextError, match="has 20 texts; at least 100"):
        build_classifier(recipe(held_out=few))
    with pytest.raises(TextError, match="stands in --calibration too"):
        build_classifier(recipe(precision="int8", held_out=many, calibration=many))


def test_the_command(tmp_path: Path) -> None:
    """``--task text-classification``; the last line is the manifest."""
    source = write_encoder(tmp_path / "source")
    command = [sys.executable, "-m", "build_engine", "build", "--task", "text-classification", "--source", str(source)]
    command += ["--name", "mood", "--repository", str(tmp_path / "r/repository"), "--work-dir", str(tmp_path / "w")]
    done = subprocess.run(
        [*command, "--precision", "fp16", "--preferred-batch-size", "4"], capture_output=True, text=True, check=True
    )
    manifest = json.loads(done.stdout.splitlines()[-1])
    assert (manifest["precision"], manifest["serving"]["preferred_batch_sizes"]) == ("fp16", [4])
