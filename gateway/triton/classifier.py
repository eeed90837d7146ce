"""How a classifier in the same Triton is asked: one text in, a score for every label out.

The contract: input ``text`` BYTES ``[1, 1]``, output ``scores`` FP32 ``[1, labels]``; the labels' names stand in the
model's parameter ``labels``, a JSON list, in order.
"""

from __future__ import annotations

import json
import struct

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from gateway.errors import UpstreamError
from gateway.triton.channel import open_channel
from gateway.triton.translate import from_status


class TritonClassifier:
    """Asks Triton at ``url`` (host:port), over a channel that is opened by the first question. Labels are read once a
    model."""

    def __init__(self, url: str, ca: bytes | None = None) -> None:
        self._url, self._ca = url, ca
        self._channel: grpc.aio.Channel | None = None
        self._labels: dict[str, list[str]] = {}

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()

    def _stub(self) -> service_pb2_grpc.GRPCInferenceServiceStub:
        if self._channel is None:
            self._channel = open_channel(self._url, self._ca)
        return service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def classify(self, model: str, text: str) -> dict[str, float]:
        """The score of every label of ``model``. Raises :class:`gateway.errors.GatewayError`."""
        try:
            labels = self._labels.get(model) or await self._read_labels(model)
            response = await self._stub().ModelInfer(_request(model, text))
        except grpc.RpcError as error:
            self._labels.pop(model, None)
            raise from_status(error) from None
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=False):
            if output.name == "scores" and len(raw) == 4 * len(labels):
                return dict(zip(labels, np.frombuffer(raw, "<f4").tolist(), strict=True))
        raise UpstreamError(f"the model '{model}' did not answer with a score for each of its labels")

    async def _read_labels(self, model: str) -> list[str]:
        config = await self._stub().ModelConfig(pb.ModelConfigRequest(name=model))
        try:
            labels = json.loads(config.config.parameters["labels"].string_value)
        except ValueError:
            labels = None
        if not isinstance(labels, list) or not labels:
            raise UpstreamError(f"the model '{model}' does not name its labels in its parameter 'labels'")
        self._labels[model] = [str(label) for label in labels]
        return self._labels[model]


def _request(model: str, text: str) -> pb.ModelInferRequest:
    encoded = text.encode("utf-8", "replace")
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="text", datatype="BYTES", shape=[1, 1])
    request.outputs.add(name="scores")
    request.raw_input_contents.append(struct.pack("<I", len(encoded)) + encoded)
    return request
