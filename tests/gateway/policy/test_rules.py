"""What leaves a stream is what leaves the whole text, however the text was cut, and nothing that is blocked leaves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.rules import Mask, Rules, RuleStream
from tests.gateway.policy.agreement import (
    ACTIONS,
    ALLOWED,
    LETTERS,
    MASKS,
    PATTERNS,
    WORDS,
    make_rules,
    of_cuts,
    of_whole,
    run,
)

texts = st.text(LETTERS, max_size=24)
cuts = st.lists(st.integers(1, 5), min_size=1, max_size=24)


rules = st.builds(
    make_rules,
    st.dictionaries(st.sampled_from(WORDS), st.tuples(st.sampled_from(ACTIONS), st.booleans()), max_size=6),
    st.lists(st.sampled_from(ALLOWED), max_size=2),
    st.sampled_from(MASKS),
    st.dictionaries(st.sampled_from(PATTERNS), st.sampled_from(ACTIONS)),
)


@settings(max_examples=1000, deadline=None)
@given(rules, texts, cuts)
def test_cutting_makes_no_difference(rules: Rules, text: str, sizes: list[int]) -> None:
    """One character at a time, any pieces, or all at once."""
    of_cuts(rules, text, sizes)


@settings(max_examples=1000, deadline=None)
@given(rules, texts, cuts)
def test_a_stream_is_the_whole_text(rules: Rules, text: str, sizes: list[int]) -> None:
    """Same text as the whole with its spans masked; or, if something blocks, a beginning that ends before it."""
    of_whole(rules, text, sizes)


@settings(max_examples=500, deadline=None)
@given(texts, cuts)
def test_flags_hold_nothing(text: str, sizes: list[int]) -> None:
    """A rule that only flags never delays a character."""
    rules = make_rules(dict.fromkeys(WORDS, ("flag", False)), [], Mask(), {r"a\d{1,3}b?": "flag"})
    stream, place = RuleStream(rules), 0
    for size in sizes:
        stream.feed(text[place : place + size])
        place += size
        assert stream.held == 0


@pytest.fixture
def stream() -> Callable[..., RuleStream]:
    """Makes a stream over block words."""

    def make(*words: str, allow: tuple[str, ...] = ()) -> RuleStream:
        return RuleStream(make_rules(dict.fromkeys(words, ("block", True)), list(allow), Mask(), {}))

    return make


def test_nothing_of_a_blocked_word_leaves(stream: Callable[..., RuleStream]) -> None:
    """Not its first letter either."""
    guard = stream("敏感词")
    assert [guard.feed(each) for each in "这是敏 感"] == ["这", "是", "", "", ""]
    assert guard.feed("词了") == ""
    assert guard.blocked is not None
    assert guard.finish() == ""


def test_what_turns_out_harmless_leaves_at_once(stream: Callable[..., RuleStream]) -> None:
    """As soon as no entry can begin there any more."""
    guard = stream("敏感词")
    assert [guard.feed(each) for each in ("敏", "感", "性")] == ["", "", "敏感性"]


def test_an_allowed_word_cancels_what_it_contains(stream: Callable[..., RuleStream]) -> None:
    """And only that."""
    guard = stream("ab", allow=("x ab y",))
    assert guard.feed("x ab y") + guard.finish() == "x ab y"
    guard = stream("ab", allow=("x ab y",))
    assert guard.feed("x ab z") + guard.finish() == "x "


@pytest.mark.parametrize(
    ("redact", "block", "allow", "text", "left"),
    [
        ("abcd", "ijkl", ["abcd efgh ijkl xyz"], "abcd efgh ijkl now", "**** efgh "),
        ("敏感词", "炸弹", ["敏感词和炸弹是好的"], "这是敏感词和炸弹是坏的", "这是***和"),
        ("secret project bomb", "bomb", [], "a secret project bomb!", "a ***************"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_what_is_certain_together_with_a_block_is_masked(
    redact: str, block: str, allow: list[str], text: str, left: str, size: int
) -> None:
    """A match before the one that blocks is masked and reported, and of one that it cuts what stands before it."""
    rules = make_rules({redact: ("redact", True), block: ("block", True)}, allow, Mask(), {})
    out, blocked, found = run(rules, text, [size])
    assert (out, blocked is not None, len(found)) == (left, True, 2)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_what_a_block_leaves_undecided_is_masked(size: int) -> None:
    """What would have been redacted had nothing followed: a word at its end, a pattern that could have gone on."""
    rules = make_rules({"secret project bomb": ("redact", True), "bomb": ("block", False)}, [], Mask(), {})
    assert run(rules, "a secret project bomb!", [size])[0] == "a ***************"
    rules = make_rules({"炸弹": ("block", True)}, [], Mask(), {"密码.{1,20}": "redact"})
    assert run(rules, "我的密码 123，炸弹。还有", [size])[0] == "我的*******"
