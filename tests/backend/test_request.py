"""What a request may ask, what its refusal says, and how its text becomes tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from build_engine.backend.request import Prompts, RequestError, fit, parse
from build_engine.backend.sampling import SamplingParams


def tensors(**values: Any) -> dict[str, np.ndarray]:
    """Tensors as Triton hands them over, with their leading batch dimension."""
    given = {"text_input": [b"hello"], **values}
    return {
        name: np.array([v if isinstance(v, list) else [v]], dtype=object if isinstance(v, list) else None)
        for name, v in given.items()
    }


def test_everything_but_the_text_has_a_default() -> None:
    """Greedy, 256 tokens, streamed, no stop sequences, special tokens added, and the end token respected."""
    asked = parse(tensors())
    assert (asked.text_input, asked.max_tokens, asked.stop) == ("hello", 256, ())
    assert asked.sampling == SamplingParams()
    assert (asked.stream, asked.ignore_eos, asked.add_special_tokens) == (True, False, True)


def test_every_value_arrives() -> None:
    """Each tensor reaches the field of its name."""
    asked = parse(
        tensors(
            max_tokens=np.int32(7),
            temperature=np.float32(0.5),
            top_k=np.int32(9),
            top_p=np.float32(0.25),
            min_p=np.float32(0.125),
            seed=np.uint64(2**64 - 1),
            repetition_penalty=np.float32(1.5),
            frequency_penalty=np.float32(-1.0),
            presence_penalty=np.float32(2.0),
            stop=["ß\n".encode(), b"x"],
            stream=np.bool_(False),
            ignore_eos=np.bool_(True),
            add_special_tokens=np.bool_(False),
        )
    )
    assert asked.sampling == SamplingParams(0.5, 9, 0.25, 0.125, 2**64 - 1, 1.5, -1.0, 2.0)
    assert (asked.max_tokens, asked.stop) == (7, ("ß\n", "x"))
    assert (asked.stream, asked.ignore_eos, asked.add_special_tokens) == (False, True, False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", np.int32(0)),
        ("temperature", np.float32(-0.1)),
        ("temperature", np.float32("nan")),
        ("temperature", np.float32("inf")),
        ("top_p", np.float32(0)),
        ("top_p", np.float32(1.01)),
        ("top_p", np.float32("nan")),
        ("top_k", np.int32(-1)),
        ("min_p", np.float32(1.5)),
        ("repetition_penalty", np.float32(0)),
        ("frequency_penalty", np.float32("inf")),
        ("presence_penalty", np.float32("nan")),
        ("stop", [b""]),
        ("stop", [b"x" * 257]),
        ("stop", [b"x"] * 17),
        ("stop", [b"\xff"]),
        ("text_input", [b"ab\xff"]),
        ("text_input", [b"a", b"b"]),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    """The refusal is stable in code and names the tensor first."""
    with pytest.raises(RequestError) as refusal:
        parse(tensors(**{name: value}))
    assert refusal.value.code == "invalid_input"
    assert str(refusal.value).startswith(f"{name} ")


def prompts(folder: Path, *, add_bos: bool, template: bool) -> Prompts:
    """A tokenizer of words, with a beginning token that its own template adds or not."""
    words = {"<s>": 0, "</s>": 1, "hello": 2, "world": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="world"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    if template:
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.enable_truncation(2)
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {"bos_token_id": 0, "eos_token_ids": [1], "add_bos": add_bos, "special_tokens": ["<s>", "</s>"]}
    (folder / "special_tokens.json").write_text(json.dumps(facts))
    return Prompts(folder)


@pytest.mark.parametrize(("add_bos", "template"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("text", ["hello world hello", "<s>hello world hello", "<s> hello world hello"])
def test_the_beginning_token_stands_there_once(tmp_path: Path, add_bos: bool, template: bool, text: str) -> None:
    """Whether text, template or both bring it; and nothing that the tokenizer's file says cuts the prompt."""
    found = prompts(tmp_path, add_bos=add_bos, template=template)
    assert found.encode(parse(tensors(text_input=[text.encode()]))).tolist() == [0, 2, 3, 2]


def test_special_tokens_are_left_out_when_asked(tmp_path: Path) -> None:
    """add_special_tokens=false adds none, and keeps the ones in the text."""
    found = prompts(tmp_path, add_bos=True, template=True)
    plain = {"add_special_tokens": np.bool_(False)}
    assert found.encode(parse(tensors(text_input=[b"hello"], **plain))).tolist() == [2]
    assert found.encode(parse(tensors(text_input=[b"<s><s>hello"], **plain))).tolist() == [0, 2]


@pytest.mark.parametrize("text", [b"", b"  "])
def test_a_text_of_no_tokens_is_refused(tmp_path: Path, text: bytes) -> None:
    """Nothing to go on from is an error of the request."""
    found = prompts(tmp_path, add_bos=False, template=False)
    with pytest.raises(RequestError, match="text_input is empty"):
        found.encode(parse(tensors(text_input=[text])))


def test_end_and_special_tokens_come_from_the_version(tmp_path: Path) -> None:
    """What ends a text and what is never shown are read from the tokenizer's folder."""
    found = prompts(tmp_path, add_bos=True, template=False)
    assert found.stop_ids == {1}
    assert found.special_ids == {0, 1}


def test_max_tokens_is_lowered_to_what_fits() -> None:
    """A prompt that leaves room for one token gets one; one that leaves none is refused with the limit."""
    prompt = np.zeros(10, np.int64)
    assert fit(prompt, 5, 100) == 5
    assert fit(prompt, 100, 30) == 20
    assert fit(prompt, 100, 11) == 1
    with pytest.raises(RequestError, match="at most 10") as refusal:
        fit(prompt, 1, 10)
    assert refusal.value.code == "prompt_too_long"
