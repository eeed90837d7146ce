"""The fp32 builds, paged OpenVINO and slots on ONNX Runtime, say letter by letter what the reference says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton

from deploy.local import stack as local

from .conftest import FP32_REPOSITORY, ONNX_REPOSITORY, make_stack

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "smollm2.json").read_text())


REPOSITORIES = {"model-fp32": FP32_REPOSITORY, "model-onnx": ONNX_REPOSITORY}


@pytest.fixture(scope="module", params=REPOSITORIES)
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The gRPC address of a Triton that serves an fp32 build."""
    repository = REPOSITORIES[request.param]
    assert (repository / "generate").is_dir(), f"build it first: make {request.param}"
    stack = make_stack(repository, tmp_path_factory.mktemp(request.param))
    try:
        local.start(stack)
        yield f"127.0.0.1:{stack.ports.grpc}"
    finally:
        local.stop(stack)


async def complete(client: triton.InferenceServerClient, prompt: str, max_tokens: int) -> str:
    """The greedy completion, from an unchanged Triton client."""

    def tensor(name: str, kind: str, value: Any, dtype: type) -> triton.InferInput:
        data = triton.InferInput(name, [1, 1], kind)
        return data.set_data_from_numpy(np.array([[value]], dtype))

    inputs = [
        tensor("text_input", "BYTES", prompt.encode(), object),
        tensor("max_tokens", "INT32", max_tokens, np.int32),
        tensor("add_special_tokens", "BOOL", False, bool),
    ]

    async def request() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": "generate", "inputs": inputs}

    text = b""
    async for result, error in client.stream_infer(request()):
        assert error is None, error
        text += result.as_numpy("text_output").item()
    return text.decode()


@pytest.mark.parametrize("at_once", [1, 16])
async def test_greedy_text_equals_the_reference(address: str, at_once: int) -> None:
    """All 16 prompts, one after another and in one batch, for 48 tokens."""
    gate = asyncio.Semaphore(at_once)
    async with triton.InferenceServerClient(address) as client:

        async def one(case: dict[str, Any]) -> str:
            async with gate:
                return await complete(client, case["prompt"], GOLDENS["max_tokens"])

        texts = await asyncio.gather(*(one(case) for case in GOLDENS["cases"]))
    assert texts == [case["text"] for case in GOLDENS["cases"]]
