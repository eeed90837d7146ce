"""A generation model over KServe: a request's tensors into the use case's Ask, and what it says into responses."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from gateway.answer import Ask, Prompt
from gateway.edge_grpc.calls import Limits
from gateway.edge_grpc.messages import FINAL
from gateway.edge_grpc.texts import elements, packed
from gateway.errors import InvalidField
from gateway.tracing import RequestTrace
from gateway.triton import Delta, TokenLogprob
from gateway.triton.contract import INPUTS, OUTPUTS, Value, logprobs_json

USUAL_TOKENS = 256
LOGPROBS = "token_logprobs"
SEVERAL = frozenset({"stop", "logit_bias_tokens", "logit_bias_values"})
"""Inputs that take more than one element."""
_LAYOUT = {"INT32": "i", "FP32": "f", "UINT64": "Q", "BOOL": "?"}
_CONTENTS = {
    "BYTES": "bytes_contents",
    "INT32": "int_contents",
    "FP32": "fp32_contents",
    "UINT64": "uint64_contents",
    "BOOL": "bool_contents",
}


def ask_of(
    request: pb.ModelInferRequest,
    request_id: str,
    limits: Limits,
    deadline: float,
    accepted: float,
    *,
    trace: RequestTrace | None,
    stream: bool,
) -> Ask:
    """What is asked. ``stream`` is whether the model says its text bit by bit, unless the request says it itself.
    Ranges are the model's to check. Raises :class:`InvalidField` naming the tensor."""
    if request.model_version:
        raise InvalidField("model_version: this gateway chooses the version; leave it out", field="model_version")
    values: dict[str, Value] = {"stream": stream, "max_tokens": min(USUAL_TOKENS, limits.max_tokens)}
    values |= _values(request)
    text, most = values.pop("text_input", None), values["max_tokens"]
    if not isinstance(text, str) or not text:
        raise InvalidField("text_input: required, one text that is not empty", field="text_input")
    if isinstance(most, int) and most > limits.max_tokens:
        raise InvalidField(f"max_tokens: at most {limits.max_tokens} here; ask for fewer", field="max_tokens")
    return Ask(request_id, request.model_name, Prompt(text), values, deadline, accepted, trace=trace)


def _values(request: pb.ModelInferRequest) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for place, tensor in enumerate(request.inputs):
        name = tensor.name
        if name not in INPUTS:
            raise InvalidField(f"inputs[{place}]: this model takes {', '.join(INPUTS)}", field="inputs")
        if name in found:
            raise InvalidField(f"{name}: given twice", field=name)
        if tensor.datatype != INPUTS[name]:
            raise InvalidField(f"{name}: its datatype is {INPUTS[name]}", field=name)
        values = _elements(request, place, INPUTS[name])
        if list(tensor.shape) != [1, len(values)] or (len(values) != 1 and name not in SEVERAL):
            shape = "[1, n] for n values" if name in SEVERAL else "[1, 1]"
            raise InvalidField(f"{name}: its shape is {shape}, and its data as long as that", field=name)
        found[name] = values if name in SEVERAL else values[0]
    return found


def _elements(request: pb.ModelInferRequest, place: int, kind: str) -> list[Any]:
    """The values of an input, of the type that :mod:`gateway.triton.contract` takes."""
    tensor = request.inputs[place]
    try:
        if request.raw_input_contents:
            raw = request.raw_input_contents[place]
            values = elements(raw) if kind == "BYTES" else _unpacked(raw, _LAYOUT[kind])
        else:
            values = list(getattr(tensor.contents, _CONTENTS[kind]))
        if kind == "BYTES":
            return [value.decode() for value in values]
    except (ValueError, struct.error):  # UnicodeDecodeError is a ValueError
        raise InvalidField(f"{tensor.name}: its data is not {kind}, or not UTF-8", field=tensor.name) from None
    if kind == "FP32" and not all(map(math.isfinite, values)):
        raise InvalidField(f"{tensor.name}: must be a finite number", field=tensor.name)
    return values


def _unpacked(raw: bytes, layout: str) -> list[Any]:
    count, rest = divmod(len(raw), struct.calcsize("<" + layout))
    if rest:
        raise ValueError("not a whole number of values")
    return list(struct.unpack(f"<{count}{layout}", raw))


class Answers:
    """Deltas as the responses to one request, with exactly the outputs that it asks for (all of them, if it names
    none). Raises :class:`InvalidField` for an output the model does not have."""

    def __init__(self, request: pb.ModelInferRequest) -> None:
        for place, output in enumerate(request.outputs):
            if output.name not in OUTPUTS or output.parameters:
                raise InvalidField(f"outputs[{place}]: plain {', '.join(OUTPUTS)} there are", field="outputs")
        names = [each.name for each in request.outputs] or list(OUTPUTS)
        self._names = [name for name in names if name != LOGPROBS]
        self._logprobs = LOGPROBS in names
        # What all responses share: a copy of it is a third of the cost of a response made anew.
        self._shared = pb.ModelStreamInferResponse()
        response = self._shared.infer_response
        response.model_name, response.id = request.model_name, request.id
        response.parameters[FINAL].bool_param = False
        for name in self._names:
            response.outputs.add(name=name, datatype=OUTPUTS[name], shape=(1, 1))

    def message(
        self, delta: Delta, text: str, logprobs: Sequence[TokenLogprob], *, final: bool
    ) -> pb.ModelStreamInferResponse:
        """``delta`` with ``text`` as its text and ``logprobs`` as its tokens; without any the tensor is left out, as
        the model does."""
        message = pb.ModelStreamInferResponse()
        message.CopyFrom(self._shared)
        response = message.infer_response
        response.model_version = delta.model_version
        for name in self._names:
            value = text if name == "text_output" else getattr(delta, name)
            if OUTPUTS[name] == "BYTES":
                response.raw_output_contents.append(packed((value.encode(),)))
            else:
                response.raw_output_contents.append(struct.pack("<" + _LAYOUT[OUTPUTS[name]], value))
        if self._logprobs and logprobs:
            response.outputs.add(name=LOGPROBS, datatype=OUTPUTS[LOGPROBS], shape=(1, 1))
            response.raw_output_contents.append(packed((logprobs_json(logprobs).encode(),)))
        if final:
            response.parameters[FINAL].bool_param = True
        return message
