"""The unchanged tritonclient at the gRPC door: synchronous, asyncio, streaming."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from ..conftest import good_token
from .kserve import FINAL, Kserved

HEADERS = {"authorization": f"Bearer {good_token(scope='generate models:read admin')}"}


def text(client: Any, value: str) -> list[Any]:
    """The one input of a generation model."""
    tensor = client.InferInput("text_input", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[value.encode()]], dtype=object))
    return [tensor]


def numbers(client: Any, *values: float) -> list[Any]:
    """The one input of the model without text."""
    tensor = client.InferInput("values", [1, len(values)], "FP32")
    tensor.set_data_from_numpy(np.array([values], dtype=np.float32))
    return [tensor]


def use_synchronously(address: str) -> None:
    """What a user's script does."""
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("generate")
        assert client.get_server_metadata(headers=HEADERS).name == "fake"
        assert client.get_model_metadata("numbers", headers=HEADERS).versions == ["7"]
        assert client.get_model_config("numbers", headers=HEADERS).config.input[0].name == "values"
        assert client.get_inference_statistics("numbers", headers=HEADERS).model_stats[0].name == "numbers"
        assert len(client.get_model_repository_index(headers=HEADERS).models) == 5
        client.load_model("numbers", headers=HEADERS)
        client.unregister_system_shared_memory(headers=HEADERS)
        answer = client.infer("numbers", numbers(triton, 1.0, 2.5), headers=HEADERS, request_id="n-1")
        assert answer.as_numpy("doubled").tolist() == [[2.0, 5.0]]
        assert answer.get_response().id == "n-1"
        answer = client.infer("generate", text(triton, "one two"), headers=HEADERS)
        assert answer.as_numpy("text_output").tolist() == [[b"one two"]]
        with pytest.raises(InferenceServerException) as caught:
            client.infer("generate", text(triton, "bad word"), headers=HEADERS)
        assert caught.value.status() == "StatusCode.PERMISSION_DENIED"
        with pytest.raises(InferenceServerException) as caught:
            client.infer("numbers", numbers(triton, 1.0))
        assert caught.value.status() == "StatusCode.UNAUTHENTICATED"


async def test_the_synchronous_client(door: Kserved) -> None:
    """Every call that it has, in a thread of its own."""
    await asyncio.to_thread(use_synchronously, door.address)
    assert door.triton.controlled == ["RepositoryModelLoad", "SystemSharedMemoryUnregister"]


def stream_synchronously(address: str) -> list[tuple[str, bytes | str]]:
    """Three requests on one stream, answers by callback."""
    found: queue.Queue[tuple[str, bytes | str, bool]] = queue.Queue()

    def callback(result: Any, error: Any) -> None:
        if error is not None:
            found.put(("error", str(error), True))
        else:
            response = result.get_response()
            name = response.outputs[0].name
            value = result.as_numpy(name).flat[0] if response.outputs else b""
            found.put((response.id, value, response.parameters[FINAL].bool_param))

    with triton.InferenceServerClient(address) as client:
        client.start_stream(partial(callback), headers=HEADERS)
        client.async_stream_infer(
            "generate", text(triton, "one two"), request_id="words", enable_empty_final_response=True
        )
        client.async_stream_infer("generate", text(triton, "bad word"), request_id="bad")
        client.async_stream_infer(
            "numbers",
            numbers(triton, 4.0),
            request_id="n",
            sequence_id=3,
            sequence_start=True,
            priority=2,
            timeout=10**6,
        )
        client.stop_stream()
    return [found.get_nowait()[:2] for _ in range(found.qsize())]


async def test_the_synchronous_stream(door: Kserved) -> None:
    """It ends by itself when everything is answered."""
    found = await asyncio.to_thread(stream_synchronously, door.address)
    assert [value for id_, value in found if id_ == "words"] == [b"one ", b"two"]
    assert [value for id_, value in found if id_ == "n"] == [8.0]
    (error,) = [value for id_, value in found if id_ == "error"]
    assert "prompt_rejected: " in str(error)
    assert len(found) == 4


async def test_the_asyncio_client(door: Kserved) -> None:
    """Unary calls and a stream, and leaving it."""
    async with triton_aio.InferenceServerClient(door.address) as client:
        assert await client.is_server_ready()
        answer = await client.infer("numbers", numbers(triton_aio, 3.0), headers=HEADERS)
        assert answer.as_numpy("doubled").tolist() == [[6.0]]

        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": "generate", "inputs": text(triton_aio, "one two three"), "request_id": "w"}
            yield {"model_name": "numbers", "inputs": numbers(triton_aio, 1.0), "request_id": "n"}

        said = []
        async for result, error in client.stream_infer(requests(), headers=HEADERS):
            assert error is None
            said.append((result.get_response().id, result.as_numpy(result.get_response().outputs[0].name).flat[0]))
        assert [value for id_, value in said if id_ == "w"] == [b"one ", b"two ", b"three"]

        async def hanging() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": "generate", "inputs": text(triton_aio, "slow")}

        responses = client.stream_infer(hanging(), headers=HEADERS)
        async for _, error in responses:
            assert error is None
            responses.cancel()
            break
        await asyncio.wait_for(door.triton.cancelled.wait(), 1)
