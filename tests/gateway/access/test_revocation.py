"""What is taken back is out within the time, whatever was remembered; a list that is away takes nothing back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.access import AccessError, Authenticator, redis_revocation
from gateway.access.revocation import RevokedLine
from gateway.errors import TokenRevoked
from gateway.telemetry import Telemetry

from .identity import authenticator, refused, signed, until

LOOK = 0.1
GOOD = "tidegate_access_list_last_success_timestamp_seconds"


async def admitted(door: Authenticator, token: str) -> bool:
    """Whether the token gets in now; it may be refused as revoked only."""
    try:
        await door.authenticate(f"Bearer {token}")
    except TokenRevoked:
        return False
    return True


async def eventually(door: Authenticator, token: str, expected: bool) -> None:
    """Within 5 s the token gets in, or not."""
    deadline = time.monotonic() + 5
    while await admitted(door, token) != expected:
        assert time.monotonic() < deadline, "not within 5 s"
        await asyncio.sleep(0.02)


def command(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`python -m gateway ...`."""
    environment = {f"TIDEGATE_{name.upper()}": value for name, value in settings.items()}
    line = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60, check=False)


def good(telemetry: Telemetry, source: str) -> float:
    """When the list was last read well."""
    return telemetry.registry.get_sample_value(GOOD, {"source": source}) or 0.0


@pytest.mark.parametrize("kind", ["jti", "sub", "tenant"])
async def test_a_line_is_enough(tmp_path: Path, kind: str) -> None:
    """By token, subject or tenant: out while remembered, the others stay, and back when the line is gone."""
    path = tmp_path / "revoked.jsonl"
    path.write_text("# nobody yet\n\n")
    door = authenticator(revocation_file=path, look_seconds=LOOK)
    ann = signed(jti="1", sub="ann", tenant="acme")
    bob = signed(jti="2", sub="bob", tenant="bolt")
    async with door.running():
        assert await admitted(door, ann)
        assert await admitted(door, bob)
        with path.open("a") as file:
            file.write(json.dumps({kind: {"jti": "1", "sub": "ann", "tenant": "acme"}[kind]}) + "\n")
        await eventually(door, ann, False)
        assert await admitted(door, bob)
        await refused(door, signed(jti="1"), "token_revoked")
        path.write_text("")
        await eventually(door, ann, True)


async def test_an_entry_may_end(tmp_path: Path) -> None:
    """`until` in the past no longer counts; of two for the same the later one does."""
    path = tmp_path / "revoked.jsonl"
    path.write_text('{"sub": "ann", "until": "2020-01-01T00:00:00Z"}\n{"sub": "bob", "until": "2100-01-01T00:00:00Z"}\n'
                    '{"sub": "bob", "until": "2020-01-01T00:00:00Z"}\n')  # fmt: skip
    door = authenticator(revocation_file=path)
    assert await admitted(door, signed(sub="ann"))
    assert not await admitted(door, signed(sub="bob"))


async def test_a_slip_of_the_pen_keeps_nothing_else_from_counting(tmp_path: Path) -> None:
    """Other lines take effect, and the look counts as failed until the line is right; a file that is gone too."""
    path, telemetry = tmp_path / "revoked.jsonl", Telemetry()
    path.write_text("")
    door = authenticator(revocation_file=path, look_seconds=LOOK, telemetry=telemetry)
    async with door.running():
        path.write_text('{"sub": "ann"}\n{"sbu": "bob"}\nann\n')
        await eventually(door, signed(sub="ann"), False)
        last = good(telemetry, "revocation_file")
        await asyncio.sleep(3 * LOOK)
        assert good(telemetry, "revocation_file") == last
        path.unlink()
        await asyncio.sleep(3 * LOOK)
        assert good(telemetry, "revocation_file") == last
        assert not await admitted(door, signed(sub="ann"))
        path.write_text('{"sub": "bob"}\n')
        await until(lambda: good(telemetry, "revocation_file") > last)
        assert not await admitted(door, signed(sub="bob"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read"),
        ('{"sub": "ann"}\n{"sbu": "bob"}\n', "revoked.jsonl:2: "),
        ("ann\n", "revoked.jsonl:1: the line: "),
        ('{"sub": "ann", "jti": "1"}\n', "exactly one of jti, sub and tenant"),
        ('{"sub": "ann", "until": "tomorrow"}\n', "until: "),
        ('{"sub": ""}\n', "sub: "),
    ],
)
def test_at_the_start_the_file_must_hold(tmp_path: Path, text: str | None, says: str) -> None:
    """A path or a line mistyped is found then, with the setting, the line and the field."""
    path = tmp_path / "revoked.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(AccessError) as error:
        authenticator(revocation_file=path)
    assert str(error.value).startswith("TIDEGATE_REVOCATION_FILE: ")
    assert says in str(error.value)


