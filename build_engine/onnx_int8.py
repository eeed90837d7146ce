"""int8 in an ONNX graph: explicit Q/DQ, symmetric, a scale for each output of a weight and one for an activation."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from build_engine.onnx_graph import GraphWriter
from build_engine.smooth import LEAST, LEVELS, int8_rows

ZERO = "int8_zero"


class Int8Writer(GraphWriter):
    """A graph with int8 in it; scales have the graph's own type."""

    def _through_int8(self, x: str, scale_name: str, largest: float) -> str:
        """``x``, of this largest magnitude, rounded to int8 and back."""
        scale = self._scale(scale_name, np.array(max(largest, LEAST) / LEVELS))
        self._initialisers[ZERO] = helper.make_tensor(ZERO, TensorProto.INT8, [], [0])
        values = self._node("QuantizeLinear", [x, scale, ZERO])
        return self._node("DequantizeLinear", [values, scale, ZERO])

    def _int8_weight(self, name: str) -> str:
        """``[in, out]``, dequantised."""
        values, scale = int8_rows(self._read(name))
        stored = f"{name}_int8"
        self._initialisers[stored] = self._weights.add(stored, np.ascontiguousarray(values.T))
        return self._node("DequantizeLinear", [stored, self._scale(f"{name}_scale", scale)], axis=1)

    def _scale(self, name: str, values: Any) -> str:
        self._initialisers[name] = self._weights.add(name, np.asarray(values, self._dtype))
        return name
