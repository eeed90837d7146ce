"""JSON is judged by what it says: an escape hides nothing, invents nothing, and leaves as it was written."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.json_text import JsonRuleStream, unescaped
from gateway.policy.patterns import compile_rule
from gateway.policy.personal import shipped
from gateway.policy.rules import Mask, Meaning, Rules, RuleStream
from gateway.policy.verdict import Span
from tests.gateway.policy.agreement import ACTIONS, ALLOWED, PATTERNS, WORDS, make_rules
from tests.gateway.policy.provoking import cuts

LETTERS = 'abc敏感词 .1@\n\t\r\b\f"\\/𝖆\u0301nbtu'
SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f", '"': '\\"', "\\": "\\\\", "/": "\\/"}

rules = st.builds(
    make_rules,
    st.dictionaries(st.sampled_from(WORDS), st.tuples(st.sampled_from(ACTIONS), st.booleans()), max_size=6),
    st.lists(st.sampled_from(ALLOWED), max_size=2),
    st.sampled_from([Mask(), Mask('"'), Mask("*", '["{category}"]')]),
    st.dictionaries(st.sampled_from(PATTERNS), st.sampled_from(ACTIONS)),
)


def run(stream: RuleStream, text: str, random: Random) -> str:
    """What leaves."""
    return "".join(stream.feed(piece) for piece in cuts(random, text)) + stream.finish()


def written(text: str, random: Random) -> str:
    """``text`` within a string of JSON, in one of the ways to write it."""
    parts = []
    for character in text:
        forms = [json.dumps(character)[1:-1], SHORT.get(character, character)]
        forms += ["".join(f"\\u{each:04X}" for each in _units(character))] * (random.random() < 0.1)
        parts.append(random.choice(forms))
    return "".join(parts)


def _units(character: str) -> list[int]:
    raw = character.encode("utf-16-be")
    return [int.from_bytes(raw[place : place + 2], "big") for place in range(0, len(raw), 2)]


@settings(max_examples=600, deadline=None)
@given(rules, st.text(LETTERS, max_size=24), st.randoms(use_true_random=False))
def test_json_is_what_it_says(rules: Rules, text: str, random: Random) -> None:
    """Cut anywhere, also within an escape: what leaves says what leaves of the text itself, found at its places."""
    raw = written(text, random)
    plain, stream = RuleStream(rules), JsonRuleStream(rules)
    left, left_json = run(plain, text, random), run(stream, raw, random)
    assert json.loads(f'"{left_json}"') == left
    assert stream.blocked == plain.blocked
    for said, found in zip(plain.spans, stream.spans, strict=True):
        assert json.loads(f'"{raw[found.start : found.end]}"') == text[said.start : said.end]
    if not plain.spans:
        assert left_json == raw


def judged(rules: Rules, text: str) -> tuple[str, list[Span]]:
    """What leaves of ``text`` a character at a time, and what is found."""
    stream = JsonRuleStream(rules)
    return "".join(map(stream.feed, text)) + stream.finish(), stream.spans


@pytest.mark.parametrize(
    ("raw", "left"),
    [
        (r'{"a":"Recipe:\nfuck that"}', r'{"a":"Recipe:\n**** that"}'),
        (r'{"a":"1.\tpipe bomb"}', r'{"a":"1.\t*********"}'),
        (r'{"a":"敏\t感\t词"}', r'{"a":"*****"}'),
        (r'{"a":"key:\nsk-abcdefghijklmnopqrstuvwx"}', r'{"a":"key:\n***************************"}'),
        (r'{"a":"to:\nbob@example.com."}', r'{"a":"to:\n***************."}'),
        (r'{"a":"f\u0075ck \ud835\udd91"}', r'{"a":"**** \ud835\udd91"}'),
        (r'{"a":"a\\nfuck"}', r'{"a":"a\\nfuck"}'),
        (r'{"a":"no \"escape\" \/ hides\n"', r'{"a":"no \"escape\" \/ hides\n"'),
        (r'{"a":"cut in \ud83', r'{"a":"cut in \ud83'),
    ],
)
def test_what_an_escape_stood_before(raw: str, left: str) -> None:
    """Is found as if the character itself stood there; a letter behind a backslash that says itself is a letter."""
    words = make_rules(dict.fromkeys(("fuck", "pipe bomb", "敏感词"), ("redact", True)), [], Mask(), {}).words
    patterns = (shipped()["api_key"], shipped()["email"])
    assert judged(Rules(words, patterns, (Meaning("p", "p", "redact"),) * 2), raw)[0] == left


def test_an_escape_is_held_only_until_it_is_whole() -> None:
    """And places that are reported are places in the JSON."""
    rule = compile_rule("p", "ab", "a")
    stream = JsonRuleStream(Rules((), (rule,), (Meaning("p", "p", "block"),)))
    held = []
    for character in r"\n\u4e2d\ud83d\ude00x":
        stream.feed(character)
        held.append(stream.held)
    assert held == [1, 0, *range(1, 6), 0, *range(1, 12), 0, 0]
    assert stream.feed(r"\nab.") == r"\n"
    assert [(each.start, each.end) for each in stream.spans] == [(23, 25)]


def test_unescaped() -> None:
    """What is not whole stays as it is."""
    assert unescaped(r"a\nb\"\u4e2d\ud83d\ude00\\n\u4e") == 'a\nb"中😀\\n\\u4e'
