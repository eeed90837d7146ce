"""What every ONNX graph is made of here: nodes, constants, and weights that are read when they are first used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from build_engine.decoder import FloatArray
from build_engine.errors import UnsupportedModel
from build_engine.onnx_weights import ExternalWeights

OPSET, IR_VERSION = 24, 11  # the first with TensorScatter, and what every runtime of that age reads


class GraphWriter:
    """A graph in the making; a tensor is its name in it. ``dtype`` is the type of weights and activations."""

    def __init__(
        self, read: Callable[[str], FloatArray], dtype: type[np.floating[Any]], weights: ExternalWeights
    ) -> None:
        self._read, self._dtype, self._weights = read, dtype, weights
        self._kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._nodes: list[onnx.NodeProto] = []
        self._initialisers: dict[str, onnx.TensorProto] = {}

    def _weight(self, name: str, *, transposed: bool = False) -> str:
        """The initialiser of a tensor, read when it is first used."""
        if name not in self._initialisers:
            values = self._read(name)
            with np.errstate(over="ignore"):
                stored = np.ascontiguousarray(values.T if transposed else values, self._dtype)
            if not np.isfinite([stored.min(), stored.max()]).all():
                raise UnsupportedModel(
                    f"tensor {name} reaches {np.abs(values).max():.3g}, more than fp16 can hold; build it as fp32"
                )
            self._initialisers[name] = self._weights.add(name, stored)
        return name

    def _integers(self, values: list[int]) -> str:
        return self._constant("integers_" + "_".join(map(str, values)), np.array(values, np.int64))

    def _scalar(self, value: int) -> str:
        return self._constant(f"integer_{value}", np.array(value, np.int64))

    def _constant(self, name: str, values: npt.NDArray[np.int64]) -> str:
        if name not in self._initialisers:
            self._initialisers[name] = onnx.numpy_helper.from_array(values, name)
        return name

    def _node(self, kind: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        output = output or f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output
