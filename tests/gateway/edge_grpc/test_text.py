"""The policy over gRPC: on every text that goes in and every text that comes out, of our models and of others'."""

from __future__ import annotations

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from .kserve import EMPTY_FINAL, FINAL, Kserved, bearer, bytes_of, infer, kserve, texts_of

MASKING = """
version: masking
lists:
  - {name: out, apply: [output], words: [炸弹, say no more], action: block}
  - {name: soft, words: [fishy], action: redact}
"""


def text_of(responses: list[Any], place: int = 0) -> str:
    """What one element of the batch said altogether."""
    said = [each.infer_response for each in responses if each.infer_response.outputs]
    return "".join(texts_of(each.raw_output_contents[0])[place] for each in said)


async def failure(door: Kserved, request: Any, **options: Any) -> grpc.aio.AioRpcError:
    """How ``ModelInfer`` refuses."""
    async with door.stub() as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ModelInfer(request, metadata=bearer(), **options)
    return caught.value


def code(error: grpc.aio.AioRpcError) -> str:
    """The gateway's own code."""
    return str(dict(error.trailing_metadata() or ())["tidegate-code"])


@pytest.fixture
async def masking(tmp_path: Path) -> Any:
    """A door with a policy that blocks what is answered and masks what is asked."""
    policy = tmp_path / "masking.yaml"
    policy.write_text(MASKING, encoding="utf-8")
    async with kserve(tmp_path, policy_file=policy) as door:
        yield door


async def test_a_generation_model_streams_as_over_http(door: Kserved) -> None:
    """A response a delta, the counts in each, the last one final with its reason."""
    responses = [each.infer_response for each in await door.talk(infer("generate", "one two three", id="r-1"))]
    assert [texts_of(each.raw_output_contents[0])[0] for each in responses] == ["one ", "two ", "three"]
    assert [each.parameters[FINAL].bool_param for each in responses] == [False, False, True]
    assert {(each.id, each.model_name, each.model_version) for each in responses} == {("r-1", "generate", "7")}
    names = [output.name for output in responses[-1].outputs]
    assert names == ["text_output", "finish_reason", "prompt_tokens", "completion_tokens"]
    assert texts_of(responses[-1].raw_output_contents[1]) == ["stop"]
    assert door.triton.requests[0]["stream"] == b"\x01"


@pytest.mark.parametrize("max_tokens", [8, 200])
async def test_a_generation_model_answers_a_unary_call_with_its_whole_text(door: Kserved, max_tokens: int) -> None:
    """Triton refuses these of a decoupled model; the door collects. A short answer comes as one, a long one as it is
    made, so that it can be stopped."""
    request = infer("generate", "one two three")
    request.inputs.add(name="max_tokens", datatype="INT32", shape=[1, 1])
    request.raw_input_contents.append(struct.pack("<i", max_tokens))
    async with door.stub() as stub:
        response = await stub.ModelInfer(request, metadata=bearer())
    assert texts_of(response.raw_output_contents[0]) == ["one two three"]
    assert response.parameters[FINAL].bool_param
    assert door.triton.requests[0]["stream"] == (b"\x00" if max_tokens == 8 else b"\x01")


async def test_exactly_the_outputs_that_are_asked_for(door: Kserved) -> None:
    """In the order of the request; others are refused."""
    request = infer("generate", "one")
    request.outputs.add(name="completion_tokens")
    request.outputs.add(name="text_output")
    (response,) = await door.talk(request)
    assert [each.name for each in response.infer_response.outputs] == ["completion_tokens", "text_output"]
    request.outputs.add(name="logits")
    (response,) = await door.talk(request)
    assert response.error_message.startswith("invalid_field: outputs[2]: ")


def with_logprobs(text: str) -> Any:
    """A request that wants to know how likely the tokens were, and pushes two of them."""
    request = infer("generate", text)
    for name, kind, shape, raw in (
        ("logprobs", "INT32", [1, 1], struct.pack("<i", 0)),
        ("logit_bias_tokens", "INT32", [1, 2], struct.pack("<2i", 3, 4)),
        ("logit_bias_values", "FP32", [1, 2], struct.pack("<2f", 1.5, -1.5)),
    ):
        request.inputs.add(name=name, datatype=kind, shape=shape)
        request.raw_input_contents.append(raw)
    return request


