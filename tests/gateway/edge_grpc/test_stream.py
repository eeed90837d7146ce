"""ModelStreamInfer: many requests at once on one stream, its bounds, its deadlines, and clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from gateway.access import mint

from ..conftest import KEY, good_token
from .kserve import EMPTY_FINAL, FINAL, Kserved, bearer, infer, kserve, texts_of


def said(responses: list[Any], id_: str) -> str:
    """What was said to one request."""
    own = [each.infer_response for each in responses if each.infer_response.id == id_ and each.infer_response.outputs]
    return "".join(texts_of(each.raw_output_contents[0])[0] for each in own)


async def listen(call: Any, heard: list[Any]) -> None:
    """Every response, to the end of the stream."""
    while (response := await call.read()) is not grpc.aio.EOF:
        heard.append(response)


async def until(condition: Any) -> None:
    """Wait for it, 2 s at most."""
    ends = time.monotonic() + 2
    while not condition():
        assert time.monotonic() < ends, "it did not come about"
        await asyncio.sleep(0.005)


async def refused(stub: Any) -> bool:
    """Whether there is no place."""
    try:
        await stub.ModelInfer(infer("numbers", 1.0), metadata=bearer())
        return False
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_requests_are_answered_side_by_side(door: Kserved) -> None:
    """One that hangs holds nobody up, and every response carries its request's id."""
    async with door.stub() as stub:
        call = stub.ModelStreamInfer(metadata=bearer())
        for request in (
            infer("generate", "slow", id="slow"),
            infer("generate", "one two", id="words"),
            infer("letters", "abc", id="letters"),
            infer("numbers", 1.0, id="numbers"),
        ):
            await call.write(request)
        responses = []
        while sum(each.infer_response.parameters[FINAL].bool_param for each in responses) < 2 or len(responses) < 7:
            responses.append(await call.read())
        assert said(responses, "slow") == "one"
        assert said(responses, "words") == "one two"
        assert said(responses, "letters") == "abc"
        assert [each.infer_response.outputs[0].name for each in responses if each.infer_response.id == "numbers"] == [
            "doubled"
        ]
        call.cancel()
    await asyncio.wait_for(door.triton.cancelled.wait(), 1)


async def test_a_failure_is_its_requests_own(door: Kserved) -> None:
    """The code is the first word, the id is the request's, and the stream goes on."""
    late = infer("generate", "late-error:invalid_input: top_p must be above 0", id="late")
    responses = await door.talk(
        infer("absent", id="absent"), infer("generate", "bad word", id="bad"), late, infer("generate", "one", id="good")
    )
    failures = {each.infer_response.id: each for each in responses if each.error_message}
    assert {id_: each.error_message.split(":")[0] for id_, each in failures.items()} == {
        "absent": "model_not_found",
        "bad": "prompt_rejected",
        "late": "invalid_request",
    }
    assert failures["late"].infer_response.parameters["tidegate_code"].string_param == "invalid_request"
    assert failures["late"].infer_response.parameters[FINAL].bool_param
    assert (said(responses, "good"), said(responses, "late")) == ("one", "one ")


async def test_a_client_that_wants_a_status_gets_one(door: Kserved) -> None:
    """Triton's own `triton_grpc_error`: the first failure ends the stream."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.talk(infer("generate", "bad word"), metadata=bearer(triton_grpc_error="true"))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert dict(caught.value.trailing_metadata() or ())["tidegate-code"] == "prompt_rejected"


async def test_tensors_pass_as_they_came(door: Kserved) -> None:
    """All that the client wrote but its place in Triton's queue, fields of a later protocol included, in order."""
    request = infer("numbers", 1.5, id="b", sequence_id=7, sequence_start=True, priority=1, note="kept")
    request.MergeFromString(b"\xfa\x3f\x03abc")  # field 1023, unknown here
    responses = await door.talk(*[infer("numbers", float(each), id=f"n{each}") for each in range(30)], request)
    assert [each.infer_response.id for each in responses] == [*[f"n{each}" for each in range(30)], "b"]
    got = door.triton.asked[-1]
    assert got.parameters["priority"].uint64_param == 0
    assert got.parameters.pop(EMPTY_FINAL).bool_param
    got.parameters["priority"].int64_param = 1
    assert got == request
    assert b"\xfa\x3f\x03abc" in got.SerializeToString()


async def test_tensors_share_one_stream_to_triton(door: Kserved) -> None:
    """So order and sequences are Triton's own; Triton's words about a request are told."""
    wrong = infer("numbers", 1.0, id="wrong")
    wrong.inputs[0].datatype = "FP64"
    async with door.stub() as stub:
        call = stub.ModelStreamInfer(metadata=bearer())
        for request in (infer("numbers", 1.0, id="a"), wrong, infer("numbers", 2.0, id="c")):
            await call.write(request)
        responses = [await call.read() for _ in range(3)]
        assert [each.infer_response.id for each in responses] == ["a", "wrong", "c"]
        assert responses[1].error_message == "invalid_request: unexpected data-type"
        assert door.triton.open_streams == 1
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    await until(lambda: door.triton.open_streams == 0)


