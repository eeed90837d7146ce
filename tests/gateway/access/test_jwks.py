"""Keys from a URL, and what happens when who serves them, or who asks, misbehaves: a real server, real HTTP."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from jwt.warnings import InsecureKeyLengthWarning

from gateway.access import AccessError
from gateway.access.authenticator import Authenticator
from gateway.access.jwks import MAX_WAITING
from gateway.errors import GatewayError
from gateway.telemetry import Telemetry

from .identity import JwksServer, authenticator, issuer, jwk, private_key, refused, serving, signed, until

LEAST = 0.3


def fetching(server: JwksServer, telemetry: Telemetry | None = None, **changes: Any) -> Authenticator:
    """The door of an issuer whose keys this server has, in a hurry."""
    fields = {"jwks_url": server.url, "algorithms": ["RS256", "ES256", "PS256", "EdDSA"]}
    hurry = {"jwks_refresh_seconds": 60, "jwks_least_seconds": LEAST, "jwks_timeout_seconds": 1.0}
    return authenticator(issuer(**{**fields, **hurry, **changes}), telemetry=telemetry)


def by(kind: str, algorithm: str, **header: Any) -> str:
    """A token signed with this key, which it names."""
    return signed(private_key(kind), algorithm, {"kid": kind, **header})


def sample(telemetry: Telemetry, name: str, **labels: str) -> float:
    """A series' value."""
    return telemetry.registry.get_sample_value(name, labels) or 0.0


async def test_keys_are_fetched_once_and_each_serves_its_own_algorithm() -> None:
    """Many tokens, one fetch; PS256 and EdDSA from a set; a key that names no algorithm has the first it can do."""
    keys = [jwk("rsa", "PS256"), jwk("ed25519", "EdDSA"), jwk("P-256", "ES256", alg=None, use=None)]
    async with serving(*keys) as server:
        door = fetching(server)
        async with door.running():
            for kind, algorithm in (("rsa", "PS256"), ("ed25519", "EdDSA"), ("P-256", "ES256")):
                for _ in range(3):
                    await door.authenticate(f"Bearer {by(kind, algorithm)}")
                    door.forget()
            await refused(door, by("rsa", "RS256"), "invalid_token")
            assert server.fetches == 1


async def test_a_rotated_key_is_found_and_the_old_one_forgotten() -> None:
    """An unknown kid makes the gateway ask; what the old key signed counts no more, though it was remembered."""
    async with serving(jwk("rsa", "RS256")) as server:
        door = fetching(server)
        async with door.running():
            old, new = f"Bearer {by('rsa', 'RS256')}", f"Bearer {by('rsa-other', 'RS256')}"
            await door.authenticate(old)
            server.keys = [jwk("rsa-other", "RS256")]
            await asyncio.sleep(LEAST)
            await door.authenticate(new)
            await refused(door, old.removeprefix("Bearer "), "invalid_token")


@pytest.mark.parametrize(
    ("before", "after", "token"),
    [
        ([jwk("rsa", "RS256", kid=None)], [jwk("rsa-other", "RS256", kid=None)], by("rsa-other", "RS256")),
        ([jwk("rsa", "RS256", kid=None)], [jwk("rsa-other", "RS256")], by("rsa-other", "RS256")),
        ([jwk("rsa", "RS256")], [jwk("rsa-other", "RS256")], signed(private_key("rsa-other"), "RS256")),
        ([jwk("ed25519", "EdDSA", kid=None), jwk("P-256", "ES256")], [jwk("rsa", "RS256")], by("rsa", "RS256")),
    ],
)
async def test_keys_without_a_name_are_rotated_too(
    before: list[dict[str, Any]], after: list[dict[str, Any]], token: str
) -> None:
    """A signature that does not fit, or a kid that only a key of another algorithm could serve, makes the gateway ask;
    a flood of such tokens is one fetch for each interval, as ever."""
    async with serving(*before) as server:
        door = fetching(server)
        async with door.running():
            server.keys = after
            await asyncio.sleep(LEAST)
            await door.authenticate(f"Bearer {token}")
            assert server.fetches == 2
            began = time.monotonic()
            for number in range(50):
                bad = signed(private_key("rsa-third"), "RS256", {"kid": "k"} if number % 2 else None, jti=str(number))
                await refused(door, bad, "invalid_token")
            assert server.fetches <= 3 + (time.monotonic() - began) / LEAST


