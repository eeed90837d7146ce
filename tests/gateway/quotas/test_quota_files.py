"""The file: what it means, what is wrong with it, and that it may change."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from gateway.traffic.quotas import QuotaError, open_quotas, read_quotas
from gateway.traffic.quotas.config import Limits
from gateway.traffic.quotas.reload import watching

from .observed import Observed, left, write

GOOD = """
default: standard
classes:
  standard: {requests_per_second: 10, concurrent_streams: 4, tokens_per_minute: 1000, tokens_per_day: 90000}
  batch: {tokens_per_day: 5000000}
  free: {}
tenants:
  acme: {tokens_per_minute: 5000}
  nightly: {class: batch, concurrent_streams: 2}
  special: {tokens_per_day: null}
"""
STANDARD = Limits(10, 4, 1000, 90_000)


@pytest.mark.parametrize(
    ("tenant", "tenant_class", "expected"),
    [
        ("anyone", "", STANDARD),
        ("anyone", "batch", Limits(tokens_per_day=5_000_000)),
        ("anyone", "free", Limits()),
        ("anyone", "no such class", STANDARD),
        ("acme", "", Limits(10, 4, 5000, 90_000)),
        ("acme", "batch", Limits(tokens_per_minute=5000, tokens_per_day=5_000_000)),
        ("nightly", "", Limits(concurrent_streams=2, tokens_per_day=5_000_000)),
        ("nightly", "free", Limits(concurrent_streams=2, tokens_per_day=5_000_000)),
        ("special", "", Limits(10, 4, 1000, None)),
    ],
)
def test_what_counts_for_a_tenant(tmp_path: Path, tenant: str, tenant_class: str, expected: Limits) -> None:
    """The class in the file, else the token's, else the default; then what is the tenant's own, null included."""
    assert read_quotas(write(tmp_path / "quotas.yaml", GOOD)).limits(tenant, tenant_class) == expected


@pytest.mark.parametrize(
    ("tenant", "tenant_class", "expected"),
    [
        ("anyone", "", 0),
        ("anyone", "gold", 1),
        ("acme", "", 2),
        ("acme", "gold", 2),
        ("late", "gold", 0),
        ("up", "", 1),
    ],
)
def test_the_place_in_tritons_queue(tmp_path: Path, tenant: str, tenant_class: str, expected: int) -> None:
    """Found as the limits are; 0 is the model's default."""
    text = """
    default: standard
    classes: {standard: {requests_per_second: 10}, gold: {priority: 1}}
    tenants: {acme: {priority: 2}, late: {priority: null}, up: {class: gold}}
    """
    quotas = read_quotas(write(tmp_path / "quotas.yaml", text))
    assert quotas.terms(tenant, tenant_class)[1] == expected
    assert quotas.limits("up", "") == Limits()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "quotas.yaml:1: default: "),
        ("default: a\nclasses: {b: {}}\n", "quotas.yaml:1: the file: default names 'a', which is no class"),
        ("default: a\nclasses:\n  a:\n    tokens_per_hour: 3\n", "quotas.yaml:4: classes.a.tokens_per_hour: "),
        ("default: a\nclasses:\n  a:\n    tokens_per_day: 0\n", "quotas.yaml:4: classes.a.tokens_per_day: "),
        ("default: a\nclasses:\n  a:\n    priority: 0\n", "quotas.yaml:4: classes.a.priority: "),
        ("default: a\nclasses:\n  a:\n    tokens_per_day: much\n", "quotas.yaml:4: classes.a.tokens_per_day: "),
        ("default: a\nclasses: {a: {}}\ntenants: {x: {class: b}}\n", "tenants.x.class names 'b', which is no class"),
        ("default: a\nclasses: {}\n", "quotas.yaml:2: classes: "),
        ("default: [\n", "quotas.yaml:2: not YAML: "),
    ],
)
def test_a_file_that_does_not_hold_is_refused_with_line_and_field(tmp_path: Path, text: str, says: str) -> None:
    """File, line, field and reason."""
    with pytest.raises(QuotaError) as refused:
        read_quotas(write(tmp_path / "quotas.yaml", text))
    assert says in str(refused.value)


def test_several_workers_that_would_count_alone_are_refused(tmp_path: Path) -> None:
    """Without Redis and without a common folder; the message names both ways out. Without quotas nothing is refused."""
    file = write(tmp_path / "quotas.yaml", GOOD)
    with pytest.raises(QuotaError, match=r"TIDEGATE_QUOTA_DIRECTORY.*TIDEGATE_REDIS_URL"):
        open_quotas(file, Observed(), lifetime_seconds=60, workers=2)
    open_quotas(file, Observed(), lifetime_seconds=60, workers=2, directory=tmp_path / "accounts")
    open_quotas(None, Observed(), lifetime_seconds=60, workers=2)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "redis://127.0.0.1:port"])
def test_a_url_that_is_no_redis_is_refused(tmp_path: Path, url: str) -> None:
    """By the setting's name, and without the URL, which may hold a password."""
    file = write(tmp_path / "quotas.yaml", GOOD)
    with pytest.raises(QuotaError, match="TIDEGATE_REDIS_URL") as refused:
        open_quotas(file, Observed(), lifetime_seconds=60, redis_url=url)
    assert url not in str(refused.value)


async def test_a_file_that_changes_counts_without_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A bad one changes nothing and is counted; a good one counts, and what was used stays used."""
    observed = Observed()
    file = write(tmp_path / "quotas.yaml", "default: a\nclasses: {a: {tokens_per_day: 100}}\n")
    quotas = open_quotas(file, observed, lifetime_seconds=60)
    await (await quotas.admit("acme", "", 10)).settle(10)
    with caplog.at_level(logging.CRITICAL, "tidegate"):
        async with watching(file, 0.01, quotas, observed):
            for text, used in (
                ("default: a\nclasses: {a: {tokens_per_day: none}}\n", False),
                ("default: a\nclasses: {a: {tokens_per_day: 5000}}\n", True),
            ):
                write(file, text)
                expected = [*observed.reloads, used]
                while observed.reloads != expected:
                    await asyncio.sleep(0.01)
    assert left((await quotas.admit("acme", "", 0)).headers) == {"tokens_per_day": 4989}