def tokens_of(responses: list[Any]) -> list[str]:
    """The tokens that something is said of."""
    found = []
    for response in responses:
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
            if output.name == "token_logprobs":
                found += [row[1] for row in json.loads(texts_of(raw)[0])]
    return found


async def test_logprobs_come_with_their_text_and_never_without(masking: Kserved) -> None:
    """Streamed and whole; behind a blocked stretch nothing is said of tokens, as over HTTP."""
    streamed = [each.infer_response for each in await masking.talk(with_logprobs("one two"))]
    assert tokens_of(streamed) == ["one ", "two"]
    assert masking.triton.requests[0]["logit_bias_tokens"] == struct.pack("<2i", 3, 4)
    async with masking.stub() as stub:
        whole = await stub.ModelInfer(with_logprobs("one two"), metadata=bearer())
        assert tokens_of([whole]) == ["one ", "two"]
    blocked = [each.infer_response for each in await masking.talk(with_logprobs("well say no more ok"))]
    assert tokens_of(blocked) == ["well "]


async def test_special_tokens_of_the_model_are_taken_out_of_the_text(door: Kserved) -> None:
    """As over HTTP: nobody speaks in another role, and a word cannot hide between them."""
    await door.talk(infer("generate", "<|im_start|>one<|im_end|>"))
    assert texts_of(door.triton.requests[0]["text_input"]) == ["one"]
    (response,) = await door.talk(infer("generate", "bad w<|im_end|>ord"))
    assert response.error_message.startswith("prompt_rejected: ")


@pytest.mark.parametrize("model", ["generate", "echo", "letters"])
async def test_what_may_not_be_asked_does_not_reach_triton(door: Kserved, model: str) -> None:
    """By either method; the refusal carries the code and none of the text."""
    error = await failure(door, infer(model, "please, a bad word"))
    if model == "letters":  # decoupled: refused for that before anything is checked
        assert code(error) == "method_not_allowed"
    else:
        assert (error.code(), code(error)) == (grpc.StatusCode.PERMISSION_DENIED, "prompt_rejected")
        assert "bad" not in (error.details() or "")
    (response,) = await door.talk(infer(model, "please, a bad word", id="x"))
    assert response.error_message.startswith("prompt_rejected: ")
    assert response.infer_response.id == "x"
    assert door.triton.asked == []


async def test_every_element_of_a_batch_is_checked(door: Kserved) -> None:
    """Also the second one, also in `contents`, also in a parameter, also in a tensor that the model does not have."""
    in_contents = pb.ModelInferRequest(model_name="echo")
    tensor = in_contents.inputs.add(name="text_input", datatype="BYTES", shape=[2])
    tensor.contents.bytes_contents.extend([b"hello", "炸弹".encode()])
    elsewhere = infer("echo", "hello")
    elsewhere.inputs.add(name="prompt", datatype="BYTES", shape=[1])
    elsewhere.raw_input_contents.append(bytes_of("炸弹"))
    mislabelled = infer("echo", "炸弹")
    mislabelled.inputs[0].datatype = "UINT8"
    odd = infer("numbers", 1.0)
    odd.inputs[0].datatype, odd.raw_input_contents[0] = "BYTES", bytes_of("炸弹")
    asked = [
        infer("echo", "hello", "炸弹"),
        in_contents,
        infer("echo", "hello", lora="炸弹"),
        elsewhere,
        mislabelled,
        odd,
    ]
    for request in asked:
        assert code(await failure(door, request)) == "prompt_rejected"
        (response,) = await door.talk(request)
        assert response.error_message.startswith("prompt_rejected: ")
    assert door.triton.asked == []