async def test_kids_that_nobody_knows_do_not_make_it_fetch_more() -> None:
    """A flood of them: one fetch at most for each interval, and whoever has a good token waits for none."""
    async with serving(jwk("rsa", "RS256")) as server:
        door = fetching(server)
        async with door.running():
            good = f"Bearer {by('rsa', 'RS256')}"
            began = time.monotonic()
            for number in range(150):
                await asyncio.gather(
                    *(refused(door, by("rsa", "RS256", kid=f"k{number}-{i}"), "invalid_token") for i in range(2))
                )
                await door.authenticate(good)
            assert server.fetches <= 2 + (time.monotonic() - began) / LEAST


async def test_only_so_many_wait_for_a_fetch() -> None:
    """While the URL hangs, the others are answered at once from what is known, and a good token as ever."""
    async with serving(jwk("rsa", "RS256")) as server:
        door = fetching(server)
        async with door.running():
            await asyncio.sleep(LEAST)
            server.mode = "hang"
            crowd = [
                asyncio.create_task(refused(door, by("rsa", "RS256", kid=f"k{i}"), "invalid_token"))
                for i in range(3 * MAX_WAITING)
            ]
            await until(lambda: server.fetches == 2)
            await until(lambda: sum(each.done() for each in crowd) >= 2 * MAX_WAITING, 0.9)
            await door.authenticate(f"Bearer {by('rsa', 'RS256')}")
            await asyncio.gather(*crowd)


async def test_down_at_the_start() -> None:
    """The gateway starts, not ready; a token is neither good nor bad but 503; when the URL is back, it is good."""
    server, telemetry = JwksServer(jwk("rsa", "RS256")), Telemetry()
    await server.start()
    await server.stop()
    door = fetching(server, telemetry)
    async with door.running():
        await refused(door, by("rsa", "RS256"), "identity_unavailable")
        assert door.not_ready() is not None
        assert sample(telemetry, "tidegate_jwks_last_success_timestamp_seconds", issuer="id") == 0
        await server.start()
        try:
            await until(lambda: sample(telemetry, "tidegate_jwks_fetches_total", issuer="id", outcome="ok") == 1)
            await door.authenticate(f"Bearer {by('rsa', 'RS256')}")
            assert door.not_ready() is None
        finally:
            await server.stop()
        assert door.not_ready() is None
    assert sample(telemetry, "tidegate_jwks_last_success_timestamp_seconds", issuer="id") > time.time() - 10
    assert sample(telemetry, "tidegate_jwks_fetches_total", issuer="id", outcome="failed") >= 1


async def test_down_later() -> None:
    """The last good keys stay in force, an unknown kid is refused, and the failures are counted."""
    telemetry = Telemetry()
    async with serving(jwk("rsa", "RS256")) as server:
        door = fetching(server, telemetry)
        async with door.running():
            await server.stop()
            await asyncio.sleep(LEAST)
            await refused(door, by("rsa-other", "RS256"), "invalid_token")
            await door.authenticate(f"Bearer {by('rsa', 'RS256')}")
    assert sample(telemetry, "tidegate_jwks_fetches_total", issuer="id", outcome="failed") >= 1


@pytest.mark.parametrize("mode", ["garbage", "huge", "hang", "drip", "moved", "failing"])
async def test_a_url_that_misbehaves_changes_nothing(mode: str) -> None:
    """HTML, 300 kB, silence, a byte at a time, a redirect, status 500: given up in time, the last good keys stay."""
    telemetry = Telemetry()
    async with serving(jwk("rsa", "RS256")) as server:
        door = fetching(server, telemetry)
        async with door.running():
            server.mode = mode
            await asyncio.sleep(LEAST)
            began = time.monotonic()
            await refused(door, by("rsa-other", "RS256"), "invalid_token")
            assert time.monotonic() - began < 3
            assert server.fetches == 2
            await door.authenticate(f"Bearer {by('rsa', 'RS256')}")
    assert sample(telemetry, "tidegate_jwks_fetches_total", issuer="id", outcome="failed") >= 1


