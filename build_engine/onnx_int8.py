"""int8 in an ONNX graph: explicit Q/DQ, symmetric, a scale for each output of a weight and one for an activation."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from build_engine.errors import UnsupportedModel
from build_engine.onnx_graph import GraphWriter
from build_engine.smooth import LEAST, int8_rows, int8_steps

ZERO = "int8_zero"


class Int8Writer(GraphWriter):
    """A graph with int8 in it; scales have the graph's own type."""

    def _through_int8(self, x: str, scale_name: str, largest: float) -> str:
        """``x``, of this largest magnitude, rounded to int8 and back. Raises :class:`UnsupportedModel` as
        :meth:`_int8_weight` does."""
        scale = self._scale(scale_name, int8_steps(np.maximum(np.float32(largest), np.float32(LEAST)), self._dtype))
        self._initialisers[ZERO] = helper.make_tensor(ZERO, TensorProto.INT8, [], [0])
        values = self._node("QuantizeLinear", [x, scale, ZERO])
        return self._node("DequantizeLinear", [values, scale, ZERO])

    def _int8_weight(self, name: str) -> str:
        """``[in, out]``, dequantised. Raises :class:`UnsupportedModel` naming the tensor whose scale is no number in
        the graph's type."""
        values, scale = int8_rows(self._read(name), self._dtype)
        stored = f"{name}_int8"
        self._initialisers[stored] = self._weights.add(stored, np.ascontiguousarray(values.T))
        return self._node("DequantizeLinear", [stored, self._scale(f"{name}_scale", scale)], axis=1)

    def _scale(self, name: str, values: Any) -> str:
        if not np.isfinite(values).all():
            kind = np.dtype(self._dtype).name
            raise UnsupportedModel(f"{name} is no finite number in {kind}: beyond what int8 can scale there")
        self._initialisers[name] = self._weights.add(name, np.asarray(values))
        return name