@pytest.mark.parametrize("model", ["generate", "letters", "numbers"])
async def test_a_client_that_leaves_is_cancelled_in_triton(door: Kserved, model: str) -> None:
    """Within 100 ms on a quiet machine; here within a second, on a stream and on a unary call."""
    request = infer("numbers", -1.0) if model == "numbers" else infer(model, "hang")
    async with door.stub() as stub:
        call = stub.ModelStreamInfer(metadata=bearer())
        await call.write(request)
        await until(lambda: len(door.triton.asked) == 1)
        call.cancel()
        await asyncio.wait_for(door.triton.cancelled.wait(), 1)
        if model == "letters":  # decoupled: no unary calls
            return
        door.triton.cancelled.clear()
        unary = stub.ModelInfer(request, metadata=bearer())
        await until(lambda: len(door.triton.asked) == 2)
        unary.cancel()
        await asyncio.wait_for(door.triton.cancelled.wait(), 1)
    async with door.served.client() as client:
        metrics = (await client.get("/metrics")).text
    assert 'tidegate_requests_total{outcome="client_closed",route="grpc:ModelInfer"} 1.0' in metrics
    assert 'tidegate_requests_total{outcome="client_closed",route="grpc:ModelStreamInfer"} 1.0' in metrics


@pytest.mark.parametrize(
    ("kind", "value"), [("string_param", "1"), ("int64_param", -1), ("double_param", 1.5), (None, 0)]
)
async def test_a_timeout_that_would_be_ignored_is_refused(door: Kserved, kind: str | None, value: Any) -> None:
    """Naming the parameter; 0 is none, as for Triton."""
    request = infer("numbers", 1.0, timeout=0)
    assert not (await door.talk(request))[-1].error_message
    request.parameters["timeout"].Clear()
    if kind is not None:
        setattr(request.parameters["timeout"], kind, value)
    assert (await door.talk(request))[-1].error_message.startswith("invalid_field: timeout: ")


@pytest.mark.parametrize("model", ["generate", "letters", "numbers"])
async def test_a_request_has_its_time(tmp_path: Path, model: str) -> None:
    """The gateway's own limit, the request's `timeout` and the call's deadline: the shortest counts, and Triton is
    told."""
    text = "slow" if model == "generate" else "hang"
    request = infer("numbers", -1.0) if model == "numbers" else infer(model, text)
    async with kserve(tmp_path, request_timeout_seconds=0.3) as door:
        responses = await door.talk(request)
        assert responses[-1].error_message.startswith("deadline_exceeded: ")
        await asyncio.wait_for(door.triton.cancelled.wait(), 1)
    async with kserve(tmp_path) as door:
        request.parameters["timeout"].int64_param = 200_000
        responses = await door.talk(request)
        assert responses[-1].error_message.startswith("deadline_exceeded: ")
        door.triton.cancelled.clear()
        del request.parameters["timeout"]
        with contextlib.suppress(grpc.aio.AioRpcError):  # whoever's clock is first
            assert (await door.talk(request, timeout=0.3))[-1].error_message.startswith("deadline_exceeded: ")
        await asyncio.wait_for(door.triton.cancelled.wait(), 1)
        await until(lambda: door.triton.open_streams == 0)


async def test_a_stream_goes_on_after_one_of_its_tensor_requests_hung(tmp_path: Path) -> None:
    """Its stream to Triton ends with it, and the next request opens another."""
    async with kserve(tmp_path) as door, door.stub() as stub:
        call = stub.ModelStreamInfer(metadata=bearer())
        hanging = infer("numbers", -1.0, id="hangs")
        hanging.parameters["timeout"].int64_param = 100_000
        await call.write(hanging)
        assert (await call.read()).error_message.startswith("deadline_exceeded: ")
        await call.write(infer("numbers", 1.0, id="next"))
        assert (await call.read()).infer_response.id == "next"
        await door.served.triton_server.stop(None)
        await call.write(infer("numbers", 1.0, id="gone"))
        assert (await call.read()).error_message.startswith("triton_unavailable: ")


