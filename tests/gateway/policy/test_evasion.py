"""The frozen set of words in every dress: what the policy promises to find, it finds, and exactly there."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.evasion import Case, Result, judged, measured, read, rules
from gateway.policy.rules import RuleStream


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """All of them."""
    return read()


@pytest.fixture(scope="module")
def results(cases: list[Case]) -> dict[str, Result]:
    """By family, of those that are promised."""
    return measured([case for case in cases if case.promised])


def test_the_set_is_large_enough(cases: list[Case]) -> None:
    """At least 30 families and 5,000 cases of those that are promised, and the others stand beside them."""
    families = Counter((case.script, case.family) for case in cases if case.promised)
    assert len(families) >= 30
    assert families.total() >= 5000
    assert len({(case.script, case.family) for case in cases if not case.promised}) >= 10
    assert all(0 <= case.start < case.end <= len(case.text) for case in cases)


def test_every_promised_family_is_found(results: dict[str, Result]) -> None:
    """At least 95 % of each, and at least 95 % of what is found exactly where it stands."""
    assert [name for name, each in results.items() if each.found < 0.95 * each.cases] == []
    assert [name for name, each in results.items() if each.exact < 0.95 * each.found] == []


def test_nothing_of_it_leaves_a_stream(cases: list[Case]) -> None:
    """A character at a time, every seventh case: what is found in the whole text is masked in the stream."""
    check = rules(sorted({case.word for case in cases}))
    for case in cases[::7]:
        stream = RuleStream(check)
        left = "".join(map(stream.feed, case.text)) + stream.finish()
        assert left == check.redacted(case.text, check.check(case.text))
        if judged(check, case)[0]:
            assert case.text[case.start : case.end] not in left
