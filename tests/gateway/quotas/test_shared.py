"""Accounts in files that the workers of a host share: real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.errors import QuotaExceeded
from gateway.traffic.quotas import Quotas
from gateway.traffic.quotas.stores import LocalStore, SharedAccounts

from .observed import Clock, Observed, at_once, left, limits

ROOT = Path(__file__).resolve().parents[3]
WORKER = """
import asyncio, sys
from pathlib import Path
from gateway.errors import QuotaExceeded
from gateway.traffic.quotas import Quotas
from gateway.traffic.quotas.stores import LocalStore, SharedAccounts
from tests.gateway.quotas.observed import Observed, limits

async def main():
    store = LocalStore(SharedAccounts(Path(sys.argv[1])), 600)
    quotas = Quotas(store, Observed(), limits(tokens_per_day=5000, concurrent_streams=100))
    used = 0
    print("ready", flush=True)
    sys.stdin.readline()
    while True:
        try:
            lease = await quotas.admit("acme", "", 40)
        except QuotaExceeded:
            print(used)
            return
        number = 1
        while lease.take(number) and number < 17:
            number += 1
        await lease.settle(number)
        used += number

asyncio.run(main())
"""


def shared(folder: Path, clock: Clock, lifetime: float = 600, **values: int) -> Quotas:
    """Quotas of one class in ``folder``, as a worker has them."""
    return Quotas(LocalStore(SharedAccounts(folder), lifetime, clock), Observed(), limits(**values))


def test_workers_together_use_the_limit_and_not_one_token_more(tmp_path: Path) -> None:
    """Three processes race for it until they are refused; what they used adds up to it, to the token."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path / "accounts")],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    for each in workers:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in workers:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    used = [int(each.communicate(timeout=60)[0]) for each in workers]
    assert sum(used) == 5000
    assert all(each.returncode == 0 for each in workers)


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    """What a day's tokens were spent on is still known to the next process."""
    clock = Clock()
    before = shared(tmp_path, clock, tokens_per_day=100)
    at_once(at_once(before.admit("acme", "", 60)).settle(60))
    at_once(before.close())
    assert left(at_once(shared(tmp_path, clock, tokens_per_day=100).admit("acme", "", 0)).headers) == {
        "tokens_per_day": 39
    }


def test_what_a_killed_worker_held_comes_free(tmp_path: Path) -> None:
    """Its leases are forgotten when no request could still be running."""
    clock = Clock()
    at_once(shared(tmp_path, clock, 130, concurrent_streams=1).admit("acme", "", 60))  # and it is never seen again
    after = shared(tmp_path, clock, 130, concurrent_streams=1)
    with pytest.raises(QuotaExceeded):
        at_once(after.admit("acme", "", 60))
    clock.now += 130
    at_once(after.admit("acme", "", 60))


@pytest.mark.parametrize(
    "content",
    [b"", b"\1", b"\5\0\0\0{}", b"\2\0\0\0[]", b"\4\0\0\0null", b'\x15\0\0\0[1,2,{"a":[]},{},{}]  ', b"nonsense" * 9],
)
def test_a_file_that_is_no_account_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    """Nobody is locked out by it, and it is whole afterwards."""
    clock = Clock()
    at_once(shared(tmp_path, clock, tokens_per_day=100).admit("acme", "", 60))
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    again = shared(tmp_path, clock, tokens_per_day=100)
    at_once(at_once(again.admit("acme", "", 60)).settle(50))
    assert left(at_once(again.admit("acme", "", 0)).headers) == {"tokens_per_day": 49}


def test_the_files_name_no_tenant_and_are_nobody_elses(tmp_path: Path) -> None:
    """Any text may be a tenant's name; the folder is the gateway's own."""
    folder = tmp_path / "accounts"
    quotas = shared(folder, Clock(), tokens_per_day=100)
    for name in ("acme", "../../etc/passwd", "", "租户", "\ud800"):
        at_once(quotas.admit(name, "", 1))
    assert len(list(folder.iterdir())) == 5
    assert all(len(file.name) == 64 and file.stat().st_mode & 0o077 == 0 for file in folder.iterdir())
    assert folder.stat().st_mode & 0o077 == 0


def test_more_tenants_than_open_files(tmp_path: Path) -> None:
    """Files are closed and opened again as need be."""
    quotas = shared(tmp_path, Clock(), tokens_per_day=100)
    for _ in range(2):
        for number in range(300):
            at_once(at_once(quotas.admit(f"tenant {number}", "", 1)).settle(7))
    assert left(at_once(quotas.admit("tenant 0", "", 0)).headers) == {"tokens_per_day": 85}
