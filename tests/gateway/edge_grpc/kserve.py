"""A small Triton with more than one model, and what speaks to the door before it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import model_config_pb2, service_pb2_grpc
from tritonclient.grpc import service_pb2 as pb

from ..conftest import Served, free_port, good_token, serve
from ..fake_triton import FakeTriton

FINAL = "triton_final_response"
EMPTY_FINAL = "triton_enable_empty_final_response"
SHAPES: dict[str, tuple[str, str, bool]] = {
    "numbers": ("values:TYPE_FP32", "doubled:TYPE_FP32", False),
    "letters": ("text_input:TYPE_STRING", "text_output:TYPE_STRING", True),
    "echo": ("text_input:TYPE_STRING", "text_output:TYPE_STRING", False),
    "pictures": ("picture:TYPE_STRING", "picture:TYPE_STRING", False),
}
"""Model: input, output, decoupled. ``generate`` is the generation model of :class:`FakeTriton`."""


class KServeTriton(FakeTriton):
    """``generate``, and ``numbers`` (doubles; a negative first number is never answered), ``letters`` (says each text
    of its batch again, letter by letter, with an empty end), ``echo`` and ``pictures`` (say all at once;
    ``swell`` makes 5,000 letters, ``garble`` what is no text)."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []
        self.controlled: list[str] = []
        self.remaining: list[float] = []
        """Seconds that a question about the server, or whether a model is ready, still had when it came."""
        self.open_streams = 0

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """Whether the model is loaded."""
        self.remaining.append(context.time_remaining())
        return await super().ModelReady(request, context)

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """Of each model."""
        if request.name == "generate":
            return await super().ModelConfig(request, context)
        if request.name not in SHAPES:
            await context.abort(grpc.StatusCode.NOT_FOUND, "Request for unknown model: is not found")
        given, answered, decoupled = SHAPES[request.name]
        response = pb.ModelConfigResponse()
        for tensors, (name, kind) in (
            (response.config.input, given.split(":")),
            (response.config.output, answered.split(":")),
        ):
            tensors.add(name=name, data_type=getattr(model_config_pb2, kind), dims=[-1])
        response.config.model_transaction_policy.decoupled = decoupled
        return response

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """One response."""
        self.asked.append(request)
        if (wrong := _wrong(request)) is not None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, wrong)
        if _hangs(request):
            await self._hang()
        return _response(request, _raw(request), final=True)

    async def ModelStreamInfer(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Each request of a stream after the other."""
        self.open_streams += 1
        try:
            async for request in request_iterator:
                self.asked.append(request)
                async for response in self._responses(request, context):
                    yield response
        except (asyncio.CancelledError, GeneratorExit):  # while it waits, or while it sends
            self.cancelled.set()
            raise
        finally:
            self.open_streams -= 1

    async def _responses(self, request: Any, context: Any) -> AsyncIterator[Any]:
        if request.model_name == "generate":
            tensors = {each.name: raw for each, raw in zip(request.inputs, request.raw_input_contents, strict=True)}
            self.requests.append(tensors)
            async for message in self._said(tensors, context):
                message.infer_response.id = request.id
                yield message
        elif (wrong := _wrong(request)) is not None:
            yield pb.ModelStreamInferResponse(error_message=wrong, infer_response=pb.ModelInferResponse(id=request.id))
        elif request.model_name == "letters":
            texts = texts_of(_raw(request))
            for place in range(max(map(len, texts), default=0)):
                pieces = [text[place : place + 1] for text in texts]
                yield pb.ModelStreamInferResponse(infer_response=_response(request, bytes_of(*pieces), final=False))
                await asyncio.sleep(0.001)
            if "hang" in texts:
                await self._hang()
            yield pb.ModelStreamInferResponse(infer_response=_response(request, None, final=True))
        elif _hangs(request):
            await self._hang()
        elif _raw(request)[4:] == b"swell":
            yield pb.ModelStreamInferResponse(infer_response=_response(request, bytes_of("a" * 5000), final=True))
        elif _raw(request)[4:] == b"garble":
            yield pb.ModelStreamInferResponse(infer_response=_response(request, bytes_of(b"\xff"), final=True))
        else:
            yield pb.ModelStreamInferResponse(infer_response=_response(request, _raw(request), final=True))

    async def _hang(self) -> None:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """Who this is."""
        self.remaining.append(context.time_remaining())
        return pb.ServerMetadataResponse(name="fake", version="2")

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """Of a model."""
        return pb.ModelMetadataResponse(name=request.name, versions=["7"], platform="fake")

    async def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """Of a model."""
        response = pb.ModelStatisticsResponse()
        response.model_stats.add(name=request.name, version="7")
        return response

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """Every model."""
        response = pb.RepositoryIndexResponse()
        for name in ("generate", *SHAPES):
            response.models.add(name=name, version="7", state="READY")
        return response


def _controlled(method: str, kind: type[Any]) -> Any:
    async def answer(self: KServeTriton, request: Any, context: Any) -> Any:
        self.controlled.append(method)
        return kind()

    return answer


ADMIN = {
    "RepositoryModelLoad": pb.RepositoryModelLoadResponse,
    "RepositoryModelUnload": pb.RepositoryModelUnloadResponse,
    "SystemSharedMemoryStatus": pb.SystemSharedMemoryStatusResponse,
    "SystemSharedMemoryRegister": pb.SystemSharedMemoryRegisterResponse,
    "SystemSharedMemoryUnregister": pb.SystemSharedMemoryUnregisterResponse,
    "CudaSharedMemoryStatus": pb.CudaSharedMemoryStatusResponse,
    "CudaSharedMemoryRegister": pb.CudaSharedMemoryRegisterResponse,
    "CudaSharedMemoryUnregister": pb.CudaSharedMemoryUnregisterResponse,
    "TraceSetting": pb.TraceSettingResponse,
    "LogSettings": pb.LogSettingsResponse,
}
for _method, _kind in ADMIN.items():
    setattr(KServeTriton, _method, _controlled(_method, _kind))


def _wrong(request: Any) -> str | None:
    """What Triton would refuse, in words like its own."""
    name, kind = SHAPES[request.model_name][0].split(":")
    wanted = "BYTES" if kind == "TYPE_STRING" else "FP32"
    if [each.name for each in request.inputs] != [name]:
        return "unexpected inference inputs"
    if request.inputs[0].datatype != wanted:
        return "unexpected data-type"
    if request.raw_input_contents and request.inputs[0].HasField("contents"):
        return "contents field must not be specified when using raw_input_contents"
    if request.outputs and [each.name for each in request.outputs] != [SHAPES[request.model_name][1].split(":")[0]]:
        return "unexpected inference outputs"
    if wanted == "FP32" and (not request.raw_input_contents or len(_raw(request)) % 4):
        return "unexpected explicit tensor data"
    whole = elements_of(_raw(request)) if wanted == "BYTES" else struct.iter_unpack("<f", _raw(request))
    shape = request.inputs[0].shape
    if any(each < 0 for each in shape) or math.prod(shape) != len(list(whole)):
        return "input byte size mismatch"
    return None


def _raw(request: Any) -> bytes:
    if request.raw_input_contents:
        return bytes(request.raw_input_contents[0])
    return bytes_of(*request.inputs[0].contents.bytes_contents) if request.inputs else b""


def _numbers(request: Any) -> tuple[float, ...]:
    raw = _raw(request)
    if request.model_name != "numbers" or len(raw) % 4:
        return ()
    return struct.unpack(f"<{len(raw) // 4}f", raw)


def _hangs(request: Any) -> bool:
    numbers = _numbers(request)
    return bool(numbers) and numbers[0] < 0


def _response(request: Any, raw: bytes | None, *, final: bool) -> Any:
    """``raw`` as the model's one output (numbers doubled); none for the end."""
    response = pb.ModelInferResponse(model_name=request.model_name, model_version="7", id=request.id)
    response.parameters[FINAL].bool_param = final
    if raw is not None:
        name, kind = SHAPES[request.model_name][1].split(":")
        datatype = "BYTES" if kind == "TYPE_STRING" else "FP32"
        if request.model_name == "numbers" and len(raw) % 4 == 0:
            raw = b"".join(struct.pack("<f", 2 * each) for each in _numbers(request))
        shape = list(request.inputs[0].shape) if request.inputs else [0]
        response.outputs.add(name=name, datatype=datatype, shape=shape)
        response.raw_output_contents.append(raw)
    return response


def bytes_of(*texts: str | bytes) -> bytes:
    """A raw BYTES tensor."""
    encoded = [text.encode() if isinstance(text, str) else text for text in texts]
    return b"".join(struct.pack("<I", len(each)) + each for each in encoded)


def elements_of(raw: bytes) -> list[bytes]:
    """Its elements."""
    found, place = [], 0
    while place < len(raw):
        (length,) = struct.unpack_from("<I", raw, place)
        found.append(raw[place + 4 : place + 4 + length])
        place += 4 + length
    return found


def texts_of(raw: bytes) -> list[str]:
    """Its texts."""
    return [each.decode() for each in elements_of(raw)]


def infer(model: str, *values: str | float, id: str = "", **parameters: Any) -> Any:
    """A request: texts, or numbers."""
    request = pb.ModelInferRequest(model_name=model, id=id)
    if values and isinstance(values[0], str):
        name = SHAPES[model][0].split(":")[0] if model in SHAPES else "text_input"
        shape = [1, 1] if model == "generate" else [len(values)]
        request.inputs.add(name=name, datatype="BYTES", shape=shape)
        request.raw_input_contents.append(bytes_of(*values))  # type: ignore[arg-type]
    else:
        request.inputs.add(name="values", datatype="FP32", shape=[1, len(values)])
        request.raw_input_contents.append(struct.pack(f"<{len(values)}f", *values))
    for key, value in parameters.items():
        field = "bool_param" if isinstance(value, bool) else "int64_param" if isinstance(value, int) else "string_param"
        setattr(request.parameters[key], field, value)
    return request


@dataclass
class Kserved:
    """A gateway with both doors, and the Triton behind it."""

    served: Served
    triton: KServeTriton
    address: str

    @contextlib.asynccontextmanager
    async def stub(self) -> AsyncIterator[Any]:
        """The raw stub at the gRPC door."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            yield service_pb2_grpc.GRPCInferenceServiceStub(channel)

    async def talk(self, *requests: Any, metadata: Any = None, **options: Any) -> list[Any]:
        """Every response to ``requests`` on one stream."""
        async with self.stub() as stub:
            call = stub.ModelStreamInfer(metadata=bearer() if metadata is None else metadata, **options)
            for request in requests:
                await call.write(request)
            await call.done_writing()
            return [response async for response in call]


def bearer(scope: str = "generate", **more: str) -> tuple[tuple[str, str], ...]:
    """Metadata of a good token."""
    return (("authorization", f"Bearer {good_token(scope=scope)}"), *more.items())


@contextlib.asynccontextmanager
async def kserve(tmp_path: Path, **settings: object) -> AsyncIterator[Kserved]:
    """A gateway with a gRPC door and these settings."""
    triton, port = KServeTriton(), free_port()
    async with serve(tmp_path, triton, grpc_port=port, **settings) as served:
        yield Kserved(served, triton, f"127.0.0.1:{port}")
