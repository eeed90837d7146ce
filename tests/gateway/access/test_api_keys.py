"""API keys: shown once, stored hashed, refused all alike."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.__main__ import main
from gateway.access import AccessError
from gateway.access.api_keys import new_key
from gateway.errors import GatewayError, TokenExpired, TokenRevoked, Unauthenticated
from gateway.telemetry import Telemetry

from .identity import authenticator, issuer, until
from .test_revocation import command

KEY, KEY_ID, DIGEST = new_key()


def line(**changes: Any) -> str:
    """A line of the file, with changes."""
    fields = {"id": KEY_ID, "sha256": DIGEST, "tenant": "acme", "subject": "batch job", "scopes": ["generate"],
              "tenant_class": "gold", "expires": "2100-01-01T00:00:00Z"}  # fmt: skip
    return json.dumps({name: value for name, value in {**fields, **changes}.items() if value is not None}) + "\n"


def stored(tmp_path: Path, *lines: str) -> Path:
    """The file."""
    path = tmp_path / "keys.jsonl"
    path.write_text("".join(lines) or line())
    return path


async def test_a_key_is_who_its_line_says(tmp_path: Path) -> None:
    """In either header; beside tokens of issuers."""
    door = authenticator(issuer(), api_keys_file=stored(tmp_path))
    for principal in (await door.authenticate(f"Bearer {KEY}"), await door.authenticate(None, KEY)):
        assert (principal.subject, principal.tenant, principal.scopes) == ("batch job", "acme", frozenset({"generate"}))
        assert (principal.token_id, principal.tenant_class) == (KEY_ID, "gold")


@pytest.mark.parametrize(
    "near",
    [
        KEY[:-1],
        KEY + "A",
        KEY[:-1] + ("A" if KEY[-1] != "A" else "B"),
        KEY.replace(KEY_ID, "0" * 16),
        KEY.replace(KEY_ID, KEY_ID.upper() + "A"),
        f"tg_{KEY_ID}_{DIGEST}",
        f"tg_{KEY_ID}_",
        f"tg_{KEY_ID}",
        "tg_",
        "tg__",
        new_key()[0],
    ],
)
async def test_near_misses_are_all_alike(tmp_path: Path, near: str) -> None:
    """A wrong secret, an unknown id, the stored hash itself: one answer, which does not say what was wrong."""
    door = authenticator(issuer(), api_keys_file=stored(tmp_path))
    with pytest.raises(Unauthenticated) as error:
        await door.authenticate(f"Bearer {near}")
    assert (type(error.value), error.value.message) == (Unauthenticated, Unauthenticated.default_message)


@pytest.mark.parametrize(
    ("authorization", "api_key"), [(None, "eyJ.a.b"), (f"Bearer {KEY}", KEY), (None, ""), (None, f"tg_é{KEY}")]
)
async def test_one_credential_in_its_place(tmp_path: Path, authorization: str | None, api_key: str) -> None:
    """Not two, and no token where a key belongs."""
    with pytest.raises(Unauthenticated):
        await authenticator(api_keys_file=stored(tmp_path)).authenticate(authorization, api_key)


async def test_without_a_file_no_key_counts() -> None:
    """Whatever it looks like."""
    with pytest.raises(Unauthenticated):
        await authenticator().authenticate(None, KEY)


async def test_one_key_that_counts_is_enough_to_be_ready(tmp_path: Path) -> None:
    """Somebody can be let in while no issuer's keys could be fetched; not if every key has ended."""
    down, path = issuer(jwks_url="http://127.0.0.1:1/", algorithms=["RS256"]), stored(tmp_path)
    assert authenticator(down, api_keys_file=path).not_ready() is None
    path.write_text(line(expires="2020-01-01T00:00:00Z"))
    assert authenticator(down, api_keys_file=path).not_ready() is not None


