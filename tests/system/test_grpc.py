"""The gRPC door before a real Triton: our generation model, somebody else's text model, one without text, one with
state. The clients are the unchanged tritonclient."""

from __future__ import annotations

import asyncio
import json
import queue
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from deploy.local import stack as local

from .conftest import INT8_REPOSITORY, backend_metric, free_ports, make_stack

MODELS = Path(__file__).parent / "models"
POLICY = "version: grpc\nlists: [{name: out, words: [secret plan], apply: [output]}, {name: in, words: [bad word]}]\n"
FINAL = "triton_final_response"


@pytest.fixture(scope="module")
def two_doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[local.Stack, str]]:
    """Triton with four models and a gateway with a gRPC door; its address."""
    folder = tmp_path_factory.mktemp("grpc")
    repository = folder / "repository"
    repository.mkdir()
    for model in (*MODELS.iterdir(), INT8_REPOSITORY / "generate"):
        (repository / model.name).symlink_to(model.resolve(), target_is_directory=True)
    policy = folder / "policy.yaml"
    policy.write_text(POLICY, encoding="utf-8")
    (port,) = free_ports(1)
    stack = make_stack(repository, folder / "run")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TIDEGATE_POLICY_FILE", str(policy))
        environment.setenv("TIDEGATE_GRPC_PORT", str(port))
        try:
            local.start(stack)
            yield stack, f"127.0.0.1:{port}"
        finally:
            local.stop(stack)


@pytest.fixture(scope="module")
def headers(two_doors: tuple[local.Stack, str]) -> dict[str, str]:
    """Metadata of a token with every scope."""
    return {"authorization": f"Bearer {two_doors[0].token('generate models:read admin')}"}


@pytest.fixture
def client(two_doors: tuple[local.Stack, str]) -> Iterator[Any]:
    """The synchronous client at the gRPC door."""
    with triton.InferenceServerClient(two_doors[1]) as each:
        yield each


def tensor(name: str, kind: str, values: Any, module: Any = triton) -> Any:
    """An input."""
    kinds = {"BYTES": object, "FP32": np.float32, "INT32": np.int32}
    array = np.array(values, dtype=kinds[kind])
    made = module.InferInput(name, list(array.shape), kind)
    made.set_data_from_numpy(array)
    return made


def prompt(text: str, tokens: int, module: Any = triton) -> list[Any]:
    """Inputs of the generation model, greedy."""
    return [
        tensor("text_input", "BYTES", [[text.encode()]], module),
        tensor("max_tokens", "INT32", [[tokens]], module),
    ]


def streamed(client: Any, headers: dict[str, str], requests: list[dict[str, Any]]) -> list[Any]:
    """Results and errors of requests on one stream, in the order they came."""
    found: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: found.put(error if error is not None else result), headers=headers)
    for request in requests:
        client.async_stream_infer(**request)
    client.stop_stream()
    return [found.get_nowait() for _ in range(found.qsize())]


def test_one_text_by_every_way(two_doors: tuple[local.Stack, str], client: Any, headers: dict[str, str]) -> None:
    """HTTP, a unary call and a stream say the same; only the last response is final and has a reason."""
    text, body = "The capital of France is", {"text_input": "The capital of France is", "max_tokens": 12}
    with httpx.Client(base_url=two_doors[0].url, headers=headers, timeout=60) as http:
        wanted = http.post("/generate", json=body).json()
    answer = client.infer("generate", prompt(text, 12), headers=headers)
    assert answer.as_numpy("text_output")[0, 0].decode() == wanted["text_output"]
    assert answer.as_numpy("completion_tokens")[0, 0] == wanted["usage"]["completion_tokens"]
    results = streamed(client, headers, [{"model_name": "generate", "inputs": prompt(text, 12), "request_id": "r"}])
    assert b"".join(each.as_numpy("text_output")[0, 0] for each in results).decode() == wanted["text_output"]
    finals = [each.get_response().parameters[FINAL].bool_param for each in results]
    assert finals == [False] * (len(results) - 1) + [True]
    assert results[-1].as_numpy("finish_reason")[0, 0].decode() == wanted["finish_reason"]


def test_triton_does_not_see_what_may_not_be_asked(client: Any, headers: dict[str, str]) -> None:
    """And what it must not say does not get out, over however many responses."""
    with pytest.raises(InferenceServerException, match="policy"):
        client.infer("generate", prompt("a bad word", 4), headers=headers)
    said = {"model_name": "talker", "inputs": [tensor("text_input", "BYTES", [b"the secret plan is this", b"x"])]}
    results = streamed(client, headers, [said])
    texts = [b"".join(each.as_numpy("text_output")[place] for each in results) for place in (0, 1)]
    assert texts == [b"the ", b"x"]
    assert results[-1].get_response().parameters["tidegate_finish_reason"].string_param == "content_filter"


