"""The ONNX decoder with int8 projections, and the one that tells what its projections are fed with.

Quantisation is explicit (``QuantizeLinear`` and ``DequantizeLinear`` stand in the graph) and symmetric, with a scale
for each output of a weight and one for an activation: a strongly typed TensorRT network has nothing left to decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnx import TensorProto, helper

from build_engine.decoder import Linear
from build_engine.emit_onnx import OnnxEmitter
from build_engine.onnx_int8 import Int8Writer


@dataclass(frozen=True)
class Int8Plan:
    """How projections are stored, by the name of their weight; what is not named keeps the graph's own type.

    ``activations``: int8 weight and int8 input; the value is the largest magnitude of that input. ``weight_only``: int8
    weight, the input as it is.
    """

    activations: Mapping[str, float] = field(default_factory=dict)
    weight_only: frozenset[str] = frozenset()


class Int8Emitter(Int8Writer, OnnxEmitter):
    """Projections as an :class:`Int8Plan` says."""

    def __init__(self, plan: Int8Plan, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._plan = plan
        self._quantised: dict[tuple[str, float], str] = {}

    def linear(self, x: str, projection: Linear) -> str:
        """One matrix product, of int8 where the plan says so."""
        name = projection.weight
        if name not in self._plan.activations and name not in self._plan.weight_only:
            return super().linear(x, projection)
        if name in self._plan.activations:
            x = self._rounded(x, name, self._plan.activations[name])
        product = self._node("MatMul", [x, self._int8_weight(name)])
        return product if projection.bias is None else self._node("Add", [product, self._weight(projection.bias)])

    def _rounded(self, x: str, reader: str, largest: float) -> str:
        """``x`` through int8 and back; once for all projections that read it with the same scale, which is named after
        the first of them."""
        if (x, largest) not in self._quantised:
            self._quantised[x, largest] = self._through_int8(x, f"{reader}_input_scale", largest)
        return self._quantised[x, largest]


class SwitchingEmitter(Int8Emitter):
    """The inputs of projections go through int8 one by one, where the graph's input ``enabled`` bool ``[switches]``
    says so; a switch is an activation, in the order they are met. ``logits`` of every token: ``[B * T, vocab]``.
    """

    def __init__(self, plan: Int8Plan, *arguments: Any) -> None:
        super().__init__(Int8Plan(), *arguments)
        self._largest = plan.activations
        self._switched: dict[str, str] = {}
        self._inputs.append(helper.make_tensor_value_info("enabled", TensorProto.BOOL, ["switches"]))
        self._outputs[0] = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", self._config.vocab_size])

    def linear(self, x: str, projection: Linear) -> str:
        """The product of ``x``, rounded or not."""
        if x not in self._switched:
            switch = self._node("Gather", ["enabled", self._scalar(len(self._switched))])
            rounded = self._rounded(x, projection.weight, self._largest[projection.weight])
            self._switched[x] = self._node("Where", [switch, rounded, x])
        return super().linear(self._switched[x], projection)

    def sampled_rows(self, x: str) -> str:
        """All of them."""
        return x

    def logits(self, x: str, weight: str) -> None:
        """Output ``logits``."""
        rows = self._node("Reshape", [x, self._integers([-1, self._config.hidden_size])])
        self._node("Gemm", [rows, self._weight(weight)], "logits", transB=1)


class ObservingEmitter(OnnxEmitter):
    """Two more outputs for each activation that enters a projection, NAME being the first weight that reads it:
    ``largest:NAME`` float32 ``[channels]``, and ``sample:NAME`` ``[B, tokens / sample_step, channels]``.
    """

    def __init__(self, sample_step: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._sample_step = sample_step
        self._observed: set[str] = set()

    def linear(self, x: str, projection: Linear) -> str:
        """The product, and a look at ``x`` when nobody has looked yet."""
        if x not in self._observed:
            self._observed.add(x)
            magnitudes = self._node("Abs", [x])
            axes, channels = self._integers([0, 1]), f"channels:{projection.weight}"
            self._node("ReduceMax", [magnitudes, axes], f"largest:{projection.weight}", keepdims=0)
            slicing = [self._integers([0]), self._integers([2**31]), self._integers([1])]
            step = self._integers([self._sample_step])
            self._node("Slice", [x, *slicing, step], f"sample:{projection.weight}")
            for name, shape in (
                (f"largest:{projection.weight}", [channels]),
                (f"sample:{projection.weight}", ["batch", f"lines:{projection.weight}", channels]),
            ):
                self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return super().linear(x, projection)
