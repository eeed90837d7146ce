"""Leases on accounts in this process: exact, whatever the order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import QuotaExceeded
from gateway.traffic.quotas import Lease, Quotas
from gateway.traffic.quotas.stores import LocalStore, MemoryAccounts

from .observed import START, Clock, Observed, at_once, in_memory, left, limits

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.integers(0, 30), st.integers(1, 400)),
        st.tuples(st.just("take"), st.integers(0, 9), st.integers(1, 5)),
        st.tuples(st.just("settle"), st.integers(0, 9), st.integers(-3, 3)),
        st.tuples(st.just("again"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("wait"), st.integers(0, 40), st.just(0)),
    ),
    max_size=60,
)


class Streams:
    """Drives leases as steps say, and keeps books of its own."""

    def __init__(self, **values: int) -> None:
        self.clock, self.observed, self.accounts = Clock(), Observed(), MemoryAccounts()
        self.quotas = Quotas(LocalStore(self.accounts, 1e9, self.clock), self.observed, limits(**values))
        self.running: list[Lease] = []
        self.ended: list[Lease] = []
        self.totals = 0

    def step(self, kind: str, first: int, second: int) -> None:
        """One step."""
        if kind == "admit":
            self.admit(first, second)
        elif kind == "wait":
            self.clock.now += first / 4
        elif kind == "again" and self.ended:
            at_once(self.ended[first % len(self.ended)].settle(10**6))
        elif self.running and kind != "again":
            lease = self.running[first % len(self.running)]
            if kind == "take":
                self.take(lease, second)
            else:
                self.end(lease, lease.used if kind == "cancel" else max(0, lease.used + second))

    def admit(self, prompt: int, most: int) -> None:
        """A request that may be refused."""
        try:
            self.running.append(at_once(self.quotas.admit("acme", "", prompt + most, prompt)))
        except QuotaExceeded:
            return

    def take(self, lease: Lease, tokens: int) -> None:
        """A response of so many tokens."""
        lease.take(lease.used + tokens)

    def end(self, lease: Lease, total: int) -> None:
        """The real count."""
        at_once(lease.settle(total))
        self.running.remove(lease)
        self.ended.append(lease)
        self.totals += total

    def charged(self) -> int:
        """What the account says was spent."""
        with self.accounts.opened("acme") as account:
            return sum(account.day.values())


@settings(deadline=None, max_examples=200)
@given(STEPS)
def test_what_is_charged_is_what_was_used(steps: list[tuple[str, int, int]]) -> None:
    """Whatever the order of admissions, responses, settlements, again and by cancellation; nothing stays held."""
    streams = Streams(concurrent_streams=5, tokens_per_minute=500, tokens_per_day=2000)
    for step in steps:
        streams.step(*step)
    for lease in list(streams.running):
        streams.end(lease, lease.used)
    assert streams.charged() == streams.totals == streams.observed.charged
    with streams.accounts.opened("acme") as account:
        assert not account.running


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 3000)), min_size=1, max_size=8), st.randoms())
def test_streams_together_never_use_more_than_the_quota(asked: list[tuple[int, int]], random: Any) -> None:
    """However many run at once and however much they ask for. Those that would use it all use it to the last token."""
    streams = Streams(tokens_per_minute=300)
    live = []
    for prompt, most in asked:
        if prompt < 300 - sum(lease.granted for lease, _ in live):
            streams.admit(prompt, most)
            live.append((streams.running[-1], prompt + most))
            assert streams.running[-1].take(prompt)
    greedy = all(most > 300 for _, most in live)
    while live:
        place = random.randrange(len(live))
        lease, most = live[place]
        if not lease.take(lease.used + 1) or lease.used == most:
            live.pop(place)
            streams.end(lease, lease.used)
    assert streams.totals == 300 if greedy else streams.totals <= 300


def test_a_stream_stops_at_exactly_the_last_token_of_its_quota() -> None:
    """The hundredth token is the last; a hundred are charged."""
    clock, observed = Clock(), Observed()
    quotas = in_memory(clock, observed, tokens_per_minute=100)
    lease = at_once(quotas.admit("acme", "", 5000, 10))
    answers = [lease.take(number) for number in range(11, 101)]
    assert answers == [True] * 89 + [False]
    at_once(lease.settle(100))
    assert left(lease.headers) == {"tokens_per_minute": 0}
    assert (observed.charged, observed.stops) == (100, 1)


def test_a_large_max_tokens_is_no_reason_to_refuse() -> None:
    """Near its limit a tenant is still admitted, and may use what is left to the last token."""
    quotas = in_memory(Clock(), tokens_per_day=1000)
    first = at_once(quotas.admit("acme", "", 990, 5))
    at_once(first.settle(990))
    lease = at_once(quotas.admit("acme", "", 4096, 5))
    assert [lease.take(number) for number in range(6, 11)] == [True] * 4 + [False]


def test_what_another_stream_gives_back_prolongs_a_stream() -> None:
    """A stream is not stopped for tokens that were only held for somebody who did not use them."""
    quotas = in_memory(Clock(), tokens_per_minute=200)
    greedy = at_once(quotas.admit("acme", "", 200))
    lease = at_once(quotas.admit("acme", "", 200))
    at_once(greedy.settle(3))
    assert all(lease.take(number) for number in range(1, 197))
    assert not lease.take(197)


def test_a_response_beyond_the_quota_stops_the_stream_and_is_charged() -> None:
    """A response may carry many tokens: what was used counts, also beyond the limit, and the next request waits."""
    quotas = in_memory(clock := Clock(), tokens_per_minute=50)
    lease = at_once(quotas.admit("acme", "", 50))
    assert not lease.take(80)
    at_once(lease.settle(80))
    with pytest.raises(QuotaExceeded):
        at_once(quotas.admit("acme", "", 1))
    clock.now = START + 61
    assert at_once(quotas.admit("acme", "", 1)).take(1)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"requests_per_second": 1}, "requests_per_second"),
        ({"concurrent_streams": 1}, "concurrent_streams"),
        ({"tokens_per_minute": 1}, "tokens_per_minute"),
        ({"tokens_per_day": 1}, "tokens_per_day"),
    ],
)
def test_a_refusal_names_its_limit_and_says_when_to_come_again(values: dict[str, int], kind: str) -> None:
    """Status, code, the limit's name in the message, a whole number of seconds, and the fields of that limit only."""
    observed = Observed()
    quotas = in_memory(Clock(), observed, **values)
    at_once(quotas.admit("acme", "", 1)).take(1)
    with pytest.raises(QuotaExceeded) as refused:
        at_once(quotas.admit("acme", "", 1))
    error = refused.value
    assert (error.http_status, error.grpc_status, error.code) == (429, "RESOURCE_EXHAUSTED", "quota_exceeded")
    assert error.message.startswith(f"{kind}: ")
    assert isinstance(error.retry_after_seconds, int)
    assert error.retry_after_seconds >= 1
    assert left(error.headers) == {kind: 0}
    assert kind in error.headers["RateLimit-Policy"]
    assert observed.refused == [kind]