def test_somebody_elses_text_model_streams(client: Any, headers: dict[str, str]) -> None:
    """With and without the empty last response that its client may ask for."""
    for wanted in (False, True):
        request = {"model_name": "talker", "inputs": [tensor("text_input", "BYTES", [b"one secret", "二".encode()])]}
        results = streamed(client, headers, [{**request, "enable_empty_final_response": wanted, "request_id": "t"}])
        texts = [each.as_numpy("text_output") for each in results if each.get_response().outputs]
        assert b"".join(each[0] for each in texts) == b"one secret"
        assert b"".join(each[1] for each in texts).decode() == "二"
        assert results[-1].get_response().parameters[FINAL].bool_param == wanted
        assert bool(results[-1].get_response().outputs) == (not wanted)


def test_models_without_text(client: Any, headers: dict[str, str]) -> None:
    """Numbers in both ways; Triton's own words about a request that does not fit; sequences in order, piped."""
    answer = client.infer("scale", [tensor("values", "FP32", [[1.0, 2.5]])], headers=headers)
    assert answer.as_numpy("doubled").tolist() == [[2.0, 5.0]]
    with pytest.raises(InferenceServerException, match="expects 'FP32'") as caught:
        client.infer("scale", [tensor("values", "INT32", [[1]])], headers=headers)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    requests = [
        {
            "model_name": "tally",
            "inputs": [tensor("value", "INT32", [number])],
            "request_id": f"{sequence}-{number}",
            "sequence_id": sequence,
            "sequence_start": number == 1,
            "sequence_end": number == 20,
        }
        for number in range(1, 21)
        for sequence in (7, 8)
    ]
    results = streamed(
        client, headers, [*requests, {"model_name": "scale", "inputs": [tensor("value", "FP32", [[1.0]])]}]
    )
    (error,) = [each for each in results if isinstance(each, InferenceServerException)]
    assert "invalid_request: unexpected inference input 'value'" in str(error)
    results.remove(error)
    sums = {each.get_response().id: int(each.as_numpy("sum")[0]) for each in results}
    assert sums == {f"{s}-{number}": number * (number + 1) // 2 for number in range(1, 21) for s in (7, 8)}


def test_an_admin_rules_over_triton(two_doors: tuple[local.Stack, str], client: Any, headers: dict[str, str]) -> None:
    """Statistics, loading and unloading, with their scopes; without, nothing."""
    assert client.get_inference_statistics("scale", headers=headers).model_stats[0].name == "scale"
    assert {each.name for each in client.get_model_repository_index(headers=headers).models} >= {"generate", "scale"}
    client.unload_model("scale", headers=headers)
    ends = time.monotonic() + 20
    while client.is_model_ready("scale"):
        assert time.monotonic() < ends
        time.sleep(0.05)
    with pytest.raises(InferenceServerException) as caught:
        client.infer("scale", [tensor("values", "FP32", [[1.0]])], headers=headers)
    assert caught.value.status() in ("StatusCode.NOT_FOUND", "StatusCode.UNAVAILABLE")
    client.load_model("scale", headers=headers)
    assert client.is_model_ready("scale")
    poor = {"authorization": f"Bearer {two_doors[0].token('generate')}"}
    with pytest.raises(InferenceServerException) as caught:
        client.unload_model("scale", headers=poor)
    assert caught.value.status() == "StatusCode.PERMISSION_DENIED"
    assert client.is_model_ready("scale")


async def test_whoever_leaves_frees_their_place(two_doors: tuple[local.Stack, str], headers: dict[str, str]) -> None:
    """The backend counts the request as cancelled, on a stream and on a unary call."""
    stack, address = two_doors
    async with triton_aio.InferenceServerClient(address) as client:

        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": "generate", "inputs": prompt("Tell me everything", 1500, triton_aio)}

        for unary in (False, True):
            before = backend_metric(stack, "tidegate_backend_cancelled_total")
            if unary:
                task = asyncio.create_task(
                    client.infer("generate", prompt("Tell me everything", 1500, triton_aio), headers=headers)
                )
                await asyncio.sleep(0.5)
                task.cancel()
            else:
                responses = client.stream_infer(requests(), headers=headers)
                async for _, error in responses:
                    assert error is None
                    responses.cancel()
                    break
            ends = time.monotonic() + 5
            while backend_metric(stack, "tidegate_backend_cancelled_total") == before:
                assert time.monotonic() < ends, json.dumps({"unary": unary})
                await asyncio.sleep(0.02)
    ends = time.monotonic() + 5
    while backend_metric(stack, "tidegate_backend_running_sequences"):
        assert time.monotonic() < ends
        await asyncio.sleep(0.02)
