"""A BERT-type classifier as an ONNX graph of standard operators.

Inputs: ``input_ids`` int64 ``[B, T]`` and ``mask`` bool ``[B, T]``, true for what is text and not padding. Output:
``scores`` float32 ``[B, labels]``, which sum to one. What is int8 is explicit (Q/DQ) and symmetric, a scale for each
output of a weight and one for an activation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from build_engine.decoder import FloatArray
from build_engine.encoder import LAYER, PREFIX, EncoderConfig, projections
from build_engine.onnx_graph import IR_VERSION, OPSET
from build_engine.onnx_int8 import Int8Writer
from build_engine.onnx_weights import ExternalWeights

MODEL, WEIGHTS = "model.onnx", "model.onnx.data"
Read = Callable[[str], FloatArray]


@dataclass(frozen=True)
class EncoderPlan:
    """How projections are stored, by the name of their weight: ``activations`` with int8 inputs of this largest
    magnitude, ``weight_only`` with int8 weights alone. With ``observe`` the graph also tells the magnitudes:
    outputs ``largest:NAME``."""

    dtype: type[np.floating[Any]] = np.float32
    activations: Mapping[str, float] = field(default_factory=dict)
    weight_only: frozenset[str] = frozenset()
    observe: bool = False


def emit(config: EncoderConfig, read: Read, plan: EncoderPlan, folder: Path) -> None:
    """Write ``MODEL`` and ``WEIGHTS`` into ``folder``, checked by ONNX's own checker."""
    with ExternalWeights(folder / WEIGHTS) as weights:
        model = _Emitter(config, read, plan, weights).model()
    (folder / MODEL).write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(folder / MODEL), full_check=True)


class _Emitter(Int8Writer):
    def __init__(self, config: EncoderConfig, read: Read, plan: EncoderPlan, weights: ExternalWeights) -> None:
        super().__init__(read, plan.dtype, weights)
        self._config, self._plan = config, plan
        self._outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", len(config.labels)])]

    def model(self) -> onnx.ModelProto:
        """The whole graph."""
        mask = self._visible()
        x = self._embedded()
        for layer in range(self._config.layers):
            x = self._layer(x, layer, mask)
        first = self._node("Gather", [x, self._scalar(0)], axis=1)
        pooled = self._node("Tanh", [self._linear(first, "bert.pooler.dense.weight")])
        logits = self._node("Cast", [self._linear(pooled, "classifier.weight")], to=TensorProto.FLOAT)
        self._node("Softmax", [logits], "scores", axis=-1)
        inputs = [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
            helper.make_tensor_value_info("mask", TensorProto.BOOL, ["batch", "tokens"]),
        ]
        graph = helper.make_graph(self._nodes, "encoder", inputs, self._outputs, [*self._initialisers.values()])
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, producer_name="tidegate", ir_version=IR_VERSION, opset_imports=opsets)

    def _visible(self) -> str:
        """``[B, 1, T, T]``: every token sees what is text. Runtimes want the rows written out."""
        shape = self._node("Shape", ["input_ids"])
        rows = self._node("Gather", [shape, self._integers([0])])
        tokens = self._node("Gather", [shape, self._integers([1])])
        whole = self._node("Concat", [rows, self._integers([1]), tokens, tokens], axis=0)
        return self._node("Expand", [self._node("Unsqueeze", ["mask", self._integers([1, 2])]), whole])

    def _embedded(self) -> str:
        """``[B, T, hidden]``: word, place and kind; one text has one kind."""
        words = self._node("Gather", [self._weight(f"{PREFIX}.word_embeddings.weight"), "input_ids"])
        tokens = self._node("Gather", [self._node("Shape", ["input_ids"]), self._scalar(1)])
        places = self._node("Range", [self._scalar(0), tokens, self._scalar(1)])
        at = self._node("Gather", [self._weight(f"{PREFIX}.position_embeddings.weight"), places])
        kind = self._node("Gather", [self._weight(f"{PREFIX}.token_type_embeddings.weight"), self._scalar(0)])
        summed = self._node("Add", [self._node("Add", [words, kind]), at])
        return self._norm(summed, f"{PREFIX}.LayerNorm")

    def _layer(self, x: str, layer: int, mask: str) -> str:
        config, names = self._config, projections(self._config, layer)
        q, k, v = (self._heads(self._linear(x, names[kind])) for kind in ("query", "key", "value"))
        mixed = self._node("Attention", [q, k, v, mask], scale=config.head_dim**-0.5)
        mixed = self._node("Transpose", [mixed], perm=[0, 2, 1, 3])
        mixed = self._node("Reshape", [mixed, self._integers([0, 0, config.hidden_size])])
        attended = self._node("Add", [self._linear(mixed, names["output"]), x])
        x = self._norm(attended, f"{LAYER}.{layer}.attention.output.LayerNorm")
        opened = self._node("Gelu", [self._linear(x, names["up"])], approximate=config.activation)
        return self._norm(
            self._node("Add", [self._linear(opened, names["down"]), x]), f"{LAYER}.{layer}.output.LayerNorm"
        )

    def _heads(self, x: str) -> str:
        x = self._node("Reshape", [x, self._integers([0, 0, self._config.heads, self._config.head_dim])])
        return self._node("Transpose", [x], perm=[0, 2, 1, 3])

    def _norm(self, x: str, name: str) -> str:
        weights = [self._weight(f"{name}.weight"), self._weight(f"{name}.bias")]
        return self._node("LayerNormalization", [x, *weights], axis=-1, epsilon=self._config.norm_eps)

    def _linear(self, x: str, name: str) -> str:
        """A matrix product with its bias, as the plan says."""
        if self._plan.observe:
            output = self._node("ReduceMax", [self._node("Abs", [x])], f"largest:{name}", keepdims=0)
            self._outputs.append(helper.make_tensor_value_info(output, self._kind, []))
        if name in self._plan.activations:
            x = self._through_int8(x, f"{name}_input_scale", self._plan.activations[name])
        quantised = name in self._plan.activations or name in self._plan.weight_only
        weight = self._int8_weight(name) if quantised else self._weight(name, transposed=True)
        product = self._node("MatMul", [x, weight])
        return self._node("Add", [product, self._weight(name.replace(".weight", ".bias"))])
