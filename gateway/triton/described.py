"""What a model in Triton takes and gives, as far as a door has to know: does it speak the builder's contract, does it
stream, and which of its tensors carry text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
from tritonclient.grpc import model_config_pb2, service_pb2_grpc
from tritonclient.grpc import service_pb2 as pb

from gateway.errors import InternalError, ModelNotFound, TritonUnavailable, UpstreamError
from gateway.triton.contract import ContractError, model_info
from gateway.triton.translate import from_status

READ_SECONDS = 5.0
REMEMBERED_SECONDS = 5.0
REMEMBERED = 256


@dataclass(frozen=True)
class Description:
    """``generates``: the builder's contract, so the model is asked through the use case. ``text_inputs`` and
    ``text_outputs`` are the names of the tensors whose text the policy sees. ``every_bytes``: whatever is declared as
    BYTES is text too; false for a model whose text tensors were listed."""

    generates: bool
    decoupled: bool
    text_inputs: frozenset[str]
    text_outputs: frozenset[str]
    every_bytes: bool

    def is_text(self, name: str, datatype: str, names: frozenset[str]) -> bool:
        """Whether a tensor carries text; ``names`` are :attr:`text_inputs` or :attr:`text_outputs`."""
        return name in names or (self.every_bytes and datatype == "BYTES")

    def speaks(self, request: pb.ModelInferRequest) -> bool:
        """Whether text goes in or comes out."""
        if self.text_inputs or self.text_outputs:
            return True
        return any(self.is_text(each.name, each.datatype, self.text_inputs) for each in request.inputs)


class Describer:
    """Reads descriptions over ``channel`` and keeps them for a few seconds. A BYTES tensor counts as text unless
    ``text_tensors`` names the model: then exactly the tensors listed there do."""

    def __init__(self, channel: grpc.aio.Channel, text_tensors: Mapping[str, Sequence[str]]) -> None:
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        self._text_tensors = {model: frozenset(names) for model, names in text_tensors.items()}
        self._known: dict[tuple[str, str], tuple[float, Description]] = {}
        self._reading: dict[tuple[str, str], asyncio.Task[Description]] = {}

    async def describe(self, model: str, version: str = "") -> Description:
        """Of a model's version; "" is the one Triton would take. Raises :class:`ModelNotFound`,
        :class:`TritonUnavailable` or another :class:`gateway.errors.GatewayError`."""
        key = (model, version)
        known = self._known.get(key)
        if known is not None and time.monotonic() <= known[0]:
            return known[1]
        reading = self._reading.get(key)
        if reading is None:  # one question, however many wait for the answer
            reading = self._reading[key] = asyncio.create_task(self._read(model, version))
            reading.add_done_callback(lambda _: self._reading.pop(key, None))
        return await asyncio.shield(reading)

    def forget(self) -> None:
        """A model was loaded or unloaded: ask again."""
        self._known.clear()

    async def _read(self, model: str, version: str) -> Description:
        self._known.pop((model, version), None)
        asked = pb.ModelConfigRequest(name=model, version=version)
        try:
            response = await self._stub.ModelConfig(asked, timeout=READ_SECONDS)
        except grpc.RpcError as error:
            raise _not_described(error) from None
        description = self._description(model, response)
        while len(self._known) >= REMEMBERED:
            self._known.pop(next(iter(self._known)))
        self._known[model, version] = (time.monotonic() + REMEMBERED_SECONDS, description)
        return description

    def _description(self, model: str, response: pb.ModelConfigResponse) -> Description:
        config = response.config
        named = self._text_tensors.get(model)
        return Description(
            generates=_generates(response),
            decoupled=config.model_transaction_policy.decoupled,
            text_inputs=_bytes_tensors(config.input) if named is None else named,
            text_outputs=_bytes_tensors(config.output) if named is None else named,
            every_bytes=named is None,
        )


def _generates(config: pb.ModelConfigResponse) -> bool:
    try:
        model_info(config)
    except ContractError:
        return False
    return True


def _bytes_tensors(
    tensors: Sequence[model_config_pb2.ModelInput] | Sequence[model_config_pb2.ModelOutput],
) -> frozenset[str]:
    return frozenset(each.name for each in tensors if each.data_type == model_config_pb2.TYPE_STRING)


def _not_described(error: grpc.RpcError) -> Exception:
    """Triton says NOT_FOUND, INVALID_ARGUMENT or UNAVAILABLE of a model that is not loaded."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return InternalError()
    if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
        return ModelNotFound(field="model_name")
    if "unknown model" in (error.details() or ""):
        return ModelNotFound(field="model_name")
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TritonUnavailable()
    translated = from_status(error)
    return translated if not isinstance(translated, UpstreamError) else TritonUnavailable()
