"""What leaves a stream is what leaves the whole text, however the text was cut, and nothing that is blocked leaves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.folds import Folds
from gateway.policy.matcher import Entry, Matcher
from gateway.policy.patterns import compile_rule
from gateway.policy.rules import Mask, Meaning, Rules, RuleStream
from gateway.policy.verdict import Action
from gateway.policy.wordset import Kind, make_words

LETTERS = "abc敏感词 .，!1@$0́\u200b ＡB"
WORDS = ("ab", "abc", "敏感", "敏感词", "a c", "bca", "c敏", "abba", "词a")
ACTIONS: tuple[Action, ...] = ("flag", "redact", "block")

texts = st.text(LETTERS, max_size=24)
cuts = st.lists(st.integers(1, 5), min_size=1, max_size=24)


def make_rules(
    draw_actions: dict[str, tuple[Action, bool]], allow: list[str], mask: Mask, patterns: dict[str, Action]
) -> Rules:
    """Rules from words with an action and whether they are whole words."""
    entries = [
        (Entry(word, whole, group), Kind("list", action, False, word, group))
        for group, (word, (action, whole)) in enumerate(draw_actions.items())
    ]
    sets = [make_words(entries[1::2], Folds(), ("input",))]
    sets.append(make_words(entries[::2], Folds(repeat=0, traditional=False), ("input",)))
    words = (each.under({}) for each in sets)
    return Rules(
        tuple(each for each in words if each is not None),
        tuple(compile_rule(f"p{index}", pattern) for index, pattern in enumerate(patterns)),
        tuple(Meaning(f"p{index}", "personal", action) for index, action in enumerate(patterns.values())),
        Matcher([Entry(word) for word in allow]) if allow else None,
        mask,
    )


rules = st.builds(
    make_rules,
    st.dictionaries(st.sampled_from(WORDS), st.tuples(st.sampled_from(ACTIONS), st.booleans()), max_size=6),
    st.lists(st.sampled_from(("xabc", "cab", "感词敏感", "a.b.c a", "敏感词c")), max_size=2),
    st.sampled_from((Mask(), Mask("#"), Mask("*", "[{category}]"))),
    st.dictionaries(st.sampled_from((r"a\d{1,3}b?", r"(?<!c)1[0-9]{2}(?!\d)", r"c.{1,4}a")), st.sampled_from(ACTIONS)),
)


def run(rules: Rules, text: str, sizes: list[int]) -> tuple[str, object, set[object]]:
    """What leaves, what blocked, and what was found."""
    stream, out, place, turn = RuleStream(rules), [], 0, 0
    while place < len(text):
        size = sizes[turn % len(sizes)]
        out.append(stream.feed(text[place : place + size]))
        place, turn = place + size, turn + 1
    out.append(stream.finish())
    return "".join(out), stream.blocked, set(stream.spans)


@settings(max_examples=1000, deadline=None)
@given(rules, texts, cuts)
def test_cutting_makes_no_difference(rules: Rules, text: str, sizes: list[int]) -> None:
    """One character at a time, any pieces, or all at once."""
    assert run(rules, text, sizes) == run(rules, text, [1]) == run(rules, text, [100])


@settings(max_examples=1000, deadline=None)
@given(rules, texts, cuts)
def test_a_stream_is_the_whole_text(rules: Rules, text: str, sizes: list[int]) -> None:
    """Same text as the whole with its spans masked; or, if something blocks, a beginning that ends before it."""
    spans = rules.check(text)
    left, blocked, _ = run(rules, text, sizes)
    blocking = [span for span in spans if span.action == "block"]
    assert (blocked is not None) == bool(blocking)
    if not blocking:
        assert left == rules.redacted(text, spans)
    elif rules.mask.label is None:
        assert any(len(left) == span.start for span in blocking)


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