async def test_the_command_appends(tmp_path: Path) -> None:
    """Also to a file whose last line was left open; the file is its owner's."""
    path = tmp_path / "revoked.jsonl"
    path.write_text('{"sub": "bob"}')
    done = await asyncio.to_thread(command, "revoke", "--subject", "ann", "--hours", "2", "--file", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    door = authenticator(revocation_file=path)
    assert not await admitted(door, signed(sub="ann"))
    assert not await admitted(door, signed(sub="bob"))
    assert "until" in path.read_text().splitlines()[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--subject", "ann"], "give --file, --redis or both"),
        (["--file", "revoked.jsonl"], "exactly one of --jti, --subject and --tenant"),
        (["--file", "revoked.jsonl", "--jti", "1", "--tenant", "a"], "exactly one of --jti, --subject and --tenant"),
        (["--file", "/nowhere/revoked.jsonl", "--jti", "1"], "/nowhere/revoked.jsonl cannot be written"),
        (["--subject", "ann", "--redis"], "TIDEGATE_REDIS_URL"),
        *(
            (["--file", "revoked.jsonl", "--jti", "1", f"--hours={hours}"], "--hours must be a time to come")
            for hours in ("nan", "inf", "-1", "0", "1e-9", "1e12", "1e300")
        ),
    ],
)
def test_a_command_that_does_nothing_says_so(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, and what to give instead."""
    monkeypatch.chdir(tmp_path)
    assert main(["revoke", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_command_names_the_setting_that_it_cannot_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line; and one that needs no Redis does not look at it."""
    monkeypatch.setenv("TIDEGATE_REDIS_URL_FILE", str(tmp_path / "absent"))
    assert main(["revoke", "--jti", "1", "--redis"]) == 2
    reason = "TIDEGATE_REDIS_URL_FILE cannot be read: No such file or directory"
    assert capsys.readouterr().err == f"error: {reason}\n"
    assert main(["revoke", "--jti", "1", "--file", str(tmp_path / "revoked.jsonl")]) == 0
    assert main(["apikey", "create", "--tenant", "acme", "--subject", "batch"]) == 0


class RedisServer:
    """A real one, on a port of its own, that can be stopped, held and started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port: int = listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Answer."""
        await asyncio.to_thread(self._run)
        await until(self._answers)

    def _run(self) -> None:
        line = [
            "redis-server",
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(self._folder),
        ]
        self._process = subprocess.Popen(line, stdout=subprocess.DEVNULL)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        return False

    def stop(self) -> None:
        """Be away, and forget everything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """A Redis of the test's own."""
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server (apt-get install redis-server)")
    server = RedisServer(tmp_path)
    await server.start()
    yield server
    server.stop()


async def revoke(server: RedisServer, subject: str) -> None:
    """As the command does it."""
    await redis_revocation.revoke(server.url, RevokedLine(sub=subject), time.time())


async def test_every_replica_hears_of_it_from_redis(redis: RedisServer) -> None:
    """One command, two doors; for ever, or until a time."""
    doors = [authenticator(redis_url=redis.url, look_seconds=LOOK) for _ in range(2)]
    ann, bob = signed(sub="ann", jti="1"), signed(sub="bob", jti="2")
    async with doors[0].running(), doors[1].running():
        assert all([await admitted(door, token) for door in doors for token in (ann, bob)])
        arguments = ("--redis", "--jti", "1", "--hours", "1")
        done = await asyncio.to_thread(command, "revoke", *arguments, redis_url=redis.url)
        assert done.returncode == 0, done.stderr
        for door in doors:
            await eventually(door, ann, False)
            assert await admitted(door, bob)
        await revoke(redis, "bob")
        for door in doors:
            await eventually(door, bob, False)
            assert not await admitted(door, ann)


async def test_redis_away_takes_nothing_back(redis: RedisServer, tmp_path: Path) -> None:
    """What it said last stays, the file goes on, the metric stands still; back and empty, it takes nothing back."""
    path, telemetry = tmp_path / "revoked.jsonl", Telemetry()
    path.write_text("")
    await revoke(redis, "ann")
    door = authenticator(redis_url=redis.url, revocation_file=path, look_seconds=LOOK, telemetry=telemetry)
    ann, bob, eve = (signed(sub=name) for name in ("ann", "bob", "eve"))
    async with door.running():
        assert not await admitted(door, ann)
        redis.stop()
        await asyncio.sleep(2 * LOOK)
        last = good(telemetry, "revocation_redis")
        assert last > 0
        path.write_text('{"sub": "bob"}\n')
        await eventually(door, bob, False)
        assert not await admitted(door, ann)
        assert good(telemetry, "revocation_redis") == last
        await redis.start()
        await until(lambda: good(telemetry, "revocation_redis") > last)
        assert not await admitted(door, ann)
        await revoke(redis, "eve")
        await eventually(door, eve, False)
        assert not await admitted(door, ann)


async def test_until_redis_has_answered_once_nobody_is_let_in(redis: RedisServer) -> None:
    """Nobody knows who should be kept out: 503 and not ready, until it answers."""
    await revoke(redis, "ann")
    redis.stop()
    door = authenticator(redis_url=redis.url, look_seconds=LOOK)
    async with door.running():
        await refused(door, signed(sub="bob"), "identity_unavailable")
        assert door.not_ready() is not None
        await redis.start()
        await until(lambda: door.not_ready() is None)
        assert await admitted(door, signed(sub="bob"))


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where somebody listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def test_a_redis_that_hangs_holds_nothing_up(silent: int) -> None:
    """Starting takes a moment and not for ever; the command says that it was not taken."""
    door = authenticator(redis_url=f"redis://127.0.0.1:{silent}/0", look_seconds=LOOK)
    began = time.monotonic()
    async with door.running():
        await refused(door, signed(), "identity_unavailable")
    assert time.monotonic() - began < 4
    with pytest.raises(AccessError, match="did not take"):
        await redis_revocation.revoke(f"redis://127.0.0.1:{silent}/0", RevokedLine(jti="1"), time.time())


def test_a_url_that_is_none() -> None:
    """Named, and its password not repeated."""
    with pytest.raises(AccessError) as error:
        authenticator(redis_url="http://:canary-7f3a@host/")
    assert "canary" not in str(error.value)
