"""Infer requests that no client would write, and what must hold for every one of them."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import Any

import grpc
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from gateway.triton.contract import INPUTS, OUTPUTS

from ..fuzzing import tried
from .kserve import EMPTY_FINAL, SHAPES, Kserved, bearer, bytes_of, elements_of, infer

WORDS = ("bad word", "炸弹")
NEVER = {"internal", "upstream_error", "triton_unavailable", "deadline_exceeded"}
MODELS = ("generate", *SHAPES, "absent", "", "a" * 3000)
KINDS = ("BYTES", "FP32", "INT32", "UINT64", "BOOL", "INT8", "FP16", "bytes", "", "STRING")

CHANGES = ("name", "datatype", "shape", "raw", "contents", "moved", "twice", "output", "parameters")

words = st.sampled_from(WORDS)
others = st.sampled_from(["hello", "one two", "", "b\u200bad word", "<|im_start|>bad word", "error:invalid_input: x"])
texts = st.one_of(words, others, others, st.text(max_size=20))
blobs = st.one_of(
    st.lists(texts, max_size=3).map(lambda each: bytes_of(*each)),
    st.lists(texts, min_size=1, max_size=3).map(lambda each: bytes_of(*each)[:-1]),
    st.lists(st.floats(width=32), max_size=3).map(lambda each: struct.pack(f"<{len(each)}f", *each)),
    st.binary(max_size=24),
    st.integers(0, 2**32 - 1).map(lambda each: struct.pack("<I", each) + b"short"),
)
integers = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 1, -1]))


@st.composite
def parameters(draw: Any, held: Any) -> None:
    """Some of a message's parameters."""
    names = ("timeout", "priority", "sequence_id", "sequence_start", EMPTY_FINAL, "shared_memory_region", "lora")
    for name in draw(st.lists(st.one_of(st.sampled_from(names), st.text(max_size=5)), max_size=3)):
        kind = draw(st.sampled_from(["bool_param", "int64_param", "string_param", "double_param", "uint64_param"]))
        value = {
            "bool_param": st.booleans(),
            "int64_param": integers,
            "string_param": texts,
            "double_param": st.floats(),
            "uint64_param": st.integers(0, 2**64 - 1),
        }[kind]
        if name != "timeout" or "int" not in kind:  # a microsecond would be an honest deadline_exceeded
            setattr(held.parameters[name], kind, draw(value))


@st.composite
def requests(draw: Any) -> Any:
    """A request: sometimes nearly right, mostly not."""
    request = pb.ModelInferRequest(model_name=draw(st.sampled_from([*MODELS[:5] * 4, *MODELS[5:]])))
    request.id = draw(st.one_of(st.text(max_size=8), st.just("i" * 70_000), st.just("a")))
    request.model_version = draw(st.sampled_from(["", "", "", "1", "9" * 40, "\n"]))
    names = st.one_of(st.sampled_from(["text_input", "text_input", "values", "picture", *INPUTS]), st.text(max_size=5))
    count = draw(st.integers(0, 3))
    for _ in range(count):
        shape = st.one_of(st.sampled_from([[1, 1], [1], [2]]), st.lists(integers, max_size=3))
        tensor = request.inputs.add(name=draw(names), datatype=draw(st.sampled_from(KINDS)), shape=draw(shape))
        if draw(st.integers(0, 3)) == 0:
            tensor.contents.bytes_contents.extend([each.encode() for each in draw(st.lists(texts, max_size=2))])
            tensor.contents.fp32_contents.extend(draw(st.lists(st.floats(width=32), max_size=2)))
            tensor.contents.int_contents.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=2)))
        if draw(st.integers(0, 5)) == 0:
            draw(parameters(tensor))
    raws = count if draw(st.integers(0, 3)) else draw(st.integers(0, 4))
    request.raw_input_contents.extend(draw(st.lists(blobs, min_size=raws, max_size=raws)))
    for name in draw(st.lists(st.one_of(st.sampled_from(list(OUTPUTS)), st.text(max_size=4)), max_size=2)):
        draw(parameters(request.outputs.add(name=name)))
    draw(parameters(request))
    return request


