"""Messages of the KServe protocol: parsed, and held to what every request must look like before anything reads it."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from gateway.errors import GatewayError, InvalidField, InvalidRequest, UpstreamError
from gateway.triton.translate import first_line, from_text

Message = TypeVar("Message")
EMPTY_FINAL = "triton_enable_empty_final_response"
FINAL = "triton_final_response"
SHARED_MEMORY = "shared_memory_region"
FINISH = "tidegate_finish_reason"
HARMLESS_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def parsed(kind: type[Message], raw: bytes, unreadable: type[GatewayError] = InvalidRequest) -> Message:
    """``raw`` as ``kind``. Raises ``unreadable``."""
    message: Any = kind()
    try:
        message.ParseFromString(raw)
    except DecodeError:
        raise unreadable(f"the message cannot be read as inference.{kind.__name__}") from None
    result: Message = message
    return result


def uses_shared_memory(request: pb.ModelInferRequest) -> bool:
    """Whether a tensor's bytes are somewhere that only Triton can read."""
    places = [request.parameters, *(each.parameters for each in (*request.inputs, *request.outputs))]
    return any(SHARED_MEMORY in each for each in places)


def require_sound(request: pb.ModelInferRequest) -> None:
    """Each input has its bytes in one place: all in ``raw_input_contents``, or each in its ``contents``. Raises
    :class:`InvalidRequest`."""
    raws = len(request.raw_input_contents)
    if raws and raws != len(request.inputs):
        raise InvalidRequest("raw_input_contents must have one entry for each of inputs", field="raw_input_contents")
    if raws and any(each.HasField("contents") for each in request.inputs):
        raise InvalidRequest("use raw_input_contents or contents, not both", field="raw_input_contents")


def own_timeout(request: pb.ModelInferRequest) -> float | None:
    """The request's own ``timeout`` parameter in seconds (it is in microseconds, as Triton's); None if there is none,
    or 0. Raises :class:`InvalidField` for one that would be ignored."""
    if "timeout" not in request.parameters:
        return None
    parameter = request.parameters["timeout"]
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param") or getattr(parameter, kind) < 0:
        raise InvalidField("timeout: microseconds as a whole number, int64_param or uint64_param", field="timeout")
    return (getattr(parameter, kind) / 1e6) or None


def refusal(message: pb.ModelStreamInferResponse, *, told: bool) -> GatewayError:
    """The error for what Triton says in a stream. Before a model is asked Triton's words are about the request, and are
    passed on; those of the model itself only if ``told``."""
    known = from_text(message.error_message)
    if type(known) is not UpstreamError:
        return known
    if FINAL not in message.infer_response.parameters:
        return InvalidRequest(first_line(message.error_message))
    return UpstreamError(first_line(message.error_message)) if told else known


def failed(error: GatewayError, request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
    """A request's failure inside a stream: the code is the text's first word."""
    message = pb.ModelStreamInferResponse(error_message=f"{error.code}: {error.message}")
    response = message.infer_response
    response.id, response.model_name = request.id, request.model_name
    response.parameters[FINAL].bool_param = True
    response.parameters["tidegate_code"].string_param = error.code
    if error.retry_after_seconds is not None:
        response.parameters["retry_after_seconds"].int64_param = error.retry_after_seconds
    return message
