"""One request's tensors, checked: what may be asked, and what a refusal says. No Triton types."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from .engine import TokenIds
from .grammar import MAX_SCHEMA_BYTES
from .logprobs import MAX_ALTERNATIVES
from .sampling import SamplingParams

Tensors = Mapping[str, npt.NDArray[Any]]

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_TEMPERATURE = 100.0
MAX_PENALTY = 100.0
MAX_BIASES = 1024
MAX_BIAS = 100.0


class RequestError(Exception):
    """A request that cannot be served as it is. ``code`` is stable, the text is for a person."""

    def __init__(self, code: Literal["invalid_input", "prompt_too_long"], text: str) -> None:
        super().__init__(text)
        self.code = code


def _invalid(name: str, text: str) -> RequestError:
    return RequestError("invalid_input", f"{name} {text}")


@dataclass(frozen=True)
class GenerateRequest:
    """What one request asks for, every value in its range."""

    text_input: str
    max_tokens: int
    sampling: SamplingParams
    stop: tuple[str, ...]
    stream: bool
    ignore_eos: bool
    add_special_tokens: bool
    logprobs: int | None
    """How many alternatives to name beside each token's own log-probability; None for neither."""
    json_schema: str | None


def parse(tensors: Tensors) -> GenerateRequest:
    """Read the tensors by name; a missing one has its default. Shapes may carry a leading batch dimension
    of 1. Raises RequestError (``invalid_input``) which names the tensor, its limit and the way out.
    """
    return GenerateRequest(
        text_input=_text("text_input", _one(tensors, "text_input", b"")),
        max_tokens=_integer(tensors, "max_tokens", default=256, least=1),
        sampling=SamplingParams(
            temperature=_number(tensors, "temperature", 0.0, least=0.0, most=MAX_TEMPERATURE),
            top_k=_integer(tensors, "top_k", default=0, least=0),
            top_p=_number(tensors, "top_p", 1.0, above=0.0, most=1.0),
            min_p=_number(tensors, "min_p", 0.0, least=0.0, most=1.0),
            seed=None if "seed" not in tensors else int(_one(tensors, "seed", 0)),
            repetition_penalty=_number(tensors, "repetition_penalty", 1.0, above=0.0, most=MAX_PENALTY),
            frequency_penalty=_number(tensors, "frequency_penalty", 0.0, least=-MAX_PENALTY, most=MAX_PENALTY),
            presence_penalty=_number(tensors, "presence_penalty", 0.0, least=-MAX_PENALTY, most=MAX_PENALTY),
            logit_bias=_biases(tensors),
        ),
        stop=_stops(tensors),
        stream=bool(_one(tensors, "stream", True)),
        ignore_eos=bool(_one(tensors, "ignore_eos", False)),
        add_special_tokens=bool(_one(tensors, "add_special_tokens", True)),
        logprobs=_logprobs(tensors),
        json_schema=_schema(tensors),
    )


def _one(tensors: Tensors, name: str, default: Any) -> Any:
    if name not in tensors:
        return default
    values = tensors[name].reshape(-1)
    if values.size != 1:
        raise _invalid(name, f"takes one value, not {values.size}; send one request for each prompt")
    return values[0]


def _integer(tensors: Tensors, name: str, *, default: int, least: int) -> int:
    value = int(_one(tensors, name, default))
    if value < least:
        raise _invalid(name, f"must be at least {least}, not {value}; leave it out for {default}")
    return value


def _number(
    tensors: Tensors,
    name: str,
    default: float,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float,
) -> float:
    value = float(_one(tensors, name, default))
    if not (least <= value <= most and value > above):
        lower = f"above {above:g}" if math.isinf(least) else f"at least {least:g}"
        raise _invalid(name, f"must be {lower} and at most {most:g}, not {value:g}; leave it out for {default:g}")
    return value


def _text(name: str, value: bytes) -> str:
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _invalid(name, f"must be UTF-8; byte {error.start} is not: encode the text again") from error