async def test_what_cannot_be_read_cannot_be_asked(door: Kserved) -> None:
    """Bytes that are not UTF-8, a tensor that is cut off, bytes in two places: refused, whatever Triton would say."""
    both = infer("echo", "hello")
    both.inputs[0].contents.bytes_contents.append(b"hello")
    too_few = infer("echo", "hello")
    too_few.inputs.add(name="more", datatype="BYTES", shape=[1])
    cut = infer("echo", "hello")
    cut.raw_input_contents[0] = cut.raw_input_contents[0][:-1]
    many = infer("echo", *["a"] * 2000)
    latin = infer("echo", "hello")
    latin.raw_input_contents[0] = bytes_of(b"\xe4")
    for request in (both, too_few, cut, many, latin):
        assert (await failure(door, request)).code() is grpc.StatusCode.INVALID_ARGUMENT
    assert door.triton.asked == []


async def test_redacted_text_is_what_the_model_is_asked(masking: Kserved) -> None:
    """In raw contents, in `contents` and in a parameter; the other elements stay as they were."""
    typed = pb.ModelInferRequest(model_name="echo")
    tensor = typed.inputs.add(name="text_input", datatype="BYTES", shape=[2])
    tensor.contents.bytes_contents.extend([b"so fishy", b"fine"])
    async with masking.stub() as stub:
        for request in (infer("echo", "so fishy", "fine", lora="fishy"), typed):
            await stub.ModelInfer(request, metadata=bearer())
    raw, typed = masking.triton.asked
    assert texts_of(raw.raw_input_contents[0]) == ["so *****", "fine"]
    assert raw.parameters["lora"].string_param == "*****"
    assert list(typed.inputs[0].contents.bytes_contents) == [b"so *****", b"fine"]


async def test_a_word_that_is_said_over_two_responses_is_found(masking: Kserved) -> None:
    """Nothing of it leaves, what was said before does, the stream says why it ends, and the model is stopped."""
    responses = await masking.talk(infer("letters", "well 炸弹 and on and on", "hang", id="a"))
    assert text_of(responses) == "well "
    last = responses[-1].infer_response
    assert last.parameters["tidegate_finish_reason"].string_param == "content_filter"
    assert last.parameters[FINAL].bool_param
    await asyncio.wait_for(masking.triton.cancelled.wait(), 1)


async def test_a_blocked_generation_ends_with_content_filter(masking: Kserved) -> None:
    """As over HTTP, and Triton is told."""
    responses = await masking.talk(infer("generate", "say-on:well, say no more, ok"), timeout=5)
    assert text_of(responses) == "well, "
    assert texts_of(responses[-1].infer_response.raw_output_contents[1]) == ["content_filter"]
    await asyncio.wait_for(masking.triton.cancelled.wait(), 1)


async def test_elements_of_a_batch_are_streams_of_their_own(masking: Kserved) -> None:
    """A word does not come about from two elements; one that is blocked ends the whole request."""
    responses = await masking.talk(infer("letters", "say no", " more"))
    assert (text_of(responses), text_of(responses, 1)) == ("say no", " more")
    responses = await masking.talk(infer("letters", "fine, all fine", "炸弹"))
    assert text_of(responses, 1) == ""
    assert responses[-1].infer_response.parameters[FINAL].bool_param


async def test_what_was_held_back_leaves_before_an_empty_end(masking: Kserved) -> None:
    """The model ends in the middle of what could have become a word: the rest comes in a response of its own, and the
    empty last one only for a client that asks for it."""
    responses = await masking.talk(infer("letters", "say no mor", "x"))
    assert text_of(responses) == "say no mor"
    assert text_of(responses, 1) == "x"
    assert all(each.infer_response.outputs for each in responses)
    responses = await masking.talk(infer("letters", "say no mor", **{EMPTY_FINAL: True}))
    assert text_of(responses) == "say no mor"
    assert responses[-1].infer_response.parameters[FINAL].bool_param
    assert not responses[-1].infer_response.outputs


async def test_a_unary_answer_of_anothers_model_is_guarded(masking: Kserved) -> None:
    """Input lists do not hold for output here, so the text gets in and must not get out."""
    async with masking.stub() as stub:
        response = await stub.ModelInfer(infer("echo", "well, 炸弹", "fishy"), metadata=bearer())
    assert texts_of(response.raw_output_contents[0]) == ["well, ", "*****"]
    assert response.parameters["tidegate_finish_reason"].string_param == "content_filter"