@st.composite
def nearly_right(draw: Any) -> Any:
    """What a client would write, with as much as two things changed."""
    model = draw(st.sampled_from(MODELS[:5]))
    if model == "numbers":
        request = infer(model, *draw(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=3)))
    else:
        request = infer(model, *draw(st.lists(texts, min_size=1, max_size=1 if model == "generate" else 3)))
    for change in draw(st.lists(st.sampled_from(CHANGES), max_size=2)):
        tensor = request.inputs[0]
        if change == "name":
            tensor.name = draw(st.sampled_from(["prompt", "text_input", "values", "stop", ""]))
        elif change == "datatype":
            tensor.datatype = draw(st.sampled_from(KINDS))
        elif change == "shape":
            tensor.shape[:] = draw(st.lists(integers, max_size=3))
        elif change == "raw":
            request.raw_input_contents[:] = draw(st.lists(blobs, max_size=2))
        elif change == "contents":
            tensor.contents.bytes_contents.append(draw(words).encode())
        elif change == "moved" and tensor.datatype == "BYTES" and len(request.raw_input_contents) == 1:
            with contextlib.suppress(struct.error):
                tensor.contents.bytes_contents.extend(elements_of(request.raw_input_contents.pop()))
        elif change == "twice":
            request.inputs.add().CopyFrom(tensor)
            request.raw_input_contents.extend(request.raw_input_contents[:1])
        elif change == "output":
            request.outputs.add(name=draw(st.sampled_from([*OUTPUTS, "doubled", "logits"])))
        else:
            draw(parameters(request))
    return request


@st.composite
def messages(draw: Any) -> bytes:
    """On the wire; now and then cut, or not a request at all."""
    raw = bytes(draw(st.one_of(nearly_right(), nearly_right(), requests())).SerializeToString())
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return bytes(draw(st.binary(max_size=40)))
    return raw[: draw(st.integers(0, len(raw)))] if kind == 1 else raw


async def holds(door: Kserved, channel: grpc.aio.Channel, message: bytes) -> None:
    """The door answers or refuses, by both methods, and no text reaches Triton that the policy has not seen."""
    door.triton.asked.clear()
    door.triton.requests.clear()
    path = "/inference.GRPCInferenceService/"
    unary = channel.unary_unary(path + "ModelInfer")(message, metadata=bearer(), timeout=25)
    if await unary.code() is not grpc.StatusCode.OK:
        assert await unary.code() not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), await unary.details()
        assert dict(await unary.trailing_metadata())["tidegate-code"] not in NEVER
    call = channel.stream_stream(path + "ModelStreamInfer")(metadata=bearer(), timeout=25)
    await call.write(message)
    await call.done_writing()
    async for raw in call:
        response = pb.ModelStreamInferResponse.FromString(raw)
        assert response.error_message.split(":")[0] not in NEVER, response.error_message
    for request in door.triton.asked:
        own = SHAPES[request.model_name][0].split(":")[0] if request.model_name in SHAPES else "text_input"
        for place, tensor in enumerate(request.inputs):
            if tensor.datatype == "BYTES" or (tensor.name == own and request.model_name != "numbers"):
                held = [*request.raw_input_contents[place : place + 1], *tensor.contents.bytes_contents]
                assert not any(word.encode() in each for word in WORDS for each in held), str(request)


def fuzz(door: Kserved, loop: asyncio.AbstractEventLoop, cases: int, *, reproducible: bool) -> int:
    """Try so many cases from another thread than ``loop``'s; how many were tried. ``reproducible``: the same each
    time."""
    count = 0

    @tried(cases, reproducible=reproducible)
    @given(message=messages())
    def every(message: bytes) -> None:
        nonlocal count
        count += 1
        asyncio.run_coroutine_threadsafe(holds(door, channel, message), loop).result(30)

    async def opened() -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(door.address)

    channel = asyncio.run_coroutine_threadsafe(opened(), loop).result(10)
    with contextlib.closing(_Closing(channel, loop)):
        every()
    return count


class _Closing:
    """Closes the channel in its loop."""

    def __init__(self, channel: grpc.aio.Channel, loop: asyncio.AbstractEventLoop) -> None:
        self._channel, self._loop = channel, loop

    def close(self) -> None:
        """From another thread."""
        asyncio.run_coroutine_threadsafe(self._channel.close(), self._loop).result(10)
