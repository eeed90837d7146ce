"""One tensor contract: what is published, what the backend reads and what the gateway sends are the same."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2

from build_engine.backend import request as backend
from build_engine.backend.logprobs import TokenLogprob, to_json
from build_engine.triton_config import config_pbtxt
from gateway.triton import contract

PARAMETERS = {
    "tidegate_format": "1",
    "chat_template": "{{ messages }}",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "special_tokens": json.dumps(["<s>", "</s>", "<|终|>"], ensure_ascii=False),
    "context_length": "2048",
    "created": "1750000000",
    "precision": "int8",
    "accuracy_gate": "passed",
}
NAMES = {"TYPE_STRING": "BYTES"}
VALUES: dict[str, Any] = {
    "text_input": "日本 a\n",
    "max_tokens": 7,
    "temperature": 0.5,
    "top_p": 0.25,
    "top_k": 3,
    "min_p": 0.125,
    "frequency_penalty": -0.5,
    "presence_penalty": 1.5,
    "repetition_penalty": 1.25,
    "seed": 2**64 - 1,
    "stop": ["。", "end"],
    "stream": False,
    "ignore_eos": True,
    "add_special_tokens": False,
    "logprobs": 20,
    "logit_bias_tokens": [7, 2**31 - 1],
    "logit_bias_values": [-100.0, 0.5],
    "json_schema": '{"type": "string", "const": "終"}',
}
DTYPES: dict[str, Any] = {"INT32": np.int32, "FP32": np.float32, "UINT64": np.uint64, "BOOL": np.bool_}


@pytest.fixture(scope="module")
def config() -> model_config_pb2.ModelConfig:
    """A published config.pbtxt, read as Triton reads it."""
    return text_format.Parse(config_pbtxt("generate", PARAMETERS), model_config_pb2.ModelConfig())


def kinds(tensors: Any) -> dict[str, str]:
    """Datatypes by name, in the words of the protocol."""
    found = {each.name: model_config_pb2.DataType.Name(each.data_type) for each in tensors}
    return {name: NAMES.get(kind, kind.removeprefix("TYPE_")) for name, kind in found.items()}


def test_what_the_gateway_sends_and_reads_is_published(config: model_config_pb2.ModelConfig) -> None:
    """By name and datatype; only the text is required, so a client may leave out what it does not care for."""
    assert kinds(config.output) == contract.OUTPUTS
    assert contract.INPUTS.items() <= kinds(config.input).items()
    assert [each.name for each in config.input if not each.optional] == ["text_input"]
    assert config.model_transaction_policy.decoupled
    assert config.max_batch_size == 1


def decoded(wire: service_pb2.ModelInferRequest) -> dict[str, Any]:
    """The tensors as Triton hands them to the backend."""
    found = {}
    for tensor, raw in zip(wire.inputs, wire.raw_input_contents, strict=True):
        if tensor.datatype != "BYTES":
            found[tensor.name] = np.frombuffer(raw, DTYPES[tensor.datatype]).reshape(tensor.shape)
            continue
        elements, at = [], 0
        while at < len(raw):
            (length,) = struct.unpack_from("<I", raw, at)
            elements.append(raw[at + 4 : at + 4 + length])
            at += 4 + length
        found[tensor.name] = np.array(elements, object).reshape(tensor.shape)
    return found


def test_every_value_the_gateway_sends_arrives_in_the_backend() -> None:
    """Through the wire format, with the widest values; none is left to a default."""
    assert VALUES.keys() == contract.INPUTS.keys()
    parsed = backend.parse(decoded(contract.infer_request("generate", "id", VALUES)))
    arrived = {**vars(parsed), **vars(parsed.sampling), "stop": list(parsed.stop)}
    tokens, values = zip(*parsed.sampling.logit_bias, strict=True)
    arrived |= {"logit_bias_tokens": list(tokens), "logit_bias_values": list(values)}
    assert {name: arrived[name] for name in VALUES} == VALUES


def test_the_gateway_understands_what_the_model_says_about_itself(config: model_config_pb2.ModelConfig) -> None:
    """Also characters that a text format has to escape."""
    info = contract.model_info(service_pb2.ModelConfigResponse(config=config))
    inputs = frozenset(contract.INPUTS)
    assert info == contract.ModelInfo(
        "{{ messages }}", "<s>", "</s>", ("<s>", "</s>", "<|终|>"), 2048, inputs, 1750000000, "", "int8", "passed"
    )


def test_a_version_from_before_these_tensors_still_speaks_the_contract(config: model_config_pb2.ModelConfig) -> None:
    """It says what it takes; what it lacks is only what a client asks for by name."""
    old = model_config_pb2.ModelConfig()
    old.CopyFrom(config)
    for name in ("created", "precision", "accuracy_gate"):
        del old.parameters[name]
    kept = [each for each in config.input if each.name not in contract.LATER]
    del old.input[:]
    old.input.extend(kept)
    info = contract.model_info(service_pb2.ModelConfigResponse(config=old))
    assert contract.INPUTS.keys() - info.inputs == contract.LATER
    assert (info.created, info.precision, info.accuracy_gate) == (0, "unknown", "missing")


def test_logprobs_arrive_as_they_were_written() -> None:
    """Bytes that are no text, and none at all."""
    alternatives = ((b"\xe7\x82", -0.25), ("終".encode(), -9999.0))
    written = [TokenLogprob(3, b'\x00\xff"', -0.5, alternatives), TokenLogprob(3, b"", 0.0, ())]
    response = service_pb2.ModelInferResponse()
    texts = {"text_output": "abc", "finish_reason": "", "token_logprobs": to_json(written)}
    for name, text in texts.items():
        response.outputs.add(name=name, datatype=contract.OUTPUTS[name], shape=[1, 1])
        response.raw_output_contents.append(struct.pack("<I", len(text.encode())) + text.encode())
    for name in ("prompt_tokens", "completion_tokens"):
        response.outputs.add(name=name, datatype=contract.OUTPUTS[name], shape=[1, 1])
        response.raw_output_contents.append(struct.pack("<i", 1))
    delta = contract.read_response(response)
    assert delta is not None
    assert [vars(each) for each in delta.logprobs] == [vars(each) for each in written]
    assert contract.logprobs_json(delta.logprobs) == texts["token_logprobs"]


def test_what_breaks_the_contract_is_not_repeated() -> None:
    """A model that says what is no text: its words are not in the error, which a client may read."""
    response = service_pb2.ModelInferResponse()
    response.outputs.add(name="text_output", datatype="BYTES", shape=[1, 1])
    response.raw_output_contents.append(struct.pack("<I", 8) + b"canary-\xff")
    with pytest.raises(contract.ContractError) as error:
        contract.read_response(response)
    assert "UnicodeDecodeError" in str(error.value)
    assert "canary" not in str(error.value)
