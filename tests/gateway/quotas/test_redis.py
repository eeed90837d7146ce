"""Accounts in a real Redis: the same arithmetic, shared, and what happens while it is away."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import QuotaExceeded, QuotaUnavailable
from gateway.traffic.quotas import Lease, Quotas
from gateway.traffic.quotas.account import Account, Reply
from gateway.traffic.quotas.config import Limits
from gateway.traffic.quotas.redis_store import LOW_WATER_TOKENS, TIMEOUT_SECONDS, RedisStore
from gateway.traffic.quotas.stores import LocalStore, MemoryAccounts

from .observed import START, Observed, left, limits
from .redis_server import RedisServer

LIFETIME = 600.0


@contextlib.asynccontextmanager
async def quotas_in(
    server: RedisServer, observed: Observed | None = None, *, local: bool = True, **values: int
) -> AsyncIterator[Quotas]:
    """Quotas of one class in ``server``."""
    observed = observed or Observed()
    here = LocalStore(MemoryAccounts(), LIFETIME) if local else None
    quotas = Quotas(RedisStore(server.url, LIFETIME, observed, here), observed, limits(**values))
    try:
        yield quotas
    finally:
        await quotas.close()


def tenant() -> str:
    """One that no other test knows."""
    return uuid.uuid4().hex


async def use(quotas: Quotas, name: str, tokens: int) -> Lease:
    """A whole request."""
    lease = await quotas.admit(name, "", tokens)
    await lease.settle(tokens)
    return lease


STEP = st.tuples(
    st.sampled_from(["admit", "admit", "extend", "settle"]),
    st.integers(0, 5),
    st.integers(0, 80),
    st.integers(1, 300),
    st.sampled_from([0.0, 0.125, 1.0, 7.5, 59.0, 61.0, 900.0, 86_400.0]),
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEP, min_size=1, max_size=25), st.integers(0, 3))
async def test_the_script_and_the_account_say_the_same(
    redis_server: RedisServer, steps: list[tuple[str, int, int, int, float]], without: int
) -> None:
    """Any order of steps and any waits, edges included: grant, refusal, wait, what is left and when it frees."""
    values = {"requests_per_second": 2, "concurrent_streams": 3, "tokens_per_minute": 200, "tokens_per_day": 900}
    values.pop(list(values)[without])
    bounds = Limits(**values)
    store, account, name = RedisStore(redis_server.url, LIFETIME, Observed(), None), Account(), tenant()
    now, used = START, dict.fromkeys(range(6), 0)
    for kind, place, number, want, pause in steps:
        now += pause
        store.now = repr(now)
        lease = str(place)
        if kind == "admit":
            if lease in account.running:
                continue
            used[place] = 0
            expected = account.admit(bounds, lease, want, number, now=now, expires=now + LIFETIME)
            found: Reply | None = await store.admit(name, bounds, lease, want, number)
        else:
            used[place] += number
            if kind == "extend":
                expected = account.extend(bounds, lease, used[place], want, now)
                found = await store.extend(name, bounds, lease, used[place], want)
            else:
                expected = account.settle(bounds, lease, used[place], now)
                found = await store.settle(name, bounds, lease, used[place])
        assert found is not None
        assert (found.granted, found.refused, found.left) == (expected.granted, expected.refused, expected.left)
        assert found.wait == pytest.approx(expected.wait, abs=1e-5)
        assert found.frees == pytest.approx(expected.frees, abs=1e-5)
    await store.close()


async def test_two_gateways_share_one_account(redis_server: RedisServer) -> None:
    """What one admits and uses is missing at the other: requests at once and tokens."""
    name = tenant()
    async with (
        quotas_in(redis_server, concurrent_streams=2, tokens_per_day=100) as one,
        quotas_in(redis_server, concurrent_streams=2, tokens_per_day=100) as other,
    ):
        running = [await one.admit(name, "", 10), await other.admit(name, "", 10)]
        with pytest.raises(QuotaExceeded, match="concurrent_streams"):
            await one.admit(name, "", 10)
        for lease in running:
            await lease.settle(45)
        assert left((await use(other, name, 7)).headers)["tokens_per_day"] == 3
        with pytest.raises(QuotaExceeded, match="tokens_per_day"):
            await one.admit(name, "", 10, 3)


async def test_streams_of_two_gateways_use_what_there_is_and_not_more(redis_server: RedisServer) -> None:
    """Eight streams that would go on for ever end with exactly the limit used, and that is what is charged."""
    name = tenant()
    seen = [Observed(), Observed()]
    async with (
        quotas_in(redis_server, seen[0], tokens_per_day=2000) as one,
        quotas_in(redis_server, seen[1], tokens_per_day=2000) as other,
    ):

        async def stream(quotas: Quotas) -> int:
            lease = await quotas.admit(name, "", 100_000, 5)
            number = 6
            while lease.take(number):
                number += 1
                await asyncio.sleep(0.002)
            await lease.settle(number)
            return number

        totals = await asyncio.gather(*(stream(quotas) for quotas in (one, other) for _ in range(4)))
        assert sum(totals) == seen[0].charged + seen[1].charged == 2000
        with pytest.raises(QuotaExceeded):
            await one.admit(name, "", 1)


async def test_a_prompt_that_was_estimated_too_low_does_not_end_a_stream(redis_server: RedisServer) -> None:
    """The first response is far beyond what is held: the stream goes on, for there is plenty."""
    async with quotas_in(redis_server, tokens_per_day=10_000) as quotas:
        lease = await quotas.admit(tenant(), "", 20, 10)
        assert lease.take(500)
        for number in range(501, 600):
            assert lease.take(number)
            await asyncio.sleep(0.001)
        await lease.settle(600)
        assert left(lease.headers) == {"tokens_per_day": 9400}


async def test_a_client_that_leaves_while_it_is_admitted_holds_nothing(redis_server: RedisServer) -> None:
    """At whatever moment: afterwards nobody runs, nothing is held and nothing is charged."""
    name = tenant()
    async with quotas_in(redis_server, concurrent_streams=1, tokens_per_day=100) as quotas:
        for pause in (0, 0, 0.0002, 0.0005, 0.001):
            task = asyncio.create_task(quotas.admit(name, "", 50))
            await asyncio.sleep(pause)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, QuotaExceeded):
                await (await task).settle(0)
    async with quotas_in(redis_server, concurrent_streams=1, tokens_per_day=100) as quotas:
        assert left((await quotas.admit(name, "", 1)).headers) == {"concurrent_streams": 0, "tokens_per_day": 99}


async def test_a_settlement_is_done_also_when_its_caller_is_cancelled(redis_server: RedisServer) -> None:
    """Cancelled in the middle of it, it is charged all the same, once."""
    name = tenant()
    async with quotas_in(redis_server, tokens_per_day=100) as quotas:
        lease = await quotas.admit(name, "", 50)
        task = asyncio.create_task(lease.settle(30))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await lease.settle(30)
    async with quotas_in(redis_server, tokens_per_day=100) as quotas:
        assert left((await use(quotas, name, 0)).headers) == {"tokens_per_day": 70}


async def test_waiting_as_long_as_told_is_enough(redis_server: RedisServer) -> None:
    """By Redis's own clock."""
    name = tenant()
    async with quotas_in(redis_server, requests_per_second=1) as quotas:
        await use(quotas, name, 1)
        with pytest.raises(QuotaExceeded) as refused:
            await use(quotas, name, 1)
        assert refused.value.retry_after_seconds == 1
        await asyncio.sleep(refused.value.retry_after_seconds)
        await use(quotas, name, 1)