async def test_keys_end_are_taken_back_and_removed(tmp_path: Path) -> None:
    """By their own time, by a revocation of the id, and by taking the line out; the next to end is a metric."""
    telemetry, revoked, path = Telemetry(), tmp_path / "revoked.jsonl", stored(tmp_path)
    other, other_id, digest = new_key()
    path.write_text(line() + line(id=other_id, sha256=digest, expires="2020-01-01T00:00:00Z"))
    revoked.write_text("")
    door = authenticator(api_keys_file=path, revocation_file=revoked, look_seconds=0.1, telemetry=telemetry)
    async with door.running():
        with pytest.raises(TokenExpired):
            await door.authenticate(None, other)
        assert telemetry.registry.get_sample_value("tidegate_api_key_first_expiry_timestamp_seconds") == 4102444800
        await door.authenticate(None, KEY)
        revoked.write_text(json.dumps({"jti": KEY_ID}) + "\n")
        await _until_refused(door, TokenRevoked)
        revoked.write_text("")
        path.write_text("")
        await _until_refused(door, Unauthenticated)
        await until(lambda: telemetry.registry.get_sample_value("tidegate_api_key_first_expiry_timestamp_seconds") == 0)


async def _until_refused(door: Any, kind: type[GatewayError]) -> None:
    deadline = time.monotonic() + 5
    while True:
        try:
            await door.authenticate(None, KEY)
        except GatewayError as error:
            if type(error) is kind:
                return
        assert time.monotonic() < deadline, "not within 5 s"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "changes",
    [{"id": "x"}, {"sha256": KEY}, {"tenant": "a b"}, {"tenant": None}, {"subject": "a\nb"}, {"scopes": ["a b"]},
     {"scopes": "generate"}, {"expires": None}, {"expires": "soon"}, {"colour": "red"}, {"tenant_class": "a b"}],
)  # fmt: skip
def test_a_line_that_does_not_hold_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    """At the start: setting, file, line, field, and nothing of what stands there."""
    with pytest.raises(AccessError) as error:
        authenticator(api_keys_file=stored(tmp_path, "# keys\n", line(**changes)))
    assert f"keys.jsonl:2: {next(iter(changes))}" in str(error.value)
    assert KEY not in str(error.value)


async def test_the_command_shows_a_key_once_and_stores_its_hash(tmp_path: Path) -> None:
    """256 random bits, hashed; 90 days unless said otherwise."""
    path = tmp_path / "keys.jsonl"
    give = ["apikey", "create", "--tenant", "acme", "--subject", "batch", "--scope", "generate models:read"]
    done = await asyncio.to_thread(command, *give, "--file", str(path))
    assert done.returncode == 0, done.stderr
    key = done.stdout.strip()
    entry = json.loads(path.read_text())
    assert key not in path.read_text()
    assert entry["sha256"] == hashlib.sha256(key.encode()).hexdigest()
    principal = await authenticator(api_keys_file=path).authenticate(None, key)
    assert principal.scopes == {"generate", "models:read"}
    assert 89 < (principal.expires_at - time.time()) / 86_400 <= 90


def test_without_a_file_the_line_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To be stored by whoever runs it; what does not hold is said."""
    assert main(["apikey", "create", "--tenant", "acme", "--subject", "batch"]) == 0
    key, entry = capsys.readouterr().out.splitlines()
    assert json.loads(entry)["sha256"] == hashlib.sha256(key.encode()).hexdigest()
    assert key not in entry
    authenticator(api_keys_file=stored(tmp_path, entry))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["--tenant", "a b"], "tenant: "),
        (["--scope", " "], "--scope is empty"),
        *(([f"--days={days}"], "--days must be a time to come") for days in ("-1", "0", "nan", "inf", "1e12")),
    ],
)
def test_the_command_makes_no_key_that_opens_nothing(
    changes: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, what is wrong, and no key."""
    assert main(["apikey", "create", "--tenant", "acme", "--subject", "batch", *changes]) == 2
    out, err = capsys.readouterr()
    assert (out, says in err) == ("", True)
