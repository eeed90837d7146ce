"""TensorRT-RTX engines are really built, without a GPU, and only from a graph that TensorRT has understood whole."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from build_engine.backend.cuda import Cuda
from build_engine.backend.engine import EngineError
from build_engine.emit_onnx import MODEL, emit
from build_engine.errors import AccuracyError, EngineBuildError, RecipeError
from build_engine.manifest import input_hash
from build_engine.pipeline import open_source
from build_engine.recipe import Recipe
from build_engine.tensorrt_api import Settings, configure, host_of, keep_timings, new_log, refuse_log, timing_cache_file
from build_engine.tensorrt_build import build_plan

from .checkpoints import Shape, weights, write_directory, write_safetensors, write_text
from .conftest import Builder

SHAPE = Shape(tied=True, head_dim=16)
QWEN2 = Shape(architecture="Qwen2ForCausalLM", theta=1e6)
FACTS = {
    "layers": 2,
    "kv_cache_precision": "fp16",
    "slots": 4,
    "prefill_tokens": 64,
    "prefill_batch": 2,
    "quantize_nodes": 0,
    "dequantize_nodes": 0,
}


def settings(folder: Path) -> Settings:
    """For one GPU, everything else as it comes."""
    return Settings("tensorrt-rtx", ("8.9",), None, False, "none", folder)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A folder with the fp16 graph of a tiny model."""
    source = open_source(write_directory(tmp_path / "source", SHAPE))
    folder = tmp_path / "graph"
    folder.mkdir()
    emit(source.config, source.read, "fp16", 128, folder)
    return folder


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("shape", [SHAPE, QWEN2], ids=["tied", "qwen2"])
def test_an_engine_is_built_and_says_what_it_is_for(
    publish_from: Builder, repository: Path, tmp_path: Path, shape: Shape, precision: str
) -> None:
    """The manifest has inputs and outputs, profiles, capabilities and version, and that no GPU has run it."""
    source = write_directory(tmp_path / "source", shape)
    asked: dict[str, Any] = {"compute_capabilities": ("8.0", "12.0"), "workspace_mib": 256}
    manifest = publish_from(
        source, target="tensorrt-rtx", precision=precision, context_length=128, slots=4, step_tokens=32, **asked
    )
    engine = manifest["engine"]
    assert engine["gpu_verified"] is False
    assert engine["builder"]["version"] == manifest["toolchain"]["tensorrt-rtx-cu12-libs"]
    assert engine["builder"]["compute_capabilities"] == ["8.0", "12.0"]
    assert engine["builder"]["workspace_mib"] == 256
    assert engine["onnx"]["model.onnx.data"] > engine["onnx"]["model.onnx"] > 1000
    assert engine["profiles"] == [
        {"name": "prefill", "batch": [1, 1, 4], "tokens": [1, 64, 64]},
        {"name": "decode", "batch": [1, 2, 4], "tokens": [1, 1, 1]},
    ]
    ports = {port["name"]: port for port in engine["io"]}
    assert ports["logits"]["dtype"] == "float"
    assert ports["past_key_1"]["shape"] == [-1, 2, 128, shape.head_dim]
    assert ports["present_value_0"]["dtype"] == {"fp16": "half", "fp32": "float"}[precision]
    version = repository / "tiny/1"
    assert json.loads((version / "engine/engine.json").read_text()) == engine
    assert (version / "engine/engine.plan").read_bytes()[:4] == b"vtrt"
    assert not list((version / "engine").glob("*.onnx*"))


