"""Scopes by model, quotas and API keys at the gRPC door."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from gateway.access.api_keys import ApiKeyLine, new_key, written

from .kserve import FINAL, Kserved, bearer, infer, kserve, texts_of


async def code_of(call: grpc.aio.UnaryUnaryCall) -> str:
    """How a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    return str(dict(await call.trailing_metadata())["tidegate-code"])


def quotas(folder: Path, **limits: int) -> Path:
    """A file of one class."""
    path = folder / "quotas.yaml"
    path.write_text(json.dumps({"default": "all", "classes": {"all": limits}}), encoding="utf-8")
    return path


async def test_a_scope_may_be_for_one_model(door: Kserved) -> None:
    """`generate:MODEL` and `models:read:MODEL`: that one, by every method; no other, and nothing about all of them."""
    metadata = bearer("generate:numbers models:read:numbers")
    async with door.stub() as stub:
        await stub.ModelInfer(infer("numbers", 1.0), metadata=metadata)
        await stub.ModelConfig(pb.ModelConfigRequest(name="numbers"), metadata=metadata)
        for call in (
            stub.ModelInfer(infer("echo", "one"), metadata=metadata),
            stub.ModelConfig(pb.ModelConfigRequest(name="echo"), metadata=metadata),
            stub.ModelStatistics(pb.ModelStatisticsRequest(), metadata=metadata),
            stub.RepositoryIndex(pb.RepositoryIndexRequest(), metadata=metadata),
        ):
            assert await code_of(call) == "insufficient_scope"
    asked = [infer("numbers", 1.0, id="a"), infer("generate", "one", id="b"), infer("letters", "one", id="c")]
    answers = {each.infer_response.id: each.error_message for each in await door.talk(*asked, metadata=metadata)}
    assert answers.pop("a") == ""
    assert {message.split(":")[0] for message in answers.values()} == {"insufficient_scope"}
    assert [each.model_name for each in door.triton.asked] == ["numbers", "numbers"]


async def test_a_generation_stops_where_the_quota_ends(tmp_path: Path) -> None:
    """As over HTTP: at that token, with its reason; then nothing more, with the fields that say when."""
    async with kserve(tmp_path, quota_file=quotas(tmp_path, tokens_per_minute=12)) as door:
        responses = [each.infer_response for each in await door.talk(infer("generate", "say-on:abcdefghijklmnop"))]
        assert "".join(texts_of(each.raw_output_contents[0])[0] for each in responses) == "abcdefg"
        assert texts_of(responses[-1].raw_output_contents[1]) == ["quota"]
        await asyncio.wait_for(door.triton.cancelled.wait(), 1)
        async with door.stub() as stub:
            for request in (infer("generate", "one"), infer("echo", "one"), infer("numbers", 1.0)):
                call = stub.ModelInfer(request, metadata=bearer())
                assert await code_of(call) == "quota_exceeded"
                trailing = dict(await call.trailing_metadata())
                assert int(trailing["retry-after"]) > 50
                assert trailing["ratelimit"].startswith('"tokens_per_minute";r=0')
        (refusal,) = await door.talk(infer("letters", "one"))
        assert refusal.error_message.startswith("quota_exceeded: ")
        assert refusal.infer_response.parameters["retry_after_seconds"].int64_param > 50


async def test_the_fields_stand_behind_a_good_answer(tmp_path: Path) -> None:
    """What is left of the tenant's quota, in the trailing metadata."""
    async with kserve(tmp_path, quota_file=quotas(tmp_path, tokens_per_day=1000)) as door, door.stub() as stub:
        call = stub.ModelInfer(infer("generate", "one two"), metadata=bearer())
        await call
        assert dict(await call.trailing_metadata())["ratelimit"].startswith('"tokens_per_day";r=993')


async def test_a_text_model_of_others_is_stopped_by_an_estimate(tmp_path: Path) -> None:
    """It does not count its tokens, so four bytes are one; what was said until then arrives."""
    async with kserve(tmp_path, quota_file=quotas(tmp_path, tokens_per_minute=70)) as door:
        responses = [each.infer_response for each in await door.talk(infer("letters", "abcdefghij" * 20, "hang"))]
        text = "".join(texts_of(each.raw_output_contents[0])[0] for each in responses)
        assert 30 < len(text) < 90
        assert ("abcdefghij" * 20).startswith(text)
        assert responses[-1].parameters["tidegate_finish_reason"].string_param == "quota"
        assert responses[-1].parameters[FINAL].bool_param
        await asyncio.wait_for(door.triton.cancelled.wait(), 1)


async def test_tensor_requests_count_as_requests(tmp_path: Path) -> None:
    """And use no tokens; a place is given back when the request ends."""
    limits = quotas(tmp_path, concurrent_streams=2, tokens_per_minute=5)
    async with kserve(tmp_path, quota_file=limits) as door, door.stub() as stub:
        for _ in range(8):
            await stub.ModelInfer(infer("numbers", 1.0), metadata=bearer())
        assert len(await door.talk(infer("numbers", 1.0), infer("numbers", 2.0))) == 2
        call = stub.ModelStreamInfer(metadata=bearer())
        for _ in range(2):
            await call.write(infer("numbers", -1.0))
        while len(door.triton.asked) < 11:
            await asyncio.sleep(0.01)
        assert await code_of(stub.ModelInfer(infer("numbers", 1.0), metadata=bearer())) == "quota_exceeded"
        call.cancel()
        await asyncio.wait_for(door.triton.cancelled.wait(), 1)
        await stub.ModelInfer(infer("numbers", 1.0), metadata=bearer())


async def test_an_api_key_opens_the_door(tmp_path: Path) -> None:
    """As `x-api-key` or as a bearer token; two credentials are none."""
    key, key_id, digest = new_key()
    expires = datetime.now(UTC) + timedelta(days=1)
    fields = {"id": key_id, "sha256": digest, "tenant": "acme", "subject": "ann", "scopes": ["generate:numbers"]}
    file = tmp_path / "keys.jsonl"
    file.write_text(written(ApiKeyLine(**fields, expires=expires)) + "\n", encoding="utf-8")  # type: ignore[arg-type]
    async with kserve(tmp_path, api_keys_file=file) as door, door.stub() as stub:
        for metadata in ((("x-api-key", key),), (("authorization", f"Bearer {key}"),)):
            await stub.ModelInfer(infer("numbers", 1.0), metadata=metadata)
        call = stub.ModelInfer(infer("numbers", 1.0), metadata=(("x-api-key", key), ("x-api-key", key)))
        assert await code_of(call) == "invalid_token"
        call = stub.ModelInfer(infer("echo", "one"), metadata=(("x-api-key", key),))
        assert await code_of(call) == "insufficient_scope"
