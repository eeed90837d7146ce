"""How likely the tokens were: the figures, the bytes, and that no token leaves before its text."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

from build_engine.backend.detokenizer import TextStream
from build_engine.backend.logprobs import TokenBytes, TokenLog, to_json

VOCABULARY = {"a": 0, "b": 1, "\u0120bc": 2, "\u00e7": 3, "\u0124": 4, "\u00ab": 5, "<end>": 6}
"""Byte-level: a space is U+0120; tokens 3, 4 and 5 are the bytes of U+7082 only together."""


@pytest.fixture
def tokenizer() -> Tokenizer:
    """Byte-level tokens, some of them parts of a character."""
    made = Tokenizer(models.BPE(VOCABULARY, []))
    made.decoder = decoders.ByteLevel()
    return made


def row(*logits: float) -> np.ndarray:
    """A row of logits, float32, as long as the vocabulary."""
    return np.array([*logits, *[-20.0] * (len(VOCABULARY) - len(logits))], np.float32)


def test_the_figures_are_a_log_softmax(tokenizer: Tokenizer) -> None:
    """The token's own and the alternatives', likeliest first, of the model's whole distribution."""
    log = TokenLog(2, TokenBytes(tokenizer))
    log.add(row(1.0, 3.0, 2.0), 0, 1)
    (entry,) = log.take(1)
    total = math.log(sum(math.exp(each) for each in (1, 3, 2, *[-20] * 4)))
    assert entry.token == b"a"
    assert entry.logprob == pytest.approx(1 - total, abs=1e-5)
    assert [token for token, _ in entry.alternatives] == [b"b", b" bc"]
    assert [each for _, each in entry.alternatives] == pytest.approx([3 - total, 2 - total], abs=1e-5)


def test_a_token_without_a_chance_is_still_json(tokenizer: Tokenizer) -> None:
    """Minus infinity is no JSON."""
    log = TokenLog(1, TokenBytes(tokenizer))
    log.add(row(-math.inf, 3.0), 1, 1)
    rows = json.loads(to_json(log.take(1)))
    assert rows == [[1, "b", pytest.approx(0, abs=1e-5), [["b", pytest.approx(0, abs=1e-5)]]]]
    log.add(row(-math.inf, 3.0), 0, 2)
    assert json.loads(to_json(log.take(1)))[0][2] == -9999.0


def test_the_bytes_of_a_token(tokenizer: Tokenizer) -> None:
    """Byte-level, byte fallback and plain tokens; an added token is its own text."""
    assert [TokenBytes(tokenizer)[token] for token in (0, 2, 3, 4, 6)] == [b"a", b" bc", b"\xe7", b"\x82", b"<end>"]
    pieces = Tokenizer(models.BPE({"\u2581the": 0, "<0xE7>": 1, "\u70b8": 2}, [], byte_fallback=True))
    pieces.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    assert [TokenBytes(pieces)[token] for token in range(3)] == [b" the", b"\xe7", "炸".encode()]


def test_tokens_leave_with_their_text(tokenizer: Tokenizer) -> None:
    """Parts of a character wait for the whole; what a stop sequence holds waits, and what it takes never leaves."""
    text, log, left = TextStream(tokenizer, frozenset(), ["bbb"]), TokenLog(0, TokenBytes(tokenizer)), []
    for token in (0, 3, 4, 5, 1, 1, 0, 1, 1, 1):
        piece, stopped = text.push(token)
        log.add(row(1.0), token, text.decoded)
        left.append((piece, [each.token for each in log.take(len(piece))]))
    assert stopped
    character = "\u70ab"
    assert left == [
        ("a", [b"a"]),
        ("", []),
        ("", []),
        (character, [b"\xe7", b"\x82", b"\xab"]),
        ("", []),
        ("", []),
        ("bba", [b"b", b"b", b"a"]),
        ("", []),
        ("", []),
        ("", []),
    ]
    assert text.finish() == ("", False)
    log.decoded(text.decoded)
    assert log.take(0) == []