def test_tenants_do_not_share() -> None:
    """One's use is not another's."""
    quotas = in_memory(Clock(), tokens_per_minute=10)
    at_once(at_once(quotas.admit("acme", "", 10)).settle(10))
    assert at_once(quotas.admit("other", "", 10)).take(9)


def test_the_fields_of_the_draft() -> None:
    """draft-ietf-httpapi-ratelimit-headers-11: lists of items with q, qu, w and r, t."""
    quotas = in_memory(
        Clock(), requests_per_second=10, concurrent_streams=4, tokens_per_minute=1000, tokens_per_day=90_000
    )
    lease = at_once(quotas.admit("acme", "", 100, 20))
    assert lease.headers == {
        "RateLimit-Policy": '"requests_per_second";q=10;w=1, "concurrent_streams";q=4;qu="concurrent-requests", '
        '"tokens_per_minute";q=1000;qu="tokens";w=60, "tokens_per_day";q=90000;qu="tokens";w=86400',
        "RateLimit": '"requests_per_second";r=9;t=1, "concurrent_streams";r=3, "tokens_per_minute";r=900;t=60, '
        '"tokens_per_day";r=89900;t=86400',
    }
    at_once(lease.settle(50))
    assert left(lease.headers) == {
        "requests_per_second": 9,
        "concurrent_streams": 4,
        "tokens_per_minute": 950,
        "tokens_per_day": 89_950,
    }


def test_without_a_file_nothing_is_limited_or_counted() -> None:
    """No fields, no end."""
    observed = Observed()
    quotas = Quotas(LocalStore(MemoryAccounts(), 1.0), observed, None)
    lease = at_once(quotas.admit("acme", "gold", 10))
    assert lease.take(10**9)
    at_once(lease.settle(10**9))
    assert (lease.headers, observed.charged) == ({}, 0)


async def test_new_limits_count_for_what_runs_already() -> None:
    """A file that was read anew is what the next question is answered by."""
    quotas = in_memory(Clock(), tokens_per_minute=100)
    lease = await quotas.admit("acme", "", 1000)
    quotas.file = limits(tokens_per_minute=120)
    answers = [lease.take(number) for number in range(1, 121)]
    assert answers.index(False) == 119
    await asyncio.shield(lease.settle(120))
