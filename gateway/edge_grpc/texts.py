"""The text in anybody's tensors: what the policy has to see of a request, and its place to write back to.

A BYTES tensor is a sequence of elements, in ``raw_input_contents`` (each its length as uint32 and its bytes) or in the
tensor's own ``contents``. Elements are texts of their own: each is checked by itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tritonclient.grpc import service_pb2 as pb

from gateway.errors import InvalidField, InvalidRequest
from gateway.triton import Description

MOST_TEXTS = 1024
_LENGTH = struct.Struct("<I")
LENGTH_BYTES = _LENGTH.size


def elements(raw: bytes) -> list[bytes]:
    """The elements of a raw BYTES tensor. Raises ValueError when ``raw`` is not one."""
    found, place = [], 0
    while place < len(raw):
        if place + 4 > len(raw):
            raise ValueError("a length is cut off")
        (length,) = _LENGTH.unpack_from(raw, place)
        place += 4
        if place + length > len(raw):
            raise ValueError("an element is cut off")
        found.append(raw[place : place + length])
        place += length
    return found


def packed(values: Iterable[bytes]) -> bytes:
    """The raw BYTES tensor of ``values``."""
    return b"".join(_LENGTH.pack(len(value)) + value for value in values)


@dataclass(frozen=True)
class _Tensor:
    place: int
    count: int


class RequestTexts:
    """Every text of a request to ``model``: the elements of its text tensors, and all parameters that are strings.
    Raises :class:`InvalidField` for what cannot be read as text, since what cannot be read cannot be checked."""

    def __init__(self, request: pb.ModelInferRequest, model: Description) -> None:
        self._request, self.texts = request, list[str]()
        self._tensors: list[_Tensor] = []
        for place, tensor in enumerate(request.inputs):
            if model.is_text(tensor.name, tensor.datatype, model.text_inputs):
                found = self._elements(place)
                self._tensors.append(_Tensor(place, len(found)))
                self.texts += found
        self._parameters = [
            each
            for held in (request, *request.inputs, *request.outputs)
            for _, each in sorted(held.parameters.items())
            if each.WhichOneof("parameter_choice") == "string_param"
        ]
        self.texts += [each.string_param for each in self._parameters]
        if len(self.texts) > MOST_TEXTS:
            raise InvalidRequest(f"a request may carry at most {MOST_TEXTS} texts; send several")

    def replace(self, texts: Sequence[str]) -> None:
        """Write ``texts``, in the order of :attr:`texts`, into the request."""
        left = iter(texts)
        for tensor in self._tensors:
            values = [next(left).encode() for _ in range(tensor.count)]
            if self._request.raw_input_contents:
                self._request.raw_input_contents[tensor.place] = packed(values)
            else:
                self._request.inputs[tensor.place].contents.bytes_contents[:] = values
        for parameter in self._parameters:
            parameter.string_param = next(left)

    def _elements(self, place: int) -> list[str]:
        try:
            if self._request.raw_input_contents:
                values = elements(self._request.raw_input_contents[place])
            else:
                values = list(self._request.inputs[place].contents.bytes_contents)
            return [value.decode() for value in values]
        except ValueError:  # UnicodeDecodeError is one
            raise InvalidField(
                f"inputs[{place}]: not a BYTES tensor of UTF-8 texts; if this model's bytes are not text, "
                "the gateway's operator names it in TIDEGATE_GRPC_TEXT_TENSORS",
                field="inputs",
            ) from None
