"""The decoder as an ONNX graph of standard operators, with a static KV cache that is updated in place.

Activations are a padded batch ``[B, T, features]``. Sequence ``b`` owns row ``b`` of every cache
``[B, kv_heads, sequence_length, head_dim]`` and has ``start_pos[b]`` tokens in it already. Its ``T`` new tokens are
written behind them, and token ``t`` sees the positions up to ``start_pos[b] + t``: the mask is explicit and covers
causality and padding at once. What padding writes is overwritten before anybody can see it.

Nothing else is used for masking on purpose: TensorRT's parser drops ``nonpad_kv_seqlen`` and ``past_key`` silently.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from build_engine.decoder import AttentionWeights, DecoderConfig, FloatArray, Linear, describe
from build_engine.onnx_graph import IR_VERSION, OPSET, GraphWriter
from build_engine.onnx_weights import ExternalWeights

PRECISIONS: dict[str, type[np.floating[Any]]] = {"fp32": np.float32, "fp16": np.float16}
MODEL, WEIGHTS = "model.onnx", "model.onnx.data"


def emit(
    config: DecoderConfig, read: Callable[[str], FloatArray], precision: str, sequence_length: int, folder: Path
) -> None:
    """Write ``MODEL`` and ``WEIGHTS`` into ``folder``, and check them with ONNX's own checker.

    ``read`` is called once for each tensor; ``precision`` is one of ``PRECISIONS`` and the type of weights,
    activations and cache; ``sequence_length`` is the cache's capacity of one sequence in tokens. Inputs: ``input_ids``
    int64 ``[B, T]``, ``start_pos`` and ``last_idx`` int64 ``[B]``, ``past_key_i`` and ``past_value_i``. Outputs:
    ``logits`` float32 ``[B, vocab]`` behind token ``last_idx[b]`` of the T, ``present_key_i`` and ``present_value_i``.
    Raises :class:`UnsupportedModel` for a weight that float16 cannot hold.
    """
    write(config, partial(OnnxEmitter, config, read, PRECISIONS[precision], sequence_length), folder)


def write(config: DecoderConfig, build: Callable[[ExternalWeights], OnnxEmitter], folder: Path) -> None:
    """Describe the decoder to the emitter that ``build`` makes, and write ``MODEL`` and ``WEIGHTS``, checked."""
    with ExternalWeights(folder / WEIGHTS) as weights:
        emitter = build(weights)
        describe(config, emitter)
    (folder / MODEL).write_bytes(emitter.model().SerializeToString())
    onnx.checker.check_model(str(folder / MODEL), full_check=True)


class OnnxEmitter(GraphWriter):
    """Implements :class:`build_engine.decoder.Emitter`; a tensor is its name in the graph."""

    def __init__(
        self,
        config: DecoderConfig,
        read: Callable[[str], FloatArray],
        dtype: type[np.floating[Any]],
        sequence_length: int,
        weights: ExternalWeights,
    ) -> None:
        super().__init__(read, dtype, weights)
        self._config = config
        self._cache_shape = ["batch", config.kv_heads, sequence_length, config.head_dim]
        self._inputs = [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
            helper.make_tensor_value_info("start_pos", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("last_idx", TensorProto.INT64, ["batch"]),
        ]
        self._outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", config.vocab_size])]
        self._positions, self._mask = self._places(sequence_length)
        self._cos, self._sin = self._rotation(sequence_length)

    def embed(self, weight: str) -> str:
        """``[B, T, hidden]``."""
        return self._node("Gather", [self._weight(weight), "input_ids"])

    def rms_norm(self, x: str, weight: str) -> str:
        """RMS norm over the last axis; the mean is taken in float32."""
        return self._node("RMSNormalization", [x, self._weight(weight)], epsilon=self._config.rms_eps, axis=-1)

    def linear(self, x: str, projection: Linear) -> str:
        """One matrix product, with its bias if it has one."""
        product = self._node("MatMul", [x, self._weight(projection.weight, transposed=True)])
        return product if projection.bias is None else self._node("Add", [product, self._weight(projection.bias)])

    def attention(self, x: str, layer: int, weights: AttentionWeights) -> str:
        """``[B, T, heads * head_dim]``."""
        config = self._config
        q = self._heads(self.linear(x, weights.q), config.heads, weights.q_norm)
        k = self._heads(self.linear(x, weights.k), config.kv_heads, weights.k_norm)
        v = self._heads(self.linear(x, weights.v), config.kv_heads, None)
        keys = self._cached(f"key_{layer}", self._rotate(k))
        values = self._cached(f"value_{layer}", v)
        scale = config.head_dim**-0.5
        mixed = self._node("Attention", [self._rotate(q), keys, values, self._mask], scale=scale)
        mixed = self._node("Transpose", [mixed], perm=[0, 2, 1, 3])
        return self._node("Reshape", [mixed, self._integers([0, 0, config.heads * config.head_dim])])

    def swiglu(self, x: str, gate: Linear, up: Linear) -> str:
        """Gated activation. Written out: TensorRT 10 has no ``Swish``."""
        opened = self.linear(x, gate)
        silu = self._node("Mul", [opened, self._node("Sigmoid", [opened])])
        return self._node("Mul", [silu, self.linear(x, up)])

    def add(self, a: str, b: str) -> str:
        """Sum."""
        return self._node("Add", [a, b])

    def sampled_rows(self, x: str) -> str:
        """``[B, hidden]``: token ``last_idx[b]`` of row ``b``."""
        index = self._node("Unsqueeze", ["last_idx", self._integers([1])])
        return self._node("GatherND", [x, index], batch_dims=1)

    def logits(self, x: str, weight: str) -> None:
        """Output ``logits``; the stored head is ``[vocab, hidden]``, so a tied embedding is stored once."""
        result = self._node("Gemm", [x, self._weight(weight)], transB=1)
        self._node("Cast", [result], "logits", to=TensorProto.FLOAT)

    def model(self) -> onnx.ModelProto:
        """The finished graph."""
        graph = helper.make_graph(self._nodes, "decoder", self._inputs, self._outputs, [*self._initialisers.values()])
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, producer_name="tidegate", ir_version=IR_VERSION, opset_imports=opsets)

    def _places(self, sequence_length: int) -> tuple[str, str]:
        """Positions int64 ``[B, T]``, and the mask bool ``[B, 1, T, sequence_length]``, true where a token may look."""
        tokens = self._node("Gather", [self._node("Shape", ["input_ids"]), self._scalar(1)])
        steps = self._node("Range", [self._scalar(0), tokens, self._scalar(1)])
        begins = self._node("Unsqueeze", ["start_pos", self._integers([1])])
        positions = self._node("Add", [begins, steps])
        rows = self._node("Unsqueeze", [positions, self._integers([1, 3])])
        columns = self._constant("cache_positions", np.arange(sequence_length, dtype=np.int64))
        return positions, self._node("LessOrEqual", [columns, rows])

    def _rotation(self, sequence_length: int) -> tuple[str, str]:
        """RoPE's tables ``[sequence_length, head_dim / 2]``."""
        angles = np.arange(sequence_length)[:, None] * self._config.inverse_frequencies().astype(np.float64)
        tables = {"rope_cos": np.cos(angles), "rope_sin": np.sin(angles)}
        for name, values in tables.items():
            self._initialisers[name] = self._weights.add(name, values.astype(self._dtype))
        return "rope_cos", "rope_sin"

    def _heads(self, x: str, heads: int, norm: str | None) -> str:
        """``[B, heads, T, head_dim]``, each head normalised where the model does that."""
        x = self._node("Reshape", [x, self._integers([0, 0, heads, self._config.head_dim])])
        x = x if norm is None else self.rms_norm(x, norm)
        return self._node("Transpose", [x], perm=[0, 2, 1, 3])

    def _rotate(self, x: str) -> str:
        return self._node("RotaryEmbedding", [x, self._cos, self._sin, self._positions])

    def _cached(self, name: str, new: str) -> str:
        """The cache ``name`` with ``new [B, kv_heads, T, head_dim]`` written at ``start_pos``."""
        past, present = f"past_{name}", f"present_{name}"
        self._inputs.append(helper.make_tensor_value_info(past, self._kind, self._cache_shape))
        self._outputs.append(helper.make_tensor_value_info(present, self._kind, self._cache_shape))
        return self._node("TensorScatter", [past, new, "start_pos"], present, axis=2, mode="linear")
