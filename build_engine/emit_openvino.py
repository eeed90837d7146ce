"""The decoder as an OpenVINO graph with a paged KV cache, emitted directly from the weights.

Activations are packed rows ``[tokens, features]``: the tokens of all sequences of a step behind one another. int8
weights are symmetric per output channel: an int8 constant, a conversion and a multiplication, which the CPU plug-in
recognises as compressed weights. q, k and v are one product, and RoPE turns the heads of q and k at once where no norm
stands between.

``_PagedAttentionExtension`` is not a public operator: its 28 inputs are those of the pinned OpenVINO.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.op import _PagedAttentionExtension as PagedAttention

from build_engine.decoder import AttentionWeights, DecoderConfig, FloatArray, Linear, describe

Node = Any  # an openvino Node or Output: the package types neither
PRECISIONS = ("int8", "fp32")
GROUP_SIZE = 64  # inputs that share a scale; a projection whose inputs it does not divide has one scale per output


def emit(config: DecoderConfig, read: Callable[[str], FloatArray], precision: str) -> ov.Model:
    """The whole decoder. ``read`` is called once for each tensor; ``precision`` is one of ``PRECISIONS``."""
    emitter = OpenVinoEmitter(config, read, precision)
    describe(config, emitter)
    return emitter.model()


class OpenVinoEmitter:
    """Implements :class:`build_engine.decoder.Emitter` on OpenVINO's operators."""

    def __init__(self, config: DecoderConfig, read: Callable[[str], FloatArray], precision: str) -> None:
        self._config, self._read, self._precision = config, read, precision
        self._shared: dict[str, tuple[Node, Node | None]] = {}
        self._inputs = {
            name: _parameter(name, shape, kind)
            for name, shape, kind in (
                ("input_ids", [-1], ov.Type.i64),
                ("position_ids", [-1], ov.Type.i64),
                ("past_lens", [-1], ov.Type.i32),
                ("subsequence_begins", [-1], ov.Type.i32),
                ("block_indices", [-1], ov.Type.i32),
                ("block_indices_begins", [-1], ov.Type.i32),
                ("max_context_len", [], ov.Type.i32),
                ("sampled_tokens_indices", [-1], ov.Type.i64),
            )
        }
        self._caches: list[Node] = []
        self._cos, self._sin = self._rotation()
        self._outputs: list[Node] = []

    def embed(self, weight: str) -> Node:
        """Rows ``[tokens, hidden]``."""
        values, scale = self._weight(weight)
        ids, axis = self._inputs["input_ids"], _constant(0, np.int64)
        rows = ops.gather(values, ids, axis)
        if scale is None:
            return rows
        values = ops.multiply(ops.convert(rows, ov.Type.f32), ops.gather(scale, ids, axis))
        return ops.reshape(values, _constant([-1, self._config.hidden_size], np.int64), False)

    def rms_norm(self, x: Node, weight: str) -> Node:
        """RMS norm over the features."""
        square = ops.power(x, _constant(2.0))
        mean = ops.reduce_mean(square, _constant([-1], np.int64), keep_dims=True)
        root = ops.sqrt(ops.add(mean, _constant(self._config.rms_eps)))
        normal = ops.multiply(x, ops.divide(_constant(1.0), root))
        return ops.multiply(normal, _constant(self._read(weight)[None, :]))

    def linear(self, x: Node, projection: Linear) -> Node:
        """One matrix product, with its bias if it has one."""
        return self._product(x, [projection])

    def attention(self, x: Node, layer: int, weights: AttentionWeights) -> Node:
        """Rows ``[tokens, heads * head_dim]``."""
        config = self._config
        q_size, kv_size = config.heads * config.head_dim, config.kv_heads * config.head_dim
        joined = self._product(x, [weights.q, weights.k, weights.v])
        if weights.q_norm is None or weights.k_norm is None:
            qk, v = _split(joined, 1, [q_size + kv_size, kv_size])
            q, k = _split(self._rotate(self._heads(qk)), 1, [q_size, kv_size])
        else:
            q, k, v = _split(joined, 1, [q_size, kv_size, kv_size])
            q = self._rotate(self.rms_norm(self._heads(q), weights.q_norm)).output(0)
            k = self._rotate(self.rms_norm(self._heads(k), weights.k_norm)).output(0)
        caches = [_parameter(f"{kind}_cache.{layer}", [-1, -1, -1, -1], ov.Type.dynamic) for kind in ("key", "value")]
        self._caches += caches
        return self._paged_attention(q, k, v, caches).output(0)

    def swiglu(self, x: Node, gate: Linear, up: Linear) -> Node:
        """Gated activation."""
        return ops.multiply(ops.swish(self.linear(x, gate)), self.linear(x, up))

    def add(self, a: Node, b: Node) -> Node:
        """Sum."""
        return ops.add(a, b)

    def sampled_rows(self, x: Node) -> Node:
        """Rows ``[sampled, hidden]``."""
        return ops.gather(x, self._inputs["sampled_tokens_indices"], _constant(0, np.int64))

    def logits(self, x: Node, weight: str) -> None:
        """Output ``logits`` float32 ``[sampled, vocab]``."""
        result = ops.result(ops.matmul(x, self._dequantised(*self._weight(weight)), False, True))
        result.output(0).get_tensor().set_names({"logits"})
        self._outputs.append(result)

    def model(self) -> ov.Model:
        """The finished graph."""
        return ov.Model(self._outputs, [*self._inputs.values(), *self._caches], "decoder")

    def _paged_attention(self, q: Node, k: Node, v: Node, caches: list[Node]) -> Node:
        config, inputs = self._config, self._inputs
        zero, no_ints, no_floats = _constant(0, np.int32), _constant([], np.int32), _constant([])
        node = PagedAttention([
            q, k, v, *(cache.output(0) for cache in caches),
            inputs["past_lens"].output(0), inputs["subsequence_begins"].output(0),
            inputs["block_indices"].output(0), inputs["block_indices_begins"].output(0),
            _constant(1.0 / np.sqrt(config.head_dim)).output(0), zero.output(0), no_floats.output(0),
            inputs["max_context_len"].output(0),
            no_ints.output(0), no_ints.output(0), no_ints.output(0), no_floats.output(0), no_floats.output(0),
            zero.output(0), zero.output(0), _constant(np.zeros((0, 0, 0, 0), np.float32)).output(0), zero.output(0),
            *(no_ints.output(0) for _ in range(4)), _constant([], np.uint8).output(0), no_ints.output(0),
        ])  # fmt: skip
        information = node.get_rt_info()
        for kind in ("k", "v"):
            information[f"num_{kind}_heads"], information[f"{kind}_head_size"] = config.kv_heads, config.head_dim
        return node

    def _rotation(self) -> tuple[Node, Node]:
        """The cos and sin of RoPE's angles, ``[tokens, 1, 1, head_dim]``, both halves alike."""
        position = ops.convert(self._inputs["position_ids"], ov.Type.f32)
        column = ops.reshape(position, _constant([-1, 1, 1, 1], np.int64), False)
        frequency = self._config.inverse_frequencies()
        angle = ops.multiply(column, _constant(np.concatenate([frequency, frequency])[None, None, None, :]))
        return ops.cos(angle), ops.sin(angle)

    def _heads(self, x: Node) -> Node:
        """Rows of joined heads as ``[tokens, heads, 1, head_dim]``."""
        heads = x.get_partial_shape()[1].get_length() // self._config.head_dim
        return ops.reshape(x, _constant([-1, heads, 1, self._config.head_dim], np.int64), False)

    def _rotate(self, x: Node) -> Node:
        """RoPE on ``[tokens, heads, 1, head_dim]``, each head's halves rotated; the heads joined again."""
        heads, size = (x.get_output_partial_shape(0)[axis].get_length() for axis in (1, 3))
        first, second = _split(x, 3, [size // 2] * 2)
        # The axis counts from the end: the plug-in's RoPE fusion looks for exactly that.
        turned = ops.concat([ops.multiply(second, _constant(-1.0)), first], -1)
        rotated = ops.add(ops.multiply(x, self._cos), ops.multiply(turned, self._sin))
        return ops.reshape(rotated, _constant([-1, heads * size], np.int64), False)

    def _product(self, x: Node, projections: list[Linear]) -> Node:
        """``x`` times the projections' weights joined along their outputs, biases added."""
        weight = np.concatenate([self._read(each.weight) for each in projections])
        result = ops.matmul(x, self._dequantised(*self._constants(weight)), False, True)
        biases = [self._read(each.bias) for each in projections if each.bias is not None]
        return ops.add(result, _constant(np.concatenate(biases)[None, :])) if biases else result

    def _weight(self, name: str) -> tuple[Node, Node | None]:
        """The constants of a tensor that may be used twice: a tied embedding is stored once."""
        if name not in self._shared:
            self._shared[name] = self._constants(self._read(name))
        return self._shared[name]

    def _constants(self, weight: FloatArray) -> tuple[Node, Node | None]:
        """fp32: the weight. int8: values ``[out, in / group, group]`` and scales ``[out, in / group, 1]``."""
        if self._precision == "fp32":
            return _constant(weight), None
        rows, columns = weight.shape
        grouped = weight.reshape(rows, -1, GROUP_SIZE if columns % GROUP_SIZE == 0 else columns)
        scale = np.maximum(np.abs(grouped).max(axis=2, keepdims=True) / 127.0, np.finfo(np.float32).tiny)
        return _constant(np.rint(grouped / scale).astype(np.int8), np.int8), _constant(scale)

    def _dequantised(self, values: Node, scale: Node | None) -> Node:
        if scale is None:
            return values
        rows, groups, group = values.output(0).get_shape()
        grouped = ops.multiply(ops.convert(values, ov.Type.f32), scale)
        return ops.reshape(grouped, _constant([rows, groups * group], np.int64), False)


def _parameter(name: str, shape: list[int], kind: ov.Type) -> Node:
    parameter = ops.parameter(ov.PartialShape(shape), kind, name)
    parameter.output(0).get_tensor().set_names({name})
    return parameter


def _constant(value: Any, dtype: Any = np.float32) -> Node:
    # np.array, not ascontiguousarray: the latter would turn a scalar into a vector.
    return ops.constant(np.array(value, dtype, order="C"))


def _split(x: Node, axis: int, sizes: list[int]) -> list[Node]:
    split = ops.variadic_split(x, _constant(axis, np.int64), _constant(sizes, np.int64))
    return [split.output(number) for number in range(len(sizes))]
