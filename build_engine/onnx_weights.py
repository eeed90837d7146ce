"""Weights of an ONNX model in one file beside it, written tensor by tensor.

Memory grows with the largest tensor and not with the model: the graph only remembers where a tensor lies. The format
is ONNX's external data (``location``, ``offset``, ``length``), readable by every runtime.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

ALIGNMENT_BYTES = 4096  # a tensor begins on a page, so that a runtime can map it


class ExternalWeights:
    """A context that appends tensors to ``file`` and describes them; the file is whole when the context ends, and
    durable when its version is published."""

    def __init__(self, file: Path) -> None:
        self._path = file
        self._file = file.open("wb")

    def __enter__(self) -> ExternalWeights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, name: str, values: npt.NDArray[Any]) -> onnx.TensorProto:
        """Write ``values`` (float32, float16 or int8, any shape) and return what a graph's initialiser says about
        them. Raises OSError when the disk is full."""
        self._file.seek(-self._file.tell() % ALIGNMENT_BYTES, 1)
        begin = self._file.tell()
        self._file.write(np.ascontiguousarray(values).data)
        tensor = onnx.TensorProto(name=name, dims=values.shape)
        tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entries = {"location": self._path.name, "offset": begin, "length": values.nbytes}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor
