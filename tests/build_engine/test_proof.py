"""Builds that are proven before they are published: from a tiny checkpoint and two files of text to a served graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from build_engine import calibrate
from build_engine.backend.engine import Row
from build_engine.backend.engines import open_engine
from build_engine.calibrate import Smoothing
from build_engine.emit_onnx_int8 import Int8Plan
from build_engine.errors import AccuracyError, EngineBuildError, RecipeError, TextError, UnsupportedModel
from build_engine.inspect import inspect
from build_engine.pipeline import open_source
from build_engine.precision import ladder
from build_engine.proof import Variant
from build_engine.smooth import sites, smoothed
from build_engine.verify import GATES, Gate, log_softmax

from .checkpoints import Shape, weights, write_directory, write_safetensors, write_text
from .conftest import Builder
from .test_publishing import parameters

RANDOM = np.random.default_rng(5)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model one of whose activations has an outlier channel, as real ones do."""
    folder = write_directory(tmp_path_factory.mktemp("proof") / "source", Shape())
    tensors = weights(Shape())
    tensors["model.layers.1.mlp.up_proj.weight"][7] *= 60
    tensors["model.layers.1.mlp.down_proj.weight"][:, 7] /= 60
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What int8 is fitted to and what it is judged by."""
    folder = tmp_path_factory.mktemp("texts")
    return {name: write_text(folder / f"{name}.jsonl") for name in ("calibration", "held_out")}


def kinds(version: Path) -> dict[str, int]:
    """How many nodes of each kind the published graph has."""
    graph = onnx.load(version / "engine" / "model.onnx", load_external_data=False).graph
    return {kind: sum(node.op_type == kind for node in graph.node) for kind in {node.op_type for node in graph.node}}


def test_an_int8_build_is_proven_recorded_and_served(
    source: Path, texts: dict[str, Path], repository: Path, publish_from: Builder
) -> None:
    """The graph carries the Q/DQ that the record speaks of, the record is in the manifest, and the engine answers."""
    manifest = publish_from(source, target="onnxruntime", precision="int8", context_length=64, slots=2, **texts)
    version = repository / "tiny/1"
    accuracy = json.loads((version / "engine/accuracy.json").read_text())
    judged = accuracy["attempts"][-1]
    assert (judged["text"], judged["failures"]) == ("held-out", [])
    assert manifest["precision"] == accuracy["precision"] == judged["precision"]
    said = parameters(repository / "tiny")
    assert (said["precision"], said["accuracy_gate"]) == (judged["precision"], "passed")
    assert manifest["accuracy"]["agreement"] == judged["agreement"]
    assert manifest["accuracy"]["held_out"]["sha256"] == manifest["source"]["sha256"]["held-out/held_out.jsonl"]
    assert judged["agreement"]["perplexity_ratio"] <= GATES["int8"].perplexity_ratio
    assert inspect(version)["problems"] == []
    page = (version / "engine/report.html").read_text(encoding="utf-8")
    assert "passes its gate" in page
    nodes = kinds(version)
    assert accuracy["precision"] == "int8"
    quantised = 14 - len(accuracy["kept"])
    assert 0 < nodes["QuantizeLinear"] <= quantised
    assert nodes["DequantizeLinear"] == quantised + nodes["QuantizeLinear"]
    engine = open_engine(version, threads=1, cache_tokens=128, step_tokens=64, max_sequences=2)
    sequence = engine.open(16)
    assert sequence is not None
    assert np.isfinite(engine.step([Row(sequence, np.arange(5), sample=True)])).all()


def test_the_same_again_is_found_and_other_text_is_not(
    source: Path, texts: dict[str, Path], tmp_path: Path, publish_from: Builder
) -> None:
    """Texts are part of what a build is found by: by content, wherever they lie."""
    asked: dict[str, Any] = {"target": "onnxruntime", "precision": "int8-weight-only", "context_length": 64}
    first = publish_from(source, **asked, held_out=texts["held_out"])
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "held_out.jsonl").write_bytes(texts["held_out"].read_bytes())
    assert publish_from(source, **asked, held_out=moved / "held_out.jsonl") == first
    other = publish_from(source, **asked, held_out=write_text(tmp_path / "held_out.jsonl"))
    assert other["input_hash"] != first["input_hash"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_other_precisions_are_proven_too(
    source: Path, texts: dict[str, Path], publish_from: Builder, precision: str
) -> None:
    """With text they are judged by it; without, the manifest says that they were not."""
    asked: dict[str, Any] = {"target": "onnxruntime", "precision": precision, "context_length": 64, "slots": 1}
    proven = publish_from(source, **asked, held_out=texts["held_out"])
    assert proven["accuracy"]["passed"]
    assert proven["accuracy"]["agreement"]["top1"] >= GATES[precision].top1
    assert publish_from(source, **asked)["accuracy"] is None


@pytest.mark.parametrize("precision", ["int8", "int8-weight-only", "fp32"])
def test_openvino_is_proven_too(
    source: Path, texts: dict[str, Path], repository: Path, publish_from: Builder, precision: str
) -> None:
    """Through the paged engine that will serve it; the record lies beside it, and what is not proven says so."""
    proven = publish_from(source, precision=precision, held_out=texts["held_out"])
    version = repository / "tiny/1"
    accuracy = json.loads((version / "engine/accuracy.json").read_text())
    assert accuracy["asked"] == precision
    assert proven["accuracy"]["agreement"] == accuracy["attempts"][-1]["agreement"]
    assert proven["accuracy"]["agreement"]["top1"] >= GATES[proven["precision"]].top1
    assert json.loads((version / "engine/engine.json").read_text())["precision"] == proven["precision"]
    assert "passes its gate" in (version / "engine/report.html").read_text(encoding="utf-8")
    assert inspect(version)["problems"] == []
    assert publish_from(source, precision=precision)["accuracy"] is None


def overflowing(folder: Path, times: float = 3000) -> Path:
    """A model that is sound in fp32 and whose every logit is no number in fp16, though fp16 holds all its weights; with
    a larger factor it is not sound in fp32 either."""
    source = write_directory(folder / "overflowing", Shape())
    tensors = weights(Shape())
    for kind in ("gate", "up"):
        tensors[f"model.layers.0.mlp.{kind}_proj.weight"] *= np.float32(times)
    write_safetensors(source / "model.safetensors", tensors)
    return source


def test_an_engine_that_says_no_numbers_is_not_published(
    texts: dict[str, Path], tmp_path: Path, repository: Path, publish_from: Builder
) -> None:
    """Also without text to judge it by, and as the graph of a TensorRT plan; with text it falls back or is refused."""
    source = overflowing(tmp_path)
    asked: dict[str, Any] = {"target": "onnxruntime", "context_length": 64, "slots": 2}
    with pytest.raises(EngineBuildError, match=r"does not work, .* infinite or not a number"):
        publish_from(source, precision="fp16", **asked)
    with pytest.raises(EngineBuildError, match=r"does not work, .* infinite or not a number"):
        publish_from(source, precision="int8-weight-only", **asked | {"target": "tensorrt-rtx"})
    with pytest.raises(AccuracyError, match=r"fp16: .* infinite or not a number"):
        publish_from(source, precision="fp16", held_out=texts["held_out"], **asked)
    assert not (repository / "tiny").exists()
    assert not list((tmp_path / "work").glob("*.part"))
    assert publish_from(source, precision="fp32", **asked)["precision"] == "fp32"


def test_a_model_that_fails_in_fp32_ends_the_proof(
    texts: dict[str, Path], tmp_path: Path, publish_from: Builder
) -> None:
    """There is nothing to compare with, so nothing is tried."""
    source = overflowing(tmp_path, 1e25)
    for target in ("onnxruntime", "openvino"):
        with pytest.raises(AccuracyError, match="in the reference's precision already"):
            publish_from(source, target=target, precision="int8-weight-only", held_out=texts["held_out"])
        with pytest.raises(EngineBuildError, match="infinite or not a number"):
            publish_from(source, target=target, precision="fp32")


def test_openvino_s_int8_falls_back_and_says_so(
    source: Path, texts: dict[str, Path], publish_from: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To weights alone, then to fp32; every attempt is on record. Strict refuses."""
    monkeypatch.setitem(GATES, "int8", Gate(perplexity_ratio=0.5))
    monkeypatch.setitem(GATES, "int8-weight-only", Gate(kl=1e-12))
    manifest = publish_from(source, precision="int8", held_out=texts["held_out"])
    assert (manifest["precision"], manifest["accuracy"]["asked"]) == ("fp32", "int8")
    with pytest.raises(AccuracyError, match=r"int8: perplexity .* at most 0\.5x"):
        publish_from(source, name="strict", precision="int8", held_out=texts["held_out"], strict=True)


