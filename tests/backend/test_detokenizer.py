"""Streamed text is the whole text, wherever tokens, characters and stop sequences are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from build_engine.backend.detokenizer import Detokenizer, StopMatcher, TextStream

NO_SPECIAL: frozenset[int] = frozenset()


def byte_level() -> Tokenizer:
    """GPT-2's kind: a token for each byte, and some that end or begin inside a character."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("Ġ", "h"), ("Ġ", "ä"), ("½", "ł"), ("å", "¥"), ("Ġ", "ð")]
    vocabulary = {letter: i for i, letter in enumerate([*letters, *(a + b for a, b in pairs)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    return tokenizer


def sentencepiece() -> Tokenizer:
    """Llama 2's kind: ▁ for a space, the first of which is dropped, and bytes for what has no piece."""
    pieces = ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *"abcdehlorw", "▁hello", "▁w", "好"]
    tokenizer = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            [],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return tokenizer


BYTE_LEVEL, SENTENCEPIECE = byte_level(), sentencepiece()
BYTE_LEVEL_END = BYTE_LEVEL.token_to_id("<|end|>")
SENTENCEPIECE_END = SENTENCEPIECE.token_to_id("</s>")


def streamed(tokenizer: Tokenizer, tokens: list[int], special: frozenset[int] = NO_SPECIAL) -> list[str]:
    """The pieces, the last of which is what finish() gave."""
    detokenizer = Detokenizer(tokenizer, special)
    return [*(detokenizer.push(token) for token in tokens), detokenizer.finish()]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, BYTE_LEVEL_END), max_size=60))
@example([BYTE_LEVEL.token_to_id("ð")] * 60)
def test_any_byte_level_tokens_stream_as_they_decode(tokens: list[int]) -> None:
    """Even bytes that are no text at all come out as the tokenizer itself would write them."""
    pieces = streamed(BYTE_LEVEL, tokens, frozenset([BYTE_LEVEL_END]))
    assert "".join(pieces) == BYTE_LEVEL.decode(tokens, skip_special_tokens=True)


def spell(text: str) -> list[int]:
    """Tokens of a text in the sentencepiece vocabulary: pieces where there are any, else bytes."""
    tokens: list[int] = []
    for character in text.replace(" ", "▁"):
        piece = SENTENCEPIECE.token_to_id(character)
        fallback = [SENTENCEPIECE.token_to_id(f"<0x{byte:02X}>") for byte in character.encode()]
        tokens += fallback if piece is None else [piece]
    return tokens


@settings(max_examples=300, deadline=None)
@given(st.text("abcdehlorw  好你ß😀\n", max_size=40), st.sets(st.integers(0, 40)))
@example("  hello  world ", set())
@example("你好你", {1, 2})
def test_any_text_streams_through_byte_fallback(text: str, ends: set[int]) -> None:
    """Spaces at the front, runs of spaces and characters spelt in bytes arrive unchanged, and special
    tokens anywhere leave no trace.
    """
    tokens = spell(text)
    mixed = [t for i, token in enumerate(tokens) for t in ([SENTENCEPIECE_END] if i in ends else []) + [token]]
    pieces = streamed(SENTENCEPIECE, mixed, frozenset([SENTENCEPIECE_END]))
    assert "".join(pieces) == SENTENCEPIECE.decode(tokens)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=30))
def test_no_character_is_sent_in_halves(text: str) -> None:
    """Until the end, no piece holds the mark of an undecodable byte."""
    for tokenizer, tokens in ((BYTE_LEVEL, BYTE_LEVEL.encode(text).ids), (SENTENCEPIECE, spell(text))):
        pieces = streamed(tokenizer, tokens)
        assert "\ufffd" not in "".join(pieces)


def test_an_open_character_becomes_a_mark_at_the_end() -> None:
    """Generation that ends inside a character says so instead of losing it."""
    tokens = BYTE_LEVEL.encode("ab😀").ids[:-1]
    pieces = streamed(BYTE_LEVEL, tokens)
    assert pieces[-1] == "\ufffd"
    assert "".join(pieces[:-1]) == "ab"


def test_endless_garbage_is_let_go() -> None:
    """Bytes that never become a character are not held for ever, so a token's cost stays bounded."""
    detokenizer = Detokenizer(BYTE_LEVEL, NO_SPECIAL)
    garbage = BYTE_LEVEL.token_to_id("ð")
    pieces = [detokenizer.push(garbage) for _ in range(1000)]
    assert len("".join(pieces)) > 900


def first_completed(text: str, stops: list[str]) -> str:
    """The text before the stop sequence that is completed first; of those the longest."""
    for end in range(1, len(text) + 1):
        done = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if done:
            return text[: end - max(done)]
    return text


@settings(max_examples=500, deadline=None)
@given(
    st.text("abc", max_size=40),
    st.lists(st.text("abc", min_size=1, max_size=6), max_size=4),
    st.lists(st.integers(0, 40), max_size=10),
)
@example("aabaabaaab", ["aabaaab"], [1, 2, 3])
@example("abcabd", ["abcabe", "b"], [])
def test_stop_sequences_do_not_depend_on_the_cut(text: str, stops: list[str], cuts: list[int]) -> None:
    """For any cut the emitted text ends exactly before the stop sequence; and what is held at any time
    could still become one, no more.
    """
    matcher = StopMatcher(stops)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    emitted, stopped = "", False
    for start, end in itertools.pairwise(edges):
        piece, stopped = matcher.push(text[start:end])
        emitted += piece
        if stopped:
            break
        held = text[len(emitted) : end]
        longest = max((k for s in stops for k in range(len(s)) if text[:end].endswith(s[:k])), default=0)
        assert len(held) == longest
    if not stopped:
        emitted += matcher.finish()
    assert emitted == first_completed(text, stops)
    assert stopped == any(stop in text for stop in stops)


@pytest.mark.parametrize("stop", ["lo wo", "😀", "ö 😀"])
def test_a_stop_sequence_may_span_tokens_and_characters(stop: str) -> None:
    """Bytes, tokens and stop sequences are cut at different places; only the stop sequence ends the text."""
    text = "hello wörld ö 😀 and more lo world"
    stream = TextStream(BYTE_LEVEL, NO_SPECIAL, [stop])
    emitted = ""
    for token in BYTE_LEVEL.encode(text).ids:
        piece, stopped = stream.push(token)
        emitted += piece
        if stopped:
            break
    assert stopped
    assert emitted == text[: text.index(stop)]


def test_held_text_comes_at_the_end() -> None:
    """What could have become a stop sequence and did not is part of the answer."""
    stream = TextStream(BYTE_LEVEL, NO_SPECIAL, ["world!"])
    pieces = [stream.push(token)[0] for token in BYTE_LEVEL.encode("hello world").ids]
    assert "".join(pieces) == "hello "
    assert stream.finish() == ("world", False)


def test_the_rest_can_complete_a_stop_sequence() -> None:
    """The mark of an undecodable byte is text like any other."""
    stream = TextStream(BYTE_LEVEL, NO_SPECIAL, ["b\ufffd"])
    pieces = [stream.push(token)[0] for token in BYTE_LEVEL.encode("ab😀").ids[:-1]]
    assert "".join(pieces) == "a"
    assert stream.finish() == ("", True)