def test_a_plan_is_only_verified_where_it_has_run(graph: Path, tmp_path: Path) -> None:
    """Against its own graph on the CPU: one that says something else is refused, one that cannot run is not claimed."""
    from build_engine.gpu_check import verified

    facts = {"layers": 2, "kv_heads": 2, "head_dim": SHAPE.head_dim, "vocab_size": SHAPE.vocab, "context_length": 128}
    facts |= {"kv_cache_precision": "fp16", "slots": 2, "prefill_tokens": 64, "prefill_batch": 2, "builder": {}}
    other = tmp_path / "other"
    other.mkdir()
    source = write_directory(tmp_path / "other-source", SHAPE)
    write_safetensors(source / "model.safetensors", weights(SHAPE, seed=9))
    opened = open_source(source)
    emit(opened.config, opened.read, "fp16", 128, other)
    assert verified(graph, graph, facts | {"kind": "onnxruntime"}, tmp_path / "work")
    with pytest.raises(AccuracyError, match="something else than its ONNX graph: top-1 agreement"):
        verified(graph, other, facts | {"kind": "onnxruntime"}, tmp_path / "work")
    built = {"module": "tensorrt_rtx_bindings", "version": "0.0.1", "version_compatible": False}
    assert not verified(graph, other, facts | {"kind": "tensorrt-rtx", "builder": built}, tmp_path / "work")
    for_this_host = facts | {"kind": "tensorrt", "builder": built}
    with pytest.raises(EngineBuildError, match="built for the GPU here and does not load"):
        verified(graph, other, for_this_host, tmp_path / "work")
    broken = write_broken(graph, tmp_path / "broken")
    with pytest.raises(EngineBuildError, match=r"loads on the GPU here and fails: .* not a number"):
        verified(graph, broken, facts | {"kind": "onnxruntime"}, tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []


def write_broken(graph: Path, folder: Path) -> Path:
    """The graph whose logits of a prefill call are no numbers, and of a decode call what they were."""
    shutil.copytree(graph, folder)
    model = onnx.load(folder / MODEL, load_external_data=False)
    nodes = model.graph.node
    nodes[-1].output[0] = "sound"
    constants = {"nan": np.array(np.nan, np.float32), "one": np.array(1, np.int64), "axis": np.array(1, np.int64)}
    for name, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    for kind, inputs, output in (
        ("Shape", ["input_ids"], "ids_shape"),
        ("Gather", ["ids_shape", "axis"], "length"),
        ("Greater", ["length", "one"], "prefills"),
        ("Where", ["prefills", "nan", "sound"], "logits"),
    ):
        nodes.append(onnx.helper.make_node(kind, inputs, [output]))
    (folder / MODEL).write_bytes(model.SerializeToString())
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ordinary_tensorrt_s_settings(tmp_path: Path) -> None:
    """The flags of compatibility reach the builder, and timings are remembered for each version and GPU: through the
    real bindings of TensorRT-RTX, which have the same names and where timings are of no use."""
    import tensorrt_rtx_bindings as trt

    settings = Settings("tensorrt", (), 64, True, "same-compute-capability", tmp_path)
    builder = trt.Builder(new_log(trt))
    files = set()
    for gpu in ("NVIDIA L4", "NVIDIA H100 80GB HBM3"):
        device = SimpleNamespace(gpu=gpu, capabilities=("8.9",))
        config = builder.create_builder_config()
        configure(trt, config, settings, device)  # type: ignore[arg-type]
        assert config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 64 << 20
        keep_timings(trt, config, settings, device)  # type: ignore[arg-type]
        files.add(timing_cache_file(trt, settings, device).name)  # type: ignore[arg-type]
        assert not list(tmp_path.glob("*.part"))
    assert {file.name for file in tmp_path.iterdir()} == files
    assert files == {f"timing-{trt.__version__}-nvidia-{gpu}.cache" for gpu in ("l4", "h100-80gb-hbm3")}


class StrictConfig:
    """A builder's configuration that reads no timings but its own, and says so as TensorRT does: with None."""

    def create_timing_cache(self, content: bytes) -> str | None:
        return None if content else "new"

    def set_timing_cache(self, cache: str | None, ignore_mismatch: bool) -> None:
        self.cache = cache


def test_timings_that_are_damaged_are_measured_again(tmp_path: Path) -> None:
    """They only save time."""
    import tensorrt_rtx_bindings as trt

    settings, device = Settings("tensorrt", (), None, False, "none", tmp_path), SimpleNamespace(gpu="NVIDIA L4")
    timing_cache_file(trt, settings, device).write_bytes(b"torn")  # type: ignore[arg-type]
    config = StrictConfig()
    configure(trt, config, settings, device)  # type: ignore[arg-type]
    assert config.cache == "new"


def test_another_tensorrt_or_gpu_is_another_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary plan runs on what built it, so that is asked before a published version is taken for the same; other
    targets take nothing of the host."""
    hosts = ({}, {"tensorrt": "11.1", "gpu": "NVIDIA L4"}, {"tensorrt": "11.1", "gpu": "NVIDIA H100"})
    assert len({input_hash({}, {}, (), host) for host in hosts}) == 3
    recipe = Recipe(tmp_path, "x", tmp_path, tmp_path, target="tensorrt", precision="fp16")
    assert host_of(replace(recipe, target="tensorrt-rtx")) == {}
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.1.0.1"))
    try:
        gpu = Cuda().device_name()
    except EngineError:
        with pytest.raises(EngineBuildError, match="builds on the GPU that will serve"):
            host_of(recipe)
    else:
        assert host_of(recipe) == {"tensorrt": "11.1.0.1", "gpu": gpu}


def test_an_input_that_tensorrt_does_not_use_fails_the_build(graph: Path, tmp_path: Path) -> None:
    """A graph that ignores ``last_idx`` builds, with the right layers and names, and answers for another token; the
    only hint is a warning, and that warning is the error."""
    model = onnx.load(graph / MODEL, load_external_data=False)
    node = next(node for node in model.graph.node if "last_idx" in node.input)
    node.input[0] = "start_pos"
    (graph / MODEL).write_bytes(model.SerializeToString())
    with pytest.raises(EngineBuildError, match="Unused Input: last_idx"):
        build_plan(graph, settings(tmp_path), FACTS, tmp_path)
    assert not (tmp_path / "engine.plan").exists()


def test_lengths_that_tensorrt_drops_fail_the_build(graph: Path, tmp_path: Path) -> None:
    """``nonpad_kv_seqlen`` instead of a mask is right elsewhere; TensorRT's parser drops it without an error."""
    model = onnx.load(graph / MODEL, load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "Attention":
            node.input[3:] = ["", "", "", "start_pos"]
            node.attribute.append(onnx.helper.make_attribute("is_causal", 1))
    (graph / MODEL).write_bytes(model.SerializeToString())
    with pytest.raises(EngineBuildError, match="lost the mask"):
        build_plan(graph, settings(tmp_path), FACTS, tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layers": 3}, "parsed 4 layers of type KV_CACHE_UPDATE, the graph has 6"),
        ({"quantize_nodes": 14}, "parsed 0 layers of type QUANTIZE, the graph has 14"),
        ({"dequantize_nodes": 14}, "parsed 0 layers of type DEQUANTIZE, the graph has 14"),
    ],
)
def test_the_parsed_network_is_counted(graph: Path, tmp_path: Path, wrong: dict[str, int], message: str) -> None:
    """A network that has other layers than the decoder must have is not built."""
    with pytest.raises(EngineBuildError, match=message):
        build_plan(graph, settings(tmp_path), FACTS | wrong, tmp_path)


def test_an_attention_without_its_mask_is_refused(graph: Path, tmp_path: Path) -> None:
    """Every token would see the whole cache."""
    model = onnx.load(graph / MODEL, load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "Attention":
            del node.input[3:]
    (graph / MODEL).write_bytes(model.SerializeToString())
    with pytest.raises(EngineBuildError, match="lost the mask"):
        build_plan(graph, settings(tmp_path), FACTS, tmp_path)


def test_another_name_of_an_output_is_refused(graph: Path, tmp_path: Path) -> None:
    """The executor binds by name."""
    model = onnx.load(graph / MODEL, load_external_data=False)
    model.graph.output[0].name = model.graph.node[-1].output[0] = "scores"
    (graph / MODEL).write_bytes(model.SerializeToString())
    with pytest.raises(EngineBuildError, match=r"\['logits', 'scores'\]"):
        build_plan(graph, settings(tmp_path), FACTS, tmp_path)


def test_a_graph_that_tensorrt_cannot_parse_is_refused_with_its_line(graph: Path, tmp_path: Path) -> None:
    """An operator of nobody's domain."""
    model = onnx.load(graph / MODEL, load_external_data=False)
    model.graph.node[-1].op_type = "NoSuchOperator"
    (graph / MODEL).write_bytes(model.SerializeToString())
    with pytest.raises(EngineBuildError, match="NoSuchOperator"):
        build_plan(graph, settings(tmp_path), FACTS, tmp_path)


def test_what_the_log_may_not_say() -> None:
    """The first line that is an error, or says that something was left out, ends the build."""
    refuse_log([(False, "Make sure input input_ids has Int64 binding."), (False, "[MemUsageChange] ...")])
    for line in ((True, "Error Code 9"), (False, "Unused Input: kv_len"), (False, "x is unsupported in y")):
        with pytest.raises(EngineBuildError, match=line[1]):
            refuse_log([(False, "harmless"), line])


def test_a_burst_of_errors_is_told_by_where_and_why() -> None:
    """As TensorRT's parser writes them: the line that helps is the last one."""
    burst = ["While parsing node number 36 [D -> D_36]:", "--- Begin node ---", "--- End node ---"]
    burst += ["ERROR: importers.cpp:1889 In function f:\n[6] Assertion failed: must be positive", "Failed."]
    with pytest.raises(EngineBuildError) as raised:
        refuse_log([(False, "harmless"), *((True, line) for line in burst)])
    where, why = burst[0], "ERROR: importers.cpp:1889 In function f: [6] Assertion failed: must be positive"
    assert str(raised.value) == f"TensorRT: {where} ... {why}"


@pytest.mark.parametrize("what", ["zeros", "almost zeros"])
def test_int8_rows_of_almost_nothing_are_compiled(
    publish_from: Builder, repository: Path, tmp_path: Path, what: str
) -> None:
    """TensorRT takes no scale that is not positive, and in fp16 a small one is zero."""
    source = write_directory(tmp_path / "source", SHAPE)
    tensors = weights(SHAPE)
    tensors["model.layers.0.mlp.up_proj.weight"][3] *= 0 if what == "zeros" else 1e-7
    write_safetensors(source / "model.safetensors", tensors)
    asked: dict[str, Any] = {"context_length": 64, "slots": 2, "step_tokens": 33}
    manifest = publish_from(source, target="tensorrt-rtx", precision="int8-weight-only", **asked)
    assert manifest["engine"]["profiles"][0]["tokens"] == [1, 64, 64]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"compute_capabilities": ("8.9", "9.0")}, r"9\.0: TensorRT-RTX has no kernels for Hopper.*--target tensorrt"),
        ({"compute_capabilities": ("6.1",)}, r"6\.1 must be one of 7\.5, 8\.0"),
        ({"version_compatible": True}, "--version-compatible"),
        ({"hardware_compatibility": "ampere-plus"}, "--hardware-compatibility"),
        ({"workspace_mib": 0}, "--workspace-mib must be at least 1"),
        ({"precision": "int8"}, "--calibration FILE and --held-out FILE"),
        ({"target": "tensorrt", "compute_capabilities": ("8.9",)}, "--compute-capability is --target tensorrt-rtx's"),
        ({"target": "onnxruntime", "workspace_mib": 64}, "--workspace-mib is TensorRT's"),
    ],
)
def test_what_cannot_be_built_is_said_before_anything_is(
    publish_from: Builder, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    """The flag, the reason and the way out."""
    with pytest.raises(RecipeError, match=message):
        publish_from(tmp_path / "no-such-source", **{"target": "tensorrt-rtx", "precision": "fp16", **fields})


def test_a_host_without_tensorrt_is_told_what_to_install(
    publish_from: Builder, repository: Path, tmp_path: Path
) -> None:
    """Ordinary TensorRT comes with a GPU host; nothing is published without it."""
    try:
        import tensorrt  # noqa: F401
    except ImportError:
        with pytest.raises(RecipeError, match="NVIDIA's tensorrt on a GPU host"):
            publish_from(write_directory(tmp_path / "source"), target="tensorrt", precision="fp16")
        assert not (repository / "tiny").exists()
    else:
        pytest.skip("ordinary TensorRT is installed here")


@pytest.mark.parametrize("precision", ["int8", "int8-weight-only"])
def test_int8_is_proven_on_the_cpu_and_counted_in_the_parsed_network(
    publish_from: Builder, repository: Path, tmp_path: Path, precision: str
) -> None:
    """The very graph that was judged is compiled; its record lies beside the engine."""
    texts = {"held_out": write_text(tmp_path / "held_out.jsonl")}
    if precision == "int8":
        texts["calibration"] = write_text(tmp_path / "calibration.jsonl")
    source = write_directory(tmp_path / "source", SHAPE)
    manifest = publish_from(
        source, target="tensorrt-rtx", precision=precision, context_length=64, slots=2, step_tokens=32, **texts
    )
    assert manifest["precision"] == precision
    assert manifest["accuracy"]["passed"]
    accuracy = json.loads((repository / "tiny/1/engine/accuracy.json").read_text())
    assert accuracy["attempts"][-1]["text"] == "held-out"
    assert (repository / "tiny/1/engine/report.html").exists()
    assert manifest["engine"]["kv_cache_precision"] == "fp16"
