"""The dozen calls of the CUDA runtime that an executor needs, through ctypes: no package of its own to pin.

Names and numbers are those of ``cuda_runtime_api.h``. Addresses are integers; sizes are in bytes.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy.typing as npt

from .engine import EngineError

_LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_PROPERTIES_BYTES = 16384  # more than any release's cudaDeviceProp; the name is its first 256 bytes


class Cuda:
    """Device 0 and one stream. Every method raises EngineError with CUDA's own words."""

    def __init__(self) -> None:
        self._library = _load()
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        self._check("cudaSetDevice", 0)
        stream = ctypes.c_void_p()
        self._check("cudaStreamCreate", ctypes.byref(stream))
        self.stream = int(stream.value or 0)

    def device_name(self) -> str:
        """As ``nvidia-smi`` shows it."""
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        self._check("cudaGetDeviceProperties", properties, 0)
        return properties.raw[:256].split(b"\0", 1)[0].decode()

    def compute_capability(self) -> str:
        """For example ``8.9``."""
        return f"{self._attribute(_CAPABILITY_MAJOR)}.{self._attribute(_CAPABILITY_MINOR)}"

    def allocate(self, size: int) -> int:
        """Zeroed device memory; it lives as long as the process."""
        address = ctypes.c_void_p()
        self._check("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(size))
        self._check("cudaMemset", address, 0, ctypes.c_size_t(size))
        return int(address.value or 0)

    def copy_in(self, address: int, values: npt.NDArray[Any]) -> None:
        """``values``, which must be contiguous, to the device, in the stream's order."""
        self._copy(address, values.ctypes.data, values.nbytes, _HOST_TO_DEVICE)

    def copy_out(self, values: npt.NDArray[Any], address: int) -> None:
        """From the device into ``values``, in the stream's order; there after :meth:`wait`."""
        self._copy(values.ctypes.data, address, values.nbytes, _DEVICE_TO_HOST)

    def wait(self) -> None:
        """Until the stream has done all it was given."""
        self._check("cudaStreamSynchronize", ctypes.c_void_p(self.stream))

    def _copy(self, to: int, source: int, size: int, direction: int) -> None:
        addresses = ctypes.c_void_p(to), ctypes.c_void_p(source)
        stream = ctypes.c_void_p(self.stream)
        self._check("cudaMemcpyAsync", *addresses, ctypes.c_size_t(size), direction, stream)

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._check("cudaDeviceGetAttribute", ctypes.byref(value), number, 0)
        return value.value

    def _check(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            text = self._library.cudaGetErrorString(status)
            raise EngineError(f"{function}: {text.decode()} (CUDA error {status})")


def _load() -> ctypes.CDLL:
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise EngineError(f"no GPU can be used here: none of {', '.join(_LIBRARIES)} can be loaded")