SECRETS = {"kty": "oct", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY", "kid": "s", "alg": "HS256"}


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [jwk("rsa", "RS256"), jwk("rsa-other", "RS256", kid="rsa")],
        [jwk("rsa", "RS256", use="enc")],
        [jwk("rsa", "RS256", key_ops=["encrypt"])],
        [jwk("rsa-1024", "RS256", kid="rsa")],
        [jwk("rsa", "RS256", alg="RS512")],
        [jwk("rsa", "RS256", d="AQAB")],
        [jwk("rsa", "RS256", n="!!")],
        [jwk("rsa", "RS256", n=7)],
        [jwk("rsa", "RS256", kid=7)],
        [jwk("P-256", "ES256", x="AA")],
        [jwk("P-256", "ES256", crv="P-384")],
        [jwk("P-384", "ES384", alg="ES256", kid="P-256")],
        [SECRETS],
        [None, 7, "rsa", [], {}],
        [{"kty": ["RSA"]}],
        [jwk("rsa", "RS256", kid=str(number)) for number in range(101)],
    ],
)
async def test_sets_that_leave_no_key(keys: list[Any]) -> None:
    """Ambiguous, for encryption, weak, of no algorithm here, private, malformed, secret, too many: none is used."""
    async with serving(*keys) as server:
        door = fetching(server)
        async with door.running():
            await refused(door, by("rsa", "RS256"), "identity_unavailable")
            await refused(door, by("P-256", "ES256"), "identity_unavailable")


async def test_a_bad_key_does_not_spoil_the_others() -> None:
    """What cannot be used is left out; a key given twice is one key."""
    async with serving(SECRETS, None, jwk("rsa-1024", "RS256"), jwk("rsa", "RS256"), jwk("rsa", "RS256")) as server:
        door = fetching(server)
        async with door.running():
            await door.authenticate(f"Bearer {by('rsa', 'RS256')}")
            with pytest.warns(InsecureKeyLengthWarning):
                weak = by("rsa-1024", "RS256")
            await refused(door, weak, "invalid_token")
            await refused(door, signed("0123456789abcdef" * 2, "HS256", {"kid": "s"}), "invalid_token")


async def test_one_issuer_down_is_not_the_other_s_trouble() -> None:
    """Each has its own keys, fetches and limits."""
    server, other = JwksServer(), issuer(name="other", issuer="https://other.test")
    await server.start()
    await server.stop()
    hurry = {"jwks_url": server.url, "algorithms": ["RS256"], "jwks_timeout_seconds": 1.0}
    door = authenticator(issuer(**hurry), other)
    async with door.running():
        assert door.not_ready() is None
        await door.authenticate(f"Bearer {signed(iss='https://other.test')}")
        with pytest.raises(GatewayError) as error:
            await door.authenticate(f"Bearer {by('rsa', 'RS256')}")
        assert (error.value.http_status, error.value.retry_after_seconds) == (503, 2)


def test_keys_come_over_tls_or_from_this_machine() -> None:
    """Elsewhere only in development."""
    for url, fine in (("https://id.test/k", True), ("http://127.0.0.1:1/k", True), ("http://[::1]:1/k", True),
                      ("http://localhost/k", True), ("http://id.test/k", False), ("http://127.0.0.1.id.test/k", False),
                      ("http://10.0.0.1/k", False)):  # fmt: skip
        part = issuer(jwks_url=url, algorithms=["RS256"])
        authenticator(part, development=True)
        if fine:
            authenticator(part)
        else:
            with pytest.raises(AccessError, match="must be https"):
                authenticator(part)