def _stops(tensors: Tensors) -> tuple[str, ...]:
    given = tensors.get("stop")
    values: list[bytes] = [] if given is None else given.reshape(-1).tolist()
    if len(values) > MAX_STOPS:
        raise _invalid("stop", f"takes at most {MAX_STOPS} sequences, not {len(values)}; send fewer")
    stops = tuple(_text("stop", value) for value in values)
    for stop in stops:
        if not 1 <= len(stop) <= MAX_STOP_CHARACTERS:
            raise _invalid(
                "stop",
                f"takes sequences of 1 to {MAX_STOP_CHARACTERS} characters, not {len(stop)}; shorten it",
            )
    return stops


def _logprobs(tensors: Tensors) -> int | None:
    if "logprobs" not in tensors:
        return None
    value = int(_one(tensors, "logprobs", 0))
    if not 0 <= value <= MAX_ALTERNATIVES:
        raise _invalid("logprobs", f"must be 0 to {MAX_ALTERNATIVES}, not {value}; ask for fewer alternatives")
    return value


def _biases(tensors: Tensors) -> tuple[tuple[int, float], ...]:
    ids, values = (
        [] if name not in tensors else tensors[name].reshape(-1).tolist()
        for name in ("logit_bias_tokens", "logit_bias_values")
    )
    if len(ids) != len(values) or len(ids) > MAX_BIASES:
        raise _invalid("logit_bias", f"takes at most {MAX_BIASES} tokens and as many values; send fewer")
    if not all(-MAX_BIAS <= value <= MAX_BIAS for value in values):
        raise _invalid("logit_bias", f"takes values from {-MAX_BIAS:g} to {MAX_BIAS:g}; scale them")
    return tuple(zip(map(int, ids), map(float, values), strict=True))


def require_tokens(biases: tuple[tuple[int, float], ...], vocab_size: int) -> None:
    """Raises RequestError for a bias on a token that the model does not have."""
    if any(not 0 <= token < vocab_size for token, _ in biases):
        raise _invalid("logit_bias", f"names a token that is not one of the model's 0 to {vocab_size - 1}")


def _schema(tensors: Tensors) -> str | None:
    if "json_schema" not in tensors:
        return None
    value = bytes(_one(tensors, "json_schema", b""))
    if len(value) > MAX_SCHEMA_BYTES:
        raise _invalid("json_schema", f"takes at most {MAX_SCHEMA_BYTES} bytes, not {len(value)}; make it smaller")
    return _text("json_schema", value)


class Prompts:
    """Text into tokens, as the version's ``tokenizer/`` folder says."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        facts = json.loads((folder / "special_tokens.json").read_text(encoding="utf-8"))
        self.stop_ids = frozenset(int(token) for token in facts["eos_token_ids"])
        added = self.tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(token for token, entry in added.items() if entry.special)
        self._bos: int | None = facts["bos_token_id"]
        self._add_bos = bool(facts["add_bos"])

    def encode(self, request: GenerateRequest) -> TokenIds:
        """The prompt, int64 ``[n]``, n >= 1. A beginning-of-text token that both the text and the tokenizer
        brought is taken once. Raises RequestError for a text of no tokens.
        """
        ids = self.tokenizer.encode(request.text_input, add_special_tokens=request.add_special_tokens).ids
        if self._bos is not None:
            if request.add_special_tokens and self._add_bos and ids[:1] != [self._bos]:
                ids = [self._bos, *ids]
            if ids[:2] == [self._bos, self._bos]:
                ids = ids[1:]
        if not request.text_input or not ids:
            raise _invalid("text_input", "is empty; send at least one token of text")
        return np.array(ids, dtype=np.int64)


def fit(prompt: TokenIds, max_tokens: int, limit: int) -> int:
    """``max_tokens``, lowered to what ``limit`` leaves behind the prompt. Raises RequestError
    (``prompt_too_long``) when that is nothing.
    """
    if prompt.size >= limit:
        raise RequestError(
            "prompt_too_long",
            f"text_input has {prompt.size} tokens, and prompt and completion together take at most {limit}; "
            f"shorten it to {limit - 1} tokens or fewer",
        )
    return min(max_tokens, limit - prompt.size)
