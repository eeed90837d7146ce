"""Sentences: whole, in order, and the same however the text was cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.segments import Segmenter


def split(text: str, sizes: list[int], longest: int = 400) -> list[str]:
    """The segments of a text fed in pieces."""
    segmenter, found, place, turn = Segmenter(longest), [], 0, 0
    while place < len(text):
        size = sizes[turn % len(sizes)]
        found += segmenter.feed(text[place : place + size])
        place, turn = place + size, turn + 1
    return found + segmenter.finish()


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("你好。今天很好！是吗？", ["你好。", "今天很好！", "是吗？"]),
        ("他说：“走吧！”然后走了。", ["他说：“走吧！”", "然后走了。"]),
        ("It is 3.14. See v1.2 at a.com. Yes!", ["It is 3.14. ", "See v1.2 at a.com. ", "Yes!"]),
        ("one\ntwo; three…four", ["one\n", "two;", " three…", "four"]),
        ("What?! (Really?) Fine", ["What?!", " (Really?)", " Fine"]),
        ("", []),
    ],
)
def test_where_sentences_end(text: str, segments: list[str]) -> None:
    """Chinese and English ends, quotes and brackets behind them, numbers and addresses whole."""
    assert split(text, [1]) == segments


def test_a_long_one_is_cut_at_a_break() -> None:
    """At the last comma or blank; hard, if there is none."""
    assert split("aaaa, bbbb cccc", [3], longest=12) == ["aaaa, bbbb ", "cccc"]
    assert split("a" * 25, [4], longest=10) == ["a" * 10, "a" * 10, "a" * 5]


@settings(max_examples=2000, deadline=None)
@given(st.text("ab 。.!?\n”),，", max_size=60), st.lists(st.integers(1, 9), min_size=1), st.integers(4, 30))
def test_cutting_makes_no_difference(text: str, sizes: list[int], longest: int) -> None:
    """Joined they are the text, none is empty or too long."""
    segments = split(text, sizes, longest)
    assert "".join(segments) == text
    assert segments == split(text, [1], longest) == split(text, [100], longest)
    assert all(0 < len(each) <= longest for each in segments)
