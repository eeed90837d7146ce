"""A small Triton with real wire behaviour: a real gRPC server that speaks KServe v2 for one generation model.

What it answers is decided by the prompt, so a test says what it wants to happen in the request itself.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from gateway.triton.contract import INPUTS

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('system comes first') }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # it has no types
    """Two models: ``generate``, and the classifier ``moderator``. Say `error:TEXT` for an error in the stream,
    `status:NAME` for a failed call, `hang` to never answer, `slow` to answer once and never again, `late-error:TEXT` to
    fail after the first text, `say-on:TEXT` for the text character by character and then never an end; anything else is
    echoed by word, with each word's logprob for who asks. In a conversation the last message counts."""

    def __init__(self) -> None:
        self.ready = True
        self.only = ""
        """The one model that is known; empty for any."""
        self.parameters = {
            "tidegate_format": "1",
            "chat_template": CHAT_TEMPLATE,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "special_tokens": json.dumps(["<|im_start|>", "<|im_end|>"]),
            "context_length": "2048",
            "labels": json.dumps(["polite", "insult"]),
        }
        self.inputs = set(INPUTS)
        """What the model's configuration lists."""
        self.requests: list[dict[str, bytes]] = []
        self.metadata: list[dict[str, str]] = []
        """Of each request, by key."""
        self.classified: list[str] = []
        self.cancelled = asyncio.Event()

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """Whether the model is loaded."""
        return pb.ModelReadyResponse(ready=self.ready)

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """The parameters."""
        if self.only and request.name != self.only:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        response = pb.ModelConfigResponse()
        if request.name == "moderator":
            response.config.parameters["labels"].string_value = self.parameters["labels"]
            return response
        for name in sorted(self.inputs):
            response.config.input.add(name=name)
        for key, value in self.parameters.items():
            response.config.parameters[key].string_value = value
        return response

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """What is there."""
        response = pb.RepositoryIndexResponse()
        for name in ("moderator", "generate"):
            response.models.add(name=name, version="7", state="READY")
        return response

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """A classifier: ``rude`` in the text is insulting, ``broken`` fails."""
        text = request.raw_input_contents[0][4:].decode()
        self.classified.append(text)
        if "broken" in text:
            await context.abort(grpc.StatusCode.INTERNAL, "as asked")
        score = 0.875 if "rude" in text else 0.125
        response = pb.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name="scores", datatype="FP32", shape=[1, 2])
        response.raw_output_contents.append(struct.pack("<2f", 1 - score, score))
        return response

    async def ModelStreamInfer(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """One request, many responses."""
        request = await anext(aiter(request_iterator))
        tensors = {tensor.name: raw for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)}
        self.requests.append(tensors)
        self.metadata.append(dict(context.invocation_metadata() or ()))
        try:
            async for response in self._said(tensors, context):
                yield response
        except (asyncio.CancelledError, GeneratorExit):  # while it waits, or while it sends
            self.cancelled.set()
            raise

    def _said(self, tensors: dict[str, bytes], context: Any) -> AsyncIterator[Any]:
        spoken = self._spoken(tensors, context)
        return spoken if tensors.get("stream", b"\1") != b"\0" else _whole(spoken)

    async def _spoken(self, tensors: dict[str, bytes], context: Any) -> AsyncIterator[Any]:
        text = tensors["text_input"][4:].decode()
        if text.startswith("<|im_start|>"):
            text = text.rsplit("<|im_end|>", 1)[0].rsplit("<|im_start|>", 1)[1].split("\n", 1)[1]
        ends = 0
        async for response in self._answer(text, context):
            if "logprobs" in tensors and not response.error_message:
                ends = _add_logprobs(response.infer_response, ends, struct.unpack("<i", tensors["logprobs"])[0])
            yield response

    async def _answer(self, text: str, context: Any) -> AsyncIterator[Any]:
        kind, _, argument = text.partition(":")
        if kind == "error":
            yield pb.ModelStreamInferResponse(error_message=argument)
        elif kind == "status":
            await context.abort(grpc.StatusCode[argument], "as asked")
        elif kind == "hang":
            await asyncio.sleep(600)
        elif kind == "slow":
            yield _response("one", "", 1)
            await asyncio.sleep(600)
        elif kind == "late-error":
            yield _response("one ", "", 1)
            yield pb.ModelStreamInferResponse(error_message=argument)
        elif kind == "say-on":
            for number, character in enumerate(argument, 1):
                yield _response(character, "", number)
                await asyncio.sleep(0.001)
            await asyncio.sleep(600)
        elif kind == "endless":
            yield _response("one ", "", 1, final=True)
        else:
            words = text.split(" ")
            for number, word in enumerate(words, 1):
                last = number == len(words)
                yield _response(word if last else f"{word} ", "stop" if last else "", number, final=last)


async def _whole(responses: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """All of them as one, as for a request that does not stream; an error alone."""
    text, rows, last = b"", list[Any](), None
    async for last in responses:
        if last.error_message:
            yield last
            return
        raw = last.infer_response.raw_output_contents
        text += raw[0][4:]
        rows += json.loads(raw[4][4:]) if len(raw) > 4 else []
    assert last is not None
    raw = last.infer_response.raw_output_contents
    raw[0] = struct.pack("<I", len(text)) + text
    if rows:
        raw[4] = _bytes(json.dumps(rows))
    yield last


def _add_logprobs(response: Any, before: int, alternatives: int) -> int:
    """The response's text as one token, and beside it the alternatives that there are: itself, then ``alt1`` and so on,
    the last of them ``bad``. Returns where its text ends."""
    text = response.raw_output_contents[0][4:].decode()
    ends, said = before + len(text), text.encode().decode("latin-1")
    names = [said, *(f"alt{number}" for number in range(1, alternatives - 1)), "bad"][:alternatives]
    row = [ends, said, -0.5, [[each, -0.5 - place] for place, each in enumerate(names)]]
    response.outputs.add(name="token_logprobs", datatype="BYTES", shape=[1, 1])
    response.raw_output_contents.append(_bytes(json.dumps([row])))
    return ends


def _response(text: str, finish_reason: str, completion_tokens: int, *, final: bool = False) -> Any:
    message = pb.ModelStreamInferResponse()
    response = message.infer_response
    response.model_name, response.model_version = "generate", "7"
    values = {
        "text_output": ("BYTES", _bytes(text)),
        "finish_reason": ("BYTES", _bytes(finish_reason)),
        "prompt_tokens": ("INT32", struct.pack("<i", 5)),
        "completion_tokens": ("INT32", struct.pack("<i", completion_tokens)),
    }
    for name, (kind, raw) in values.items():
        response.outputs.add(name=name, datatype=kind, shape=[1, 1])
        response.raw_output_contents.append(raw)
    response.parameters["triton_final_response"].bool_param = final
    return message


def _bytes(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<I", len(encoded)) + encoded