def test_a_gate_that_nothing_passes_publishes_nothing(
    source: Path, texts: dict[str, Path], repository: Path, publish_from: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version that was served before still is."""
    publish_from(source)
    for precision in ("int8", "int8-weight-only", "fp16"):
        monkeypatch.setitem(GATES, precision, Gate(perplexity_ratio=0.5, top1=1.0, kl=0.01))
    with pytest.raises(AccuracyError, match=r"fp16: perplexity .* at most 0\.5x"):
        publish_from(source, target="onnxruntime", precision="int8", context_length=64, **texts)
    assert [path.name for path in (repository / "tiny").iterdir() if path.is_dir()] == ["1"]
    assert not list(repository.parent.glob(".tidegate-staging-*"))


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"precision": "int8"}, RecipeError, "--calibration FILE and --held-out FILE"),
        ({"precision": "fp16", "strict": True}, RecipeError, "--held-out"),
        ({"target": "openvino", "precision": "int8", "calibration": Path("x")}, RecipeError, "made from ONNX"),
        ({"target": "openvino", "precision": "int8", "strict": True}, RecipeError, "--held-out FILE to judge by"),
        ({"precision": "fp16", "held_out": Path("/nowhere.jsonl")}, TextError, "--held-out /nowhere.jsonl is no file"),
    ],
)
def test_what_cannot_be_proven_is_refused(
    source: Path, publish_from: Builder, fields: dict[str, Any], kind: type[Exception], words: str
) -> None:
    """By the flag or the file that is missing."""
    with pytest.raises(kind, match=words):
        publish_from(source, **{"target": "onnxruntime", **fields})


def test_text_that_fitted_it_cannot_judge_it(source: Path, texts: dict[str, Path], publish_from: Builder) -> None:
    """The same file twice."""
    same = {"calibration": texts["held_out"], "held_out": texts["held_out"]}
    with pytest.raises(TextError, match="text 1 stands in --calibration too"):
        publish_from(source, target="onnxruntime", precision="int8", context_length=64, **same)


def test_the_outlier_is_found_where_it_is_and_its_cost_predicts_the_plan(source: Path, tmp_path: Path) -> None:
    """The activation with the outlier channel is smoothed most, and the ladder gives back the costliest first."""
    opened = open_source(source)
    config, windows = opened.config, RANDOM.integers(0, 250, (4, 48))
    observed = calibrate.observe(config, opened.finite, windows, tmp_path)
    assert observed["model.layers.1.mlp_output"].largest.argmax() == 7
    smoothing = calibrate.smooth(config, opened.finite, observed)
    assert smoothing.scales["model.layers.1.mlp_output"].argmax() == 7
    read = smoothed(config, opened.finite, smoothing.scales)
    cost = calibrate.sensitivities(config, read, smoothing.inputs, windows, tmp_path)
    assert cost.keys() == {site.name for site in sites(config)}
    assert all(each >= 0 for each in cost.values())
    rungs = list(ladder(config, smoothing, cost, most_kl=sum(cost.values())))
    assert [len(rung.kept) for rung in rungs] == sorted(len(rung.kept) for rung in rungs)
    costliest = max(cost, key=lambda name: cost[name])
    readers = next(site.readers for site in sites(config) if site.name == costliest)
    assert set(readers) <= set(rungs[0].kept)
    assert not list(tmp_path.iterdir())


def test_int8_of_which_nothing_would_be_left_is_not_tried(source: Path) -> None:
    """An int8 engine has at least one int8 activation; without one it is weight-only and says so."""
    config = open_source(source).config
    every = [site.name for site in sites(config)]
    smoothing = Smoothing({}, {}, {reader: 1.0 for site in sites(config) for reader in site.readers}, {})
    rungs = list(ladder(config, smoothing, dict.fromkeys(every, 0.004), most_kl=0.01))
    assert [len(rung.plan.activations) > 0 for rung in rungs] == [True]
    assert list(ladder(config, smoothing, dict.fromkeys(every, 1.0), most_kl=0.01)) == []


def test_a_scale_that_is_no_number_is_refused_by_its_tensor(source: Path, tmp_path: Path) -> None:
    """In fp16, of weights that int8 cannot scale there and of an activation that overflowed."""
    config, read = open_source(source).config, open_source(source).finite
    name = "model.layers.1.mlp.up_proj.weight"
    for plan, factor in ((Int8Plan(weight_only=frozenset([name])), 1e9), (Int8Plan({name: float("inf")}), 1.0)):
        with pytest.raises(UnsupportedModel, match=r"model\.layers\.1\.mlp\.up_proj\.weight.* is no finite number"):
            Variant("", "int8", "fp16", plan, lambda each, f=factor: read(each) * (f if each == name else 1)).emit(
                config, 32, tmp_path
            )


def logits(variant: Variant, source: Path, folder: Path, tokens: Any) -> Any:
    """What the variant says behind ``tokens``, on ONNX Runtime."""
    import onnxruntime

    folder.mkdir()
    config = open_source(source).config
    variant.emit(config, 32, folder)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    cache = np.zeros((1, config.kv_heads, 32, config.head_dim), np.float32)
    feed = {each.name: cache for each in session.get_inputs() if each.name.startswith("past_")}
    feed |= {"input_ids": tokens[None], "start_pos": np.zeros(1, np.int64), "last_idx": np.array([len(tokens) - 1])}
    return session.run(["logits"], feed)[0]


def test_smoothed_tensors_say_the_same_in_fp32(source: Path, tmp_path: Path) -> None:
    """Through the real graph, rotation, norms and grouped heads included."""
    opened = open_source(source)
    observed = calibrate.observe(opened.config, opened.finite, RANDOM.integers(0, 250, (2, 32)), tmp_path)
    read = smoothed(opened.config, opened.finite, calibrate.smooth(opened.config, opened.finite, observed).scales)
    tokens = np.arange(20, dtype=np.int64)
    plain, folded = (
        logits(Variant("", "fp32", "fp32", Int8Plan(), each), source, tmp_path / name, tokens)
        for name, each in (("plain", opened.finite), ("folded", read))
    )
    np.testing.assert_allclose(log_softmax(folded), log_softmax(plain), atol=1e-4)