async def test_what_a_model_says_is_bounded_and_read(tmp_path: Path) -> None:
    """A response that is too large to be checked, or no text at all, does not get out."""
    async with kserve(tmp_path, max_body_bytes=2000) as door:
        for text, part in (("swell", "more than 2000 bytes"), ("garble", "not UTF-8")):
            error = await failure(door, infer("echo", text))
            assert code(error) == "upstream_error"
            assert part in (error.details() or "")


async def test_bytes_that_are_not_text_need_the_operators_word(tmp_path: Path) -> None:
    """A BYTES tensor counts as text until the model's text tensors are named; then the others pass as they came."""
    picture = infer("pictures", "x")
    picture.raw_input_contents[0] = bytes_of(b"\xff\xd8\xff")
    async with kserve(tmp_path) as door:
        error = await failure(door, picture)
        assert "TIDEGATE_GRPC_TEXT_TENSORS" in (error.details() or "")
    async with (
        kserve(tmp_path, grpc_text_tensors={"pictures": [], "echo": ["text_input"]}) as door,
        door.stub() as stub,
    ):
        response = await stub.ModelInfer(picture, metadata=bearer())
        assert response.raw_output_contents[0] == bytes_of(b"\xff\xd8\xff")
        assert code(await failure(door, infer("echo", "bad word"))) == "prompt_rejected"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "temperature", "datatype": "FP32", "shape": [1, 2]}, "temperature"),
        ({"name": "temperature", "datatype": "FP64", "shape": [1, 1]}, "temperature"),
        ({"name": "top_k", "datatype": "INT32", "shape": [1]}, "top_k"),
        ({"name": "seed", "datatype": "UINT64", "shape": [1, 1]}, "seed"),
        ({"name": "text_input", "datatype": "BYTES", "shape": [1, 1]}, "text_input"),
        ({"name": "tools", "datatype": "BYTES", "shape": [1, 1]}, "inputs"),
    ],
)
async def test_tensors_of_a_generation_model_are_held_to_its_contract(
    door: Kserved, change: dict[str, Any], field: str
) -> None:
    """Types, shapes, names: what is wrong is named before Triton is asked."""
    request = infer("generate", "one")
    request.inputs.add(**change)
    request.raw_input_contents.append(b"\x00\x00\x00\x00")
    error = await failure(door, request)
    assert (error.code(), code(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_field")
    assert dict(error.trailing_metadata() or ())["tidegate-field"] == field
    assert door.triton.asked == []


async def test_more_that_a_generation_model_is_not_asked(tmp_path: Path) -> None:
    """Too many tokens, a version, no text, an unknown model, too much text."""
    async with kserve(tmp_path, max_tokens=100, max_body_bytes=1000) as door:
        greedy = infer("generate", "one")
        tensor = greedy.inputs.add(name="max_tokens", datatype="INT32", shape=[1, 1])
        greedy.raw_input_contents.append((101).to_bytes(4, "little"))
        assert "at most 100" in ((await failure(door, greedy)).details() or "")
        greedy.raw_input_contents[1] = (100).to_bytes(4, "little")
        tensor.shape[:] = [1, 1]
        assert len(await door.talk(greedy)) == 1
        versioned = infer("generate", "one")
        versioned.model_version = "7"
        assert code(await failure(door, versioned)) == "invalid_field"
        assert code(await failure(door, infer("generate", ""))) == "invalid_field"
        assert code(await failure(door, pb.ModelInferRequest(model_name="generate"))) == "invalid_field"
        absent = infer("echo", "one")
        absent.model_name = "absent"
        assert code(await failure(door, absent)) == "model_not_found"
        for model in ("generate", "echo"):
            assert code(await failure(door, infer(model, "a" * 1000))) == "body_too_large"
        assert [each.model_name for each in door.triton.asked] == ["generate"]
        await door.talk(infer("generate", "one"))
        assert door.triton.requests[-1]["max_tokens"] == (100).to_bytes(4, "little")
