"""The matcher keeps its rules: whole text, stream and an independent brute force agree."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.policy.folds import Folds
from gateway.policy.matcher import Entry, Matcher
from tests.gateway.policy import provoking
from tests.gateway.policy.agreement import of_matches


def spans(text: str, *words: str, whole: bool = False, folds: Folds = Folds()) -> list[str]:  # noqa: B008 - frozen
    """The stretches of ``text`` that are found."""
    found = Matcher([Entry(word, whole) for word in words], folds).find(text)
    return [text[match.start : match.end] for match in found]


KEPT = ((99096, Folds()), (26096, Folds()))
"""Examples that once disagreed: a capital I in a row of l, as one more of it and as the end of it."""


@pytest.mark.parametrize(("seed", "folds"), KEPT)
def test_what_once_disagreed_agrees(seed: int, folds: Folds) -> None:
    """Found by the long run, mended, kept."""
    of_matches(seed, folds)


@settings(max_examples=5000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**40), folds=st.sampled_from(provoking.FOLDS))
def test_streamed_whole_and_brute_force_agree(seed: int, folds: Folds) -> None:
    """However the text is cut, the same matches are found as in the whole text and by every possible path. The same
    examples every time; ``python -m benchmarks.streaming_equals_whole`` draws further."""
    of_matches(seed, folds)


@pytest.mark.parametrize(
    "text",
    [
        "secretive f u c k", "ＦＵＣＫ", "𝐟𝐮𝐜𝐤", "ⓕⓤⓒⓚ", "fuсk", "f\u200bu\u200bck", "f\u00aduck", "fück",
        "f.u.c.k", "f-u-c-k", "fu\u0301ck",
     "fuuuuck", "fu¢k", "ƒuck", "f\u202euck", "f\u034fuck", "ᶠᵘᶜᵏ", "FUCK", "f*u*c*k",
    ],
)  # fmt: skip
def test_written_otherwise_is_found(text: str) -> None:
    """What people do to a Latin word."""
    assert spans(text, "fuck", whole=True)


@pytest.mark.parametrize(
    "text",
    [
        "敏感词", "敏感詞", "敏 感 词", "敏*感*词", "敏\u200b感词", "敏\u3000感\u3000词", "敏😀感😀词",
        "敏，感，词", "敏\n感\n词", "敏感\u0338词", "敏_感词",
    ],
)  # fmt: skip
def test_chinese_written_otherwise_is_found(text: str) -> None:
    """What people do to a Chinese word: the whole of it is the span."""
    assert spans(text, "敏感词") == [text]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Scunthorpe", "cunt"), ("classic assassin", "ass"), ("c l a s s i c", "ass"), ("a 5 s", "a5"),
        ("pass the salt", "ass"), ("raccoon", "coon"), ("bill", "bil"), ("bass", "ass"),
        ("therapist", "rapist"), ("Dickens", "dick"),
        ("as so often", "asso"), ("he is his", "shi"), ("pas$word", "sword"), ("is, hit", "shit"),
    ],
)  # fmt: skip
def test_ordinary_text_is_not_found(text: str, word: str) -> None:
    """Near misses are misses, for entries that must be whole words."""
    assert spans(text, word, whole=True) == []


@pytest.mark.parametrize("text", ["错，比如", "错。比", "爽。 电影"])
def test_a_phrase_end_parts_two_ideographs(text: str) -> None:
    """Two letters across a comma are no word."""
    assert spans(text, "错比", "爽电影") == []


def test_a_sign_as_the_first_letter_stands_inside_a_word_too() -> None:
    """A whole word does not begin inside another one because its first letter is a sign."""
    assert spans("pas$word", "sword", whole=True) == []
    assert spans("my $word", "sword", whole=True) == ["$word"]


def test_a_capital_i_is_an_l_without_the_fold_of_case() -> None:
    """Look-alikes do not need the fold of case."""
    assert spans("biIl", "bill", folds=replace(Folds(), case=False)) == ["biIl"]


def test_a_long_row_of_one_letter_takes_time_in_proportion() -> None:
    """``www...`` is no way to stop the gateway: ten times the text, at most about ten times the work."""
    matcher = Matcher([Entry("www"), Entry("wwwab"), Entry("awwwww")])

    def seconds(text: str) -> float:
        began = time.perf_counter()
        matcher.find(text)
        matcher.scan().feed(text)
        return time.perf_counter() - began

    seconds("w" * 100)
    assert seconds("a" + "w" * 20000 + "a") < 40 * max(0.005, seconds("a" + "w" * 2000 + "a"))


def test_a_row_is_found_as_one() -> None:
    """The first letter of a row begins the match, the last one ends it."""
    found = Matcher([Entry("ab")]).find("aaaaabbbbb")
    assert (0, 10) in {(each.start, each.end) for each in found}