async def test_while_redis_is_dead_each_gateway_counts_alone_and_nobody_waits(own_redis: RedisServer) -> None:
    """Killed: limits hold within the process, and it is counted. Started again, it is asked again, though it has lost
    the script and all it knew."""
    name, observed = tenant(), Observed()
    async with quotas_in(own_redis, observed, tokens_per_day=10) as quotas:
        running = await quotas.admit(name, "", 4)
        own_redis.kill()
        for _ in range(10):
            await use(quotas, name, 1)
        with pytest.raises(QuotaExceeded):
            await use(quotas, name, 1)
        assert (observed.degraded, observed.without_redis) == ([True], 10)
        assert running.take(3)
        await running.settle(3)
        own_redis.start()
        while observed.degraded[-1]:
            await asyncio.sleep(0.05)
            with contextlib.suppress(QuotaExceeded):
                await use(quotas, name, 1)
        assert left((await use(quotas, name, 1)).headers)["tokens_per_day"] < 10
    assert observed.degraded == [True, False]


async def test_while_redis_is_dead_requests_may_be_refused_instead(own_redis: RedisServer) -> None:
    """503 with Retry-After, if it was so decided; what runs may use what it holds."""
    async with quotas_in(own_redis, local=False, tokens_per_day=1000) as quotas:
        running = await quotas.admit("acme", "", 500)
        own_redis.kill()
        with pytest.raises(QuotaUnavailable) as refused:
            await quotas.admit("acme", "", 10)
        assert (refused.value.http_status, refused.value.retry_after_seconds) == (503, 1)
        number = 1
        while running.take(number):
            number += 1
            await asyncio.sleep(0)
        assert running.granted <= number <= running.granted + LOW_WATER_TOKENS
        await running.settle(number)


async def test_a_redis_that_hangs_costs_one_request_its_time_out(own_redis: RedisServer) -> None:
    """Frozen: fifty requests take one time-out in all. What ended meanwhile is charged once when it goes on, although
    it then also does what it was sent while it was frozen."""
    name, observed = tenant(), Observed()
    async with quotas_in(own_redis, observed, tokens_per_day=1000, concurrent_streams=50) as quotas:
        running = [await quotas.admit(name, "", 20) for _ in range(5)]
        own_redis.freeze()
        began = time.monotonic()
        for lease in running:
            await lease.settle(11)
        for _ in range(50):
            await use(quotas, name, 1)
        assert time.monotonic() - began < 3 * TIMEOUT_SECONDS + 0.5
        own_redis.thaw()
        while observed.degraded[-1]:
            await asyncio.sleep(0.05)
            await use(quotas, name, 0)
    async with quotas_in(own_redis, tokens_per_day=1000, concurrent_streams=50) as quotas:
        assert left((await use(quotas, name, 0)).headers) == {"concurrent_streams": 50, "tokens_per_day": 945}
    assert observed.degraded == [True, False]