async def test_the_requests_of_a_stream_are_bounded(tmp_path: Path) -> None:
    """More of them wait in the client, and are answered when there is room."""
    async with kserve(tmp_path, grpc_requests_per_stream=2) as door, door.stub() as stub:
        call = stub.ModelStreamInfer(metadata=bearer())
        waiting = infer("generate", "slow", id="slow")
        waiting.parameters["timeout"].int64_param = 400_000
        for request in (waiting, waiting, infer("generate", "one", id="third")):
            await call.write(request)
        texts = [(await call.read()).infer_response.id for _ in range(2)]
        assert texts == ["slow", "slow"]
        await asyncio.sleep(0.1)
        assert len(door.triton.asked) == 2
        await call.done_writing()
        rest = [await call.read() for _ in range(3)]
        assert said(rest, "third") == "one"
        assert await call.read() is grpc.aio.EOF


async def test_requests_in_flight_are_bounded_over_both_doors(tmp_path: Path) -> None:
    """The gateway has one bound; who comes after it is told when to come again."""
    async with kserve(tmp_path, max_concurrent_requests=1) as door, door.stub() as stub, door.served.client() as client:
        call = stub.ModelStreamInfer(metadata=bearer())
        await call.write(infer("generate", "slow", id="a"))
        assert said([await call.read()], "a") == "one"
        assert (await client.post("/generate", json={"text_input": "one"})).status_code == 429
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ModelInfer(infer("numbers", 1.0), metadata=bearer())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(caught.value.trailing_metadata() or ())["retry-after"]) >= 1
        await call.write(infer("generate", "one", id="b"))
        refusal = await call.read()
        assert refusal.error_message.startswith("too_many_requests: ")
        assert refusal.infer_response.parameters["retry_after_seconds"].int64_param >= 1
        call.cancel()
        await asyncio.wait_for(door.triton.cancelled.wait(), 1)
        await stub.ModelInfer(infer("numbers", 1.0), metadata=bearer())


async def test_open_streams_are_bounded(tmp_path: Path) -> None:
    """Idle ones too; health is not among them."""
    async with kserve(tmp_path, grpc_max_streams=1) as door, door.stub() as stub:
        first = stub.ModelStreamInfer(metadata=bearer())
        await first.write(infer("numbers", 1.0))
        await first.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ModelStreamInfer(metadata=bearer()).read()
        assert dict(caught.value.trailing_metadata() or ())["tidegate-code"] == "too_many_requests"
        await first.done_writing()
        assert await first.read() is grpc.aio.EOF
        assert len(await door.talk(infer("numbers", 1.0))) == 1


async def test_one_tenant_has_half_of_the_streams(tmp_path: Path) -> None:
    """The others get in beside it."""
    async with kserve(tmp_path, grpc_max_streams=4) as door, door.stub() as stub:
        held = [stub.ModelStreamInfer(metadata=bearer()) for _ in range(2)]
        for each in held:
            await each.write(infer("numbers", 1.0))
            await each.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ModelStreamInfer(metadata=bearer()).read()
        assert dict(caught.value.trailing_metadata() or ())["tidegate-code"] == "too_many_requests"
        other = (("authorization", f"Bearer {good_token(tenant='bolt')}"),)
        assert len(await door.talk(infer("numbers", 1.0), metadata=other)) == 1


async def test_a_stream_does_not_outlive_its_token(door: Kserved) -> None:
    """Idle, it ends with `token_expired`; what is being answered then is answered first."""
    claims = {"audience": "tidegate", "issuer": "tidegate", "subject": "ann", "tenant": "acme", "scope": "generate"}
    for text in ("a", "a" * 2000):
        token, heard = mint(KEY, lifetime_seconds=-3, **claims), list[Any]()  # good for a second or two of leeway
        async with door.stub() as stub:
            call = stub.ModelStreamInfer(metadata=(("authorization", f"Bearer {token}"),))
            await call.write(infer("letters", text))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asyncio.wait_for(listen(call, heard), 20)
        assert said(heard, "") == text
        assert dict(caught.value.trailing_metadata() or ())["tidegate-code"] == "token_expired"


async def test_connections_are_bounded(tmp_path: Path) -> None:
    """One too many is closed; when another has left, there is room."""
    async with kserve(tmp_path, max_connections=2) as door, contextlib.AsyncExitStack() as stack:
        alone = (("grpc.use_local_subchannel_pool", 1),)
        channels = [grpc.aio.insecure_channel(door.address, options=alone) for _ in range(3)]
        for each in channels:
            stack.push_async_callback(each.close)
        live = [channel.unary_unary("/inference.GRPCInferenceService/ServerLive") for channel in channels]
        for ask in live[:2]:
            await ask(b"")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await live[2](b"")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await channels[0].close()
        await live[2](b"", wait_for_ready=True, timeout=10)


async def test_messages_are_bounded(tmp_path: Path) -> None:
    """Larger ones end the call; nothing larger is held in memory."""
    async with kserve(tmp_path, grpc_max_message_bytes=100_000, max_body_bytes=1000) as door, door.stub() as stub:
        await stub.ModelInfer(infer("numbers", *[1.0] * 20_000), metadata=bearer())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ModelInfer(infer("numbers", *[1.0] * 30_000), metadata=bearer())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(door.triton.asked) == 1


