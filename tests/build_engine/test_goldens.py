"""What a version is asked before it serves: reading, recording, and what a wrong line is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from build_engine.errors import TextError
from build_engine.goldens import Golden, read_goldens
from build_engine.source import TokenizerFiles

from .checkpoints import CHAT_TEMPLATE, Shape, write_directory
from .conftest import Builder

TOKENIZER = TokenizerFiles("", None, "", (), "", (), CHAT_TEMPLATE)


def test_a_users_line_becomes_a_golden(tmp_path: Path) -> None:
    """Text as it is; a conversation in the model's template, whose special tokens then count."""
    file = tmp_path / "ask.jsonl"
    lines = [{"text": "the", "contains": "x"}, {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}]
    file.write_text("\n\n".join(map(json.dumps, lines)))
    assert read_goldens(file, TOKENIZER) == [
        Golden("the", contains="x"),
        Golden("<|user|>hi", add_special_tokens=False, max_tokens=3),
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1: not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "neither text"),
        ('{"text": ""}', "must not be empty"),
        ('{"text": "x", "max_tokens": 0}', "max_tokens at least 1"),
        ('{"text": "x", "max_tokens": "7"}', "max_tokens is not known here, or not int"),
        ('{"text": "x", "expect": "y"}', "expect is not known here"),
        ("", "holds 0 goldens"),
        ('{"text": "\\ud800"}', "line 1: half a surrogate pair"),
        ("[" * 100_000, "line 1: nested too deeply"),
        ('{"messages": [{"role": "user", "content": null}]}', r"messages\[0\]\.content must be a string"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    """File, line and field, before anything is built or loaded."""
    file = tmp_path / "ask.jsonl"
    file.write_text(line)
    with pytest.raises(TextError, match=says):
        read_goldens(file, TOKENIZER)


def test_goldens_hold_any_separator_of_lines(publish_from: Builder, repository: Path, tmp_path: Path) -> None:
    """In a question, and so in what a version keeps of it, which is read again before a rollout."""
    source = write_directory(tmp_path / "source", Shape(layers=1))
    asked = tmp_path / "ask.jsonl"
    asked.write_text('{"text": "the\u2028th\u0085e", "max_tokens": 2}\n', encoding="utf-8")
    publish_from(source, goldens=asked)
    (recorded,) = read_goldens(repository / "tiny/1/goldens.jsonl", TOKENIZER)
    assert recorded.prompt == "the\u2028th\u0085e"


def test_a_build_records_what_its_engine_answers(publish_from: Builder, repository: Path, tmp_path: Path) -> None:
    """Prompts, their tokens and greedy answers stand in the version and in its manifest; the same build again is found,
    and other questions are another build."""
    source = write_directory(tmp_path / "source", Shape(layers=1))
    asked = tmp_path / "ask.jsonl"
    asked.write_text(json.dumps({"text": "the th", "max_tokens": 5}))
    manifest = publish_from(source, goldens=asked)
    recorded = read_goldens(repository / "tiny/1/goldens.jsonl", TOKENIZER)
    assert "goldens.jsonl" in manifest["files"]
    assert [(each.prompt, each.prompt_tokens, each.max_tokens) for each in recorded] == [("the th", 3, 5)]
    assert recorded[0].text_output
    assert publish_from(source, goldens=asked) == manifest
    asked.write_text(json.dumps({"text": "the th", "max_tokens": 6}))
    assert publish_from(source, goldens=asked)["created"] >= manifest["created"]
    assert sorted(path.name for path in (repository / "tiny").iterdir()) == ["1", "2", "config.pbtxt"]


def test_a_golden_longer_than_the_model_is_refused(publish_from: Builder, tmp_path: Path) -> None:
    """The number of the line and the limit are said."""
    source = write_directory(tmp_path / "source", Shape(layers=1, context=64))
    asked = tmp_path / "ask.jsonl"
    asked.write_text(json.dumps({"text": "the", "max_tokens": 64}))
    with pytest.raises(TextError, match="number 1 and its answer take more than the 64 tokens"):
        publish_from(source, goldens=asked)
