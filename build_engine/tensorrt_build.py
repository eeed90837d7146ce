"""An ONNX graph as a TensorRT engine: parsed, checked against what the model must be, built for its profiles.

A parser that does not know an input drops it, and the engine then builds and computes something else. So the parsed
network is counted, and the log is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from build_engine.backend.plan import PLAN
from build_engine.emit_onnx import MODEL
from build_engine.errors import EngineBuildError
from build_engine.tensorrt_api import MODULES, Device, Settings, configure, keep_timings, load, new_log, refuse_log

PREFILL_OPTIMUM_TOKENS = 128


@dataclass(frozen=True)
class Expected:
    """What the parsed network must be: how many ``layers`` it has, by TensorRT's name of their type, and the names of
    its inputs and outputs. With ``decomposable`` an attention may be broken up where there is no kernel for it."""

    layers: Mapping[str, int]
    ports: frozenset[str]
    decomposable: bool


def build_plan(graph: Path, settings: Settings, facts: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Build a decoder, with a prefill and a decode profile; ``facts`` are those of its ``engine.json``. See
    :func:`compile_plan`."""
    caches = [f"{side}_{layer}" for layer in range(facts["layers"]) for side in ("key", "value")]
    ports = {"input_ids", "start_pos", "last_idx", "logits", *(f"past_{name}" for name in caches)}
    layers = {
        "KV_CACHE_UPDATE": len(caches),
        "ATTENTION_INPUT": facts["layers"],
        "QUANTIZE": facts["quantize_nodes"],
        "DEQUANTIZE": facts["dequantize_nodes"],
    }
    # There is no fused attention in float32.
    expected = Expected(
        layers, frozenset(ports | {f"present_{name}" for name in caches}), facts["kv_cache_precision"] == "fp32"
    )
    return compile_plan(graph, settings, expected, _profiles(facts), folder)


def compile_plan(
    graph: Path, settings: Settings, expected: Expected, profiles: Sequence[dict[str, Any]], folder: Path
) -> dict[str, Any]:
    """Build ``<graph>/model.onnx`` into ``<folder>/engine.plan``. A profile has least, best and most of ``batch``, the
    first axis of every input, and of ``tokens``, any other axis that is dynamic. Returns what the build adds to
    ``engine.json``: ``builder``, ``onnx``, ``io``, ``profiles`` and ``gpu_verified``. Raises :class:`EngineBuildError`
    with TensorRT's own line.
    """
    trt, device = load(settings.target), Device(settings)
    log = new_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(_network_flags(trt))
    config = builder.create_builder_config()
    configure(trt, config, settings, device)
    parser = trt.OnnxParser(network, log)
    if hasattr(parser, "set_builder_config"):  # not before TensorRT 11
        parser.set_builder_config(config)
    _parse(parser, log, graph / MODEL, expected.decomposable)
    check_network(trt, network, expected)
    for profile in profiles:
        _add_profile(builder, config, network, profile)
    blob = builder.build_serialized_network(network, config)
    refuse_log(log.lines)
    if blob is None:
        raise EngineBuildError("TensorRT built nothing and did not say why")
    with (folder / PLAN).open("wb") as file:
        file.write(memoryview(blob))
    keep_timings(trt, config, settings, device)
    return {
        "builder": _builder(trt, settings, device),
        "onnx": {each.name: each.stat().st_size for each in sorted(graph.glob(f"{MODEL}*"))},
        "io": _ports(network),
        "profiles": list(profiles),
        "gpu_verified": False,
    }


def quantised_layers(graph: Path) -> tuple[int, int]:
    """How many quantise and dequantise nodes ``<graph>/model.onnx`` has."""
    nodes = Counter(node.op_type for node in onnx.load(graph / MODEL, load_external_data=False).graph.node)
    return nodes["QuantizeLinear"], nodes["DequantizeLinear"]


def _builder(trt: Any, settings: Settings, device: Device) -> dict[str, Any]:
    """What a backend compares with what it finds where it runs."""
    return {
        "module": MODULES[settings.target],
        "version": trt.__version__,
        "gpu": device.gpu,
        "compute_capabilities": list(device.capabilities),
        "version_compatible": settings.version_compatible,
        "hardware_compatibility": settings.hardware_compatibility,
        "workspace_mib": settings.workspace_mib,
    }


def _network_flags(trt: Any) -> int:
    """Strongly typed; TensorRT 11 knows nothing else."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(parser: Any, log: Any, path: Path, decomposable: bool) -> None:
    """Parse a copy in memory. TensorRT breaks an attention up only where an attribute of its own says that it may,
    which the file must not have: it would not be standard ONNX any more."""
    model = onnx.load(path, load_external_data=False)
    if decomposable:
        for node in model.graph.node:
            if node.op_type == "Attention":
                node.attribute.append(onnx.helper.make_attribute("TRT_decomposable", 1))
    parsed = parser.parse(model.SerializeToString(), str(path))
    refuse_log(log.lines)
    if not parsed:
        raise EngineBuildError(f"TensorRT cannot parse {path}: {parser.get_error(0)}")


def check_network(trt: Any, network: Any, expected: Expected) -> None:
    """Raise :class:`EngineBuildError` unless the parsed network has as many layers of each kind as the graph, attends
    under its mask, and has exactly the graph's inputs and outputs.
    """
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    found = Counter(layer.type.name for layer in layers)
    for kind, count in expected.layers.items():
        if found[kind] != count:
            raise EngineBuildError(f"TensorRT parsed {found[kind]} layers of type {kind}, the graph has {count}")
    for layer in layers:
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer
            if layer.attention.mask is None:
                raise EngineBuildError(f"TensorRT lost the mask of {layer.name}")
    names = {port["name"] for port in _ports(network)}
    if names != expected.ports:
        raise EngineBuildError(
            f"TensorRT's inputs and outputs differ from the graph's: {sorted(names ^ expected.ports)}"
        )


def _ports(network: Any) -> list[dict[str, Any]]:
    """Name, direction, type and shape of every input and output; -1 is dynamic."""
    inputs = [("input", network.get_input(number)) for number in range(network.num_inputs)]
    outputs = [("output", network.get_output(number)) for number in range(network.num_outputs)]
    return [
        {"name": port.name, "kind": kind, "dtype": port.dtype.name.lower(), "shape": list(port.shape)}
        for kind, port in inputs + outputs
    ]


def _profiles(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Least, best and most of ``batch`` (slots) and ``tokens`` of a prefill and of a decode call."""
    tokens, batch, slots = facts["prefill_tokens"], facts["prefill_batch"], facts["slots"]
    best = min(PREFILL_OPTIMUM_TOKENS, tokens)
    return [
        {"name": "prefill", "batch": [1, 1, batch], "tokens": [1, best, tokens]},
        {"name": "decode", "batch": [1, max(1, slots // 2), slots], "tokens": [1, 1, 1]},
    ]


def _add_profile(builder: Any, config: Any, network: Any, profile: dict[str, Any]) -> None:
    made = builder.create_optimization_profile()
    for number in range(network.num_inputs):
        port = network.get_input(number)
        shapes = []
        for batch, tokens in zip(profile["batch"], profile["tokens"], strict=True):
            shapes.append((batch, *(tokens if size == -1 else size for size in tuple(port.shape)[1:])))
        made.set_shape(port.name, *shapes)
    config.add_optimization_profile(made)
