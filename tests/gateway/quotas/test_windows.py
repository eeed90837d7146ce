"""The arithmetic of one account: windows, their edges, and waits that are true."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.traffic.quotas.account import DAY, MINUTE, NEVER, Account, Reply
from gateway.traffic.quotas.config import Limits

from .observed import START

FAR = START * 2


def use(account: Account, limits: Limits, tokens: int, now: float) -> Reply:
    """A request of exactly so many tokens, from its admission to its settlement."""
    reply = account.admit(limits, "one", tokens, tokens, now=now, expires=FAR)
    if reply.refused is None:
        account.settle(limits, "one", tokens, now)
    return reply


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 60)), max_size=40), st.sampled_from([MINUTE, DAY]))
def test_no_span_of_a_windows_length_sees_more_than_the_limit(steps: list[tuple[int, int]], window: object) -> None:
    """Whenever requests come, however large they are: the sum over any minute, or day, stays within the limit."""
    length, key = (60.0, "tokens_per_minute") if window is MINUTE else (86_400.0, "tokens_per_day")
    limits = Limits(**{key: 100})
    account, now, used = Account(), START, []
    for pause, tokens in steps:
        now += pause * length / 240
        if use(account, limits, tokens, now).refused is None:
            used.append((now, tokens))
    for begin, _ in used:
        assert sum(tokens for at, tokens in used if begin <= at < begin + length) <= 100


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 90)), min_size=1, max_size=40))
def test_a_refused_request_that_waits_as_long_as_told_is_admitted(steps: list[tuple[int, int]]) -> None:
    """The wait is true: after it there is room, and a moment before there was none."""
    limits = Limits(requests_per_second=3, tokens_per_minute=100, tokens_per_day=400)
    account, now = Account(), START
    for milliseconds, tokens in steps:
        now += milliseconds / 1000
        reply = use(account, limits, tokens, now)
        if reply.refused is not None:
            assert reply.wait > 0
            if reply.wait > 0.01:
                assert use(account, limits, tokens, now + reply.wait - 0.005).refused is not None
            now += reply.wait + 0.001
            assert use(account, limits, tokens, now).refused is None


@pytest.mark.parametrize("offset", [0.0, 0.25, 0.999])
@pytest.mark.parametrize(("key", "slot", "slots"), [("tokens_per_minute", 1, 60), ("tokens_per_day", 900, 96)])
def test_tokens_are_free_again_at_the_edge_of_their_slot(key: str, slot: int, slots: int, offset: float) -> None:
    """Used anywhere in a slot, they are free when all of the slot is older than the window, not a moment earlier."""
    limits = Limits(**{key: 100})
    account = Account()
    used_at = START + offset * slot
    assert use(account, limits, 100, used_at).refused is None
    free_at = START + (slots + 1) * slot
    refused = use(account, limits, 1, free_at - 0.001)
    assert (refused.refused, refused.wait) == (key, pytest.approx(0.001, abs=1e-6))
    assert use(account, limits, 100, free_at).refused is None
    assert slots * slot <= free_at - used_at <= (slots + 1) * slot


def test_a_steady_pace_at_the_limit_is_never_refused() -> None:
    """Ten a second, every tenth of a second, for a minute."""
    limits, account = Limits(requests_per_second=10), Account()
    assert all(use(account, limits, 1, START + number / 10).refused is None for number in range(600))


def test_a_burst_of_a_seconds_requests_passes_and_then_they_come_at_the_rate() -> None:
    """Five at once, the sixth after a fifth of a second."""
    limits, account = Limits(requests_per_second=5), Account()
    assert [use(account, limits, 1, START).refused for _ in range(6)] == [None] * 5 + ["requests_per_second"]
    assert use(account, limits, 1, START).wait == pytest.approx(0.2)
    assert use(account, limits, 1, START + 0.2).refused is None


def test_one_large_request_does_not_shut_the_others_out() -> None:
    """It is given an eighth of what is left, the next one an eighth of the rest; small rests are not split."""
    limits, account = Limits(tokens_per_minute=800), Account()
    grants = []
    for number in range(13):
        reply = account.admit(limits, str(number), 100_000, 1, now=START, expires=FAR)
        grants.append(reply.granted if reply.refused is None else reply.refused)
    assert grants == [100, 87, 76, 67, *[64] * 7, 22, "tokens_per_minute"]


def test_what_runs_longer_than_a_window_is_charged_as_it_goes() -> None:
    """A stream at half the rate never runs out, however long it is."""
    limits, account = Limits(tokens_per_minute=120), Account()
    account.admit(limits, "long", 120, 1, now=START, expires=FAR)
    for second in range(1, 600):
        reply = account.extend(limits, "long", second, 60, START + second)
        assert reply.granted is not None
        assert reply.granted > second


def test_a_prompt_longer_than_the_limit_is_told_so() -> None:
    """Waiting does not help it, so no wait is named."""
    reply = use(Account(), Limits(tokens_per_minute=100, requests_per_second=1), 101, START)
    assert (reply.refused, reply.wait) == ("tokens_per_minute", NEVER)


def test_the_longest_wait_is_the_one_that_is_named() -> None:
    """Of two limits without room the one that frees last."""
    limits, account = Limits(requests_per_second=1, tokens_per_day=10), Account()
    use(account, limits, 10, START)
    reply = use(account, limits, 1, START)
    assert reply.refused == "tokens_per_day"
    assert reply.wait == 97 * 900


def test_a_clock_that_is_set_back_locks_nobody_out() -> None:
    """What was used in the future is not remembered for hours."""
    limits, account = Limits(requests_per_second=2, tokens_per_minute=10, tokens_per_day=100), Account()
    use(account, limits, 10, START)
    assert use(account, limits, 10, START - 7200).refused is None


def test_a_lease_that_nobody_settles_is_forgotten() -> None:
    """Its gateway was killed: what it held is free, and its place too."""
    limits, account = Limits(concurrent_streams=1, tokens_per_minute=10), Account()
    account.admit(limits, "lost", 10, 1, now=START, expires=START + 30)
    assert use(account, limits, 1, START + 29).refused == "concurrent_streams"
    assert use(account, limits, 10, START + 30).refused is None


def test_the_effective_window_ends_when_something_frees() -> None:
    """`frees` is the time until the oldest used slot leaves, the whole window while nothing is used."""
    limits, account = Limits(tokens_per_minute=100), Account()
    assert account.settle(limits, "nobody", 0, START).frees[2] == 60
    use(account, limits, 1, START + 0.5)
    assert math.isclose(account.settle(limits, "nobody", 0, START + 10).frees[2] or 0, 51)
