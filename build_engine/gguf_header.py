"""The header of a GGUF file, walked before anybody believes it.

The gguf package takes every count and length at its word: one wrong byte in the length of an array can make it loop
over 2^48 numbers that are not there. Layout: the GGUF specification, version 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path

from build_engine.errors import CorruptSource

WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9
MOST_DIMENSIONS = 4
MOST_WEIGHTS_A_BYTE = 8


def check_header(path: Path) -> None:
    """Raise :class:`CorruptSource` unless metadata and tensor descriptions lie whole inside the file at ``path``."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _walk(data)
    except (ValueError, struct.error) as error:
        raise CorruptSource(f"{path} is not a readable GGUF file, or it is truncated: {error}") from None


def _walk(data: mmap.mmap) -> None:
    magic, version, tensors, pairs = struct.unpack_from("<4sIQQ", data)
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError("it does not begin with GGUF and version 2 or 3, little-endian")
    at = 24
    for _ in range(pairs):
        at = _value(data, _string(data, at) + 4, *struct.unpack_from("<I", data, _string(data, at)))
    for _ in range(tensors):
        at = _tensor(data, _string(data, at))


def _string(data: mmap.mmap, at: int) -> int:
    """Where the string that begins at ``at`` ends."""
    (size,) = struct.unpack_from("<Q", data, at)
    return _inside(data, at + 8 + size)


def _value(data: mmap.mmap, at: int, kind: int) -> int:
    """Where the metadata value that begins at ``at`` ends."""
    if kind == STRING:
        return _string(data, at)
    if kind == ARRAY:
        of, size = struct.unpack_from("<IQ", data, at)
        if of != STRING:
            return _inside(data, at + 12 + size * _width(of))
        at += 12
        for _ in range(size):
            at = _string(data, at)
        return at
    return _inside(data, at + _width(kind))


def _tensor(data: mmap.mmap, at: int) -> int:
    """Where the tensor description whose name ends at ``at`` ends."""
    (rank,) = struct.unpack_from("<I", data, at)
    if not 1 <= rank <= MOST_DIMENSIONS:
        raise ValueError(f"a tensor of {rank} dimensions")
    sizes = struct.unpack_from(f"<{rank}Q", data, at + 4)
    if not 0 < math.prod(sizes) <= MOST_WEIGHTS_A_BYTE * len(data):
        raise ValueError(f"a tensor of shape {list(sizes)} in {len(data)} bytes")
    return _inside(data, at + 4 + 8 * rank + 12)


def _width(kind: int) -> int:
    if kind not in WIDTHS:
        raise ValueError(f"a value of the unknown type {kind}")
    return WIDTHS[kind]


def _inside(data: mmap.mmap, end: int) -> int:
    if end > len(data):
        raise ValueError(f"something ends at byte {end} of {len(data)}")
    return end
