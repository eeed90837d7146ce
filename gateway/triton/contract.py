"""The tensors of a generation model: the one place of the gateway that names them.

Every tensor has a leading batch dimension of 1. Layouts are those of the KServe v2 gRPC protocol: raw little-endian
values; a BYTES element is its length (uint32) and its bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from tritonclient.grpc import service_pb2 as pb

INPUTS = {
    "text_input": "BYTES",
    "max_tokens": "INT32",
    "temperature": "FP32",
    "top_p": "FP32",
    "top_k": "INT32",
    "min_p": "FP32",
    "frequency_penalty": "FP32",
    "presence_penalty": "FP32",
    "repetition_penalty": "FP32",
    "seed": "UINT64",
    "stop": "BYTES",
    "stream": "BOOL",
    "ignore_eos": "BOOL",
    "add_special_tokens": "BOOL",
    "logprobs": "INT32",
    "logit_bias_tokens": "INT32",
    "logit_bias_values": "FP32",
    "json_schema": "BYTES",
}
LATER = frozenset({"logprobs", "logit_bias_tokens", "logit_bias_values", "json_schema"})
"""Inputs that older published versions do not have; sent only when a client asks for what they are."""
OUTPUTS = {
    "text_output": "BYTES",
    "finish_reason": "BYTES",
    "prompt_tokens": "INT32",
    "completion_tokens": "INT32",
    "token_logprobs": "BYTES",
}
"""``token_logprobs`` comes only with what asks for ``logprobs``: :func:`_logprobs` says what is in it."""
FORMAT = "1"
GATES = ("passed", "missing", "not_needed")
_LAYOUT = {"INT32": "<i", "FP32": "<f", "UINT64": "<Q", "BOOL": "<?"}

Value = str | int | float | bool | list[str] | list[int] | list[float]


class ContractError(Exception):
    """The model in Triton does not speak this contract."""


@dataclass(frozen=True)
class TokenLogprob:
    """A token of the answer, whose text ends at character ``end`` of it, and how likely it was. ``alternatives`` are
    the likeliest at its place, as many as were asked for."""

    end: int
    token: bytes
    logprob: float
    alternatives: tuple[tuple[bytes, float], ...]


@dataclass(frozen=True)
class Delta:
    """One response: new text and the counts so far. ``finish_reason`` is empty until the last one."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    model_version: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class ModelInfo:
    """What the model says about itself in its ``config.pbtxt``: ``inputs`` are the tensors that it takes, ``created``
    is when it was built (seconds since the epoch; 0 in versions that do not say); ``version`` may be empty."""

    chat_template: str
    bos_token: str
    eos_token: str
    special_tokens: tuple[str, ...]
    context_length: int
    inputs: frozenset[str] = frozenset()
    created: int = 0
    version: str = ""
    precision: str = "unknown"
    accuracy_gate: str = "missing"
    """``passed``, ``missing`` or ``not_needed``. Versions that say nothing of it were published before it was asked."""

    def writes_as(self, other: ModelInfo) -> bool:
        """Whether a request is written the same for both."""
        same = {"version": "", "created": 0, "context_length": 0, "precision": "", "accuracy_gate": ""}
        return replace(self, **same) == replace(other, **same)  # type: ignore[arg-type]  # mypy sees one type for all


def infer_request(model: str, request_id: str, values: Mapping[str, Value], priority: int = 0) -> pb.ModelInferRequest:
    """The request of ``values`` by tensor name. ``priority`` 0 leaves it to the model's configuration."""
    request = pb.ModelInferRequest(model_name=model, id=request_id)
    # Without it a decoupled model that ends without a response would leave the stream open.
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    if priority:
        request.parameters["priority"].uint64_param = priority
    for name, value in values.items():
        kind = INPUTS[name]
        elements = value if isinstance(value, list) else [value]
        request.inputs.add(name=name, datatype=kind, shape=[1, len(elements)])
        request.raw_input_contents.append(b"".join(_element(kind, element) for element in elements))
    return request


def _element(kind: str, value: str | float) -> bytes:
    if kind == "BYTES":
        encoded = str(value).encode()
        return struct.pack("<I", len(encoded)) + encoded
    return struct.pack(_LAYOUT[kind], value)


def read_response(response: pb.ModelInferResponse) -> Delta | None:
    """A response's delta; None for the empty one that only says the stream is over. Raises ContractError."""
    if not response.outputs:
        return None
    raw = {
        output.name: content for output, content in zip(response.outputs, response.raw_output_contents, strict=False)
    }
    try:
        return Delta(
            text=_text(raw["text_output"]),
            finish_reason=_text(raw["finish_reason"]),
            prompt_tokens=struct.unpack_from("<i", raw["prompt_tokens"])[0],
            completion_tokens=struct.unpack_from("<i", raw["completion_tokens"])[0],
            model_version=response.model_version,
            logprobs=_logprobs(raw["token_logprobs"]) if "token_logprobs" in raw else (),
        )
    except (KeyError, ValueError, TypeError, struct.error) as error:
        raise ContractError(f"the model's response is not of this contract: {type(error).__name__}") from None


def _text(raw: bytes) -> str:
    (length,) = struct.unpack_from("<I", raw)
    return raw[4 : 4 + length].decode()


def _logprobs(raw: bytes) -> tuple[TokenLogprob, ...]:
    """From JSON: ``[end, token, logprob, [[token, logprob], ...]]`` for each; a token's characters are its bytes."""
    return tuple(
        TokenLogprob(
            end,
            token.encode("latin-1"),
            logprob,
            tuple((alternative.encode("latin-1"), each) for alternative, each in alternatives),
        )
        for end, token, logprob, alternatives in json.loads(_text(raw))
    )


def logprobs_json(tokens: Iterable[TokenLogprob]) -> str:
    """The other way round, for a door that hands the tensor on."""
    rows = [
        [
            each.end,
            each.token.decode("latin-1"),
            each.logprob,
            [[token.decode("latin-1"), logprob] for token, logprob in each.alternatives],
        ]
        for each in tokens
    ]
    return json.dumps(rows, separators=(",", ":"))


def is_final(response: pb.ModelInferResponse) -> bool:
    """Whether Triton says that nothing follows."""
    return bool(response.parameters["triton_final_response"].bool_param)


def model_info(config: pb.ModelConfigResponse) -> ModelInfo:
    """The model's own description. Raises ContractError for a model that was not published by the builder."""
    values = {key: parameter.string_value for key, parameter in config.config.parameters.items()}
    if values.get("tidegate_format") != FORMAT:
        raise ContractError(f"the model's config.pbtxt says format {values.get('tidegate_format')!r}, not {FORMAT!r}")
    try:
        return ModelInfo(
            chat_template=values["chat_template"],
            bos_token=values["bos_token"],
            eos_token=values["eos_token"],
            special_tokens=tuple(json.loads(values["special_tokens"])),
            context_length=int(values["context_length"]),
            inputs=frozenset(each.name for each in config.config.input),
            created=int(values.get("created", 0)),
            version=values.get("version", ""),
            precision=values.get("precision", "unknown"),
            accuracy_gate=gate if (gate := values.get("accuracy_gate", "")) in GATES else "missing",
        )
    except (KeyError, ValueError) as error:
        raise ContractError(f"the model's config.pbtxt lacks or garbles a parameter: {error!r}") from None