async def test_what_is_not_a_request_is_refused(door: Kserved) -> None:
    """A message of another protocol, and none at all."""
    path = "/inference.GRPCInferenceService/"
    async with grpc.aio.insecure_channel(door.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(path + "ModelInfer")(b"\xff\xff\xff", metadata=bearer())
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        call = channel.stream_unary(path + "ModelInfer")(metadata=bearer())
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_message_that_never_comes_is_not_waited_for(tmp_path: Path) -> None:
    """The request's time includes its arrival."""
    async with kserve(tmp_path, request_timeout_seconds=0.2) as door:
        async with grpc.aio.insecure_channel(door.address) as channel:
            call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")(metadata=bearer())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
        assert dict(caught.value.trailing_metadata() or ())["tidegate-code"] == "request_timeout"


async def test_a_slow_message_holds_up_nobody(tmp_path: Path) -> None:
    """A call takes its place when its message is here."""
    async with (
        kserve(tmp_path, max_concurrent_requests=1) as door,
        door.stub() as stub,
        grpc.aio.insecure_channel(door.address) as channel,
    ):
        call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")(metadata=bearer())
        await call.wait_for_connection()
        await asyncio.sleep(0.1)
        await stub.ModelInfer(infer("numbers", 1.0), metadata=bearer())
        await call.write(infer("numbers", 2.0).SerializeToString())
        await call.done_writing()
        assert struct.unpack("<f", pb.ModelInferResponse.FromString(await call).raw_output_contents[0]) == (4.0,)


async def test_calls_are_counted_and_logged(door: Kserved, caplog: pytest.LogCaptureFixture) -> None:
    """By route from a closed set, with outcome, tenant and tokens; no text."""
    with caplog.at_level("INFO", logger="tidegate"):
        await door.talk(infer("generate", "one two", id="mine"), infer("generate", "bad word", id="yours"))
        async with door.stub() as stub:
            await stub.ModelInfer(infer("numbers", 1.0), metadata=bearer(**{"x-request-id": "unary-1"}))
        await until(lambda: len(caplog.records) >= 3)
    fields = {each.fields["request_id"]: each.fields for each in caplog.records if each.message == "request"}
    mine = {key: value for key, value in fields["mine"].items() if key != "seconds"}
    assert mine == {
        "request_id": "mine",
        "route": "grpc:ModelStreamInfer",
        "outcome": "ok",
        "tenant": "acme",
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "finish_reason": "stop",
    }
    assert fields["yours"]["outcome"] == "prompt_rejected"
    assert fields["unary-1"]["route"] == "grpc:ModelInfer"
    assert "bad" not in caplog.text
    async with door.served.client() as client:
        metrics = (await client.get("/metrics")).text
    assert 'tidegate_requests_total{outcome="ok",route="grpc:ModelStreamInfer"} 1.0' in metrics
    assert 'tidegate_requests_total{outcome="prompt_rejected",route="grpc:ModelStreamInfer"} 1.0' in metrics
    assert "tidegate_requests_in_flight 0.0" in metrics


async def test_clients_that_leave_in_the_middle_are_no_defect(door: Kserved, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the gateway is doing when they leave, it is counted as theirs and nothing is an error."""
    with caplog.at_level("INFO", logger="tidegate"):
        async with door.stub() as stub:
            for number in range(30):
                call = stub.ModelStreamInfer(metadata=bearer())
                await call.write(infer("generate", "a " * 2000))
                for _ in range(1 + number % 5):
                    await call.read()
                call.cancel()
        await until(lambda: sum(each.message == "request" for each in caplog.records) == 30)
    assert {each.fields["outcome"] for each in caplog.records if each.message == "request"} == {"client_closed"}
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


@pytest.mark.parametrize("model", ["generate", "letters"])
async def test_who_does_not_read_gives_the_place_back(tmp_path: Path, model: str) -> None:
    """A second after the deadline the stream ends, and somebody else is served."""
    text = "say-on:" + "x" * 3000 if model == "generate" else "x" * 5000
    async with kserve(tmp_path, max_concurrent_requests=1, request_timeout_seconds=1, max_tokens=4096) as door:
        narrow = (("grpc.http2.lookahead_bytes", 1), ("grpc.http2.bdp_probe", 0), ("grpc.http2.max_frame_size", 16384))
        async with grpc.aio.insecure_channel(door.address, narrow) as channel:
            call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(metadata=bearer())
            await call.write(infer(model, text))
            await until(lambda: len(door.triton.asked) == 1)
            await asyncio.wait_for(door.triton.cancelled.wait(), 10)
            async with door.stub() as stub:
                with anyio.fail_after(5):
                    while await refused(stub):
                        await asyncio.sleep(0.01)
            call.cancel()
