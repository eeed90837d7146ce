"""Tokens that hold, and every way we know to forge one."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.access import AccessError
from gateway.access.authenticator import REMEMBERED_TOKENS
from gateway.errors import Forbidden, MissingToken, TokenExpired, Unauthenticated

from .identity import CLAIMS, SECRET, authenticator, issuer, jwk, pem, private_key, public, refused, signed

GOOD = [
    ("rsa", "RS256"),
    ("rsa", "RS384"),
    ("rsa", "RS512"),
    ("rsa", "PS256"),
    ("rsa", "PS384"),
    ("rsa", "PS512"),
    ("P-256", "ES256"),
    ("P-384", "ES384"),
    ("P-521", "ES512"),
    ("ed25519", "EdDSA"),
]


def encoded(value: Any) -> str:
    """JSON as a token's part."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def forged(header: dict[str, Any], key: bytes, claims: dict[str, Any] | None = None) -> str:
    """An HMAC token with any header: libraries refuse to make it, an attacker does not."""
    text = f"{encoded(header)}.{encoded(claims or {**CLAIMS, 'exp': int(time.time()) + 600})}"
    return f"{text}.{encoded(hmac.new(key, text.encode(), hashlib.sha256).digest())}"


@pytest.mark.parametrize(("kind", "algorithm"), GOOD)
async def test_each_algorithm_takes_its_own_tokens_and_no_other_s(kind: str, algorithm: str) -> None:
    """The key is bound to one algorithm: the same key under another one is refused, though the signature holds."""
    door = authenticator(public(kind, algorithm))
    principal = await door.authenticate(f"Bearer {signed(private_key(kind), algorithm)}")
    assert (principal.subject, principal.tenant, principal.scopes) == ("ann", "acme", frozenset({"generate"}))
    if kind == "rsa":
        for other in {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"} - {algorithm}:
            await refused(door, signed(private_key(kind), other), "invalid_token")


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_secrets(algorithm: str) -> None:
    """All three, each bound as well."""
    door = authenticator(issuer(keys=[{"algorithm": algorithm, "value": SECRET}]))
    await door.authenticate(f"Bearer {signed(SECRET, algorithm)}")
    for other in {"HS256", "HS384", "HS512"} - {algorithm}:
        await refused(door, signed(SECRET, other), "invalid_token")


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", "hs256", None, 1, ["HS256"], {"HS256": 1}])
async def test_no_algorithm_is_none(name: Any) -> None:
    """``alg`` none in any spelling, with and without a signature, and what is no algorithm at all."""
    door = authenticator()
    whole = forged({"typ": "JWT", "alg": name}, SECRET.encode())
    await refused(door, whole, "invalid_token")
    await refused(door, whole.rpartition(".")[0] + ".", "invalid_token")


@pytest.mark.parametrize(("kind", "algorithm"), [("rsa", "RS256"), ("P-256", "ES256"), ("ed25519", "EdDSA")])
async def test_a_public_key_is_no_secret(kind: str, algorithm: str) -> None:
    """RS/HS confusion: HMAC with the public key's text, in every form that it might be read in."""
    door = authenticator(public(kind, algorithm))
    text = pem(kind)
    for key in (text, text.strip(), text.replace("\n", "\r\n"), json.dumps(jwk(kind, algorithm))):
        await refused(door, forged({"typ": "JWT", "alg": "HS256"}, key.encode()), "invalid_token")


def test_a_public_key_cannot_be_configured_as_a_secret() -> None:
    """Nor the other way round, nor a private key as a public one; the message does not repeat it."""
    for algorithm, value in (("HS256", pem("rsa")), ("HS256", json.dumps(jwk("rsa", "RS256"))), ("RS256", SECRET),
                             ("ES256", pem("P-384")), ("EdDSA", pem("rsa")), ("RS256", pem("P-256"))):  # fmt: skip
        with pytest.raises(AccessError) as error:
            authenticator(issuer(keys=[{"algorithm": algorithm, "value": value}]))
        assert value not in str(error.value)
        assert "issuer 'id': keys.0: " in str(error.value)


@pytest.mark.parametrize(
    ("algorithm", "value"), [("HS256", "x" * 31), ("HS384", "x" * 47), ("HS512", "x" * 63), ("RS256", "rsa-1024")]
)
def test_weak_keys_are_for_development(algorithm: str, value: str) -> None:
    """RFC 7518's lengths; development takes them."""
    part = issuer(keys=[{"algorithm": algorithm, "value": pem(value) if value.startswith("rsa") else value}])
    with pytest.raises(AccessError, match="too weak"):
        authenticator(part)
    authenticator(part, development=True)


async def test_a_p384_key_signs_no_es256() -> None:
    """A key of another curve that calls itself ES256 is not used, and its tokens are refused."""
    with pytest.raises(AccessError):
        authenticator(public("P-384", "ES256"))
    door = authenticator(public("P-256", "ES256"), issuer(name="other", issuer="other", keys=[
        {"algorithm": "ES384", "value": pem("P-384")}]))  # fmt: skip
    es384 = signed(private_key("P-384"), "ES384", iss="other")
    await door.authenticate(f"Bearer {es384}")
    _, claims, signature = es384.split(".")
    await refused(door, f"{encoded({'alg': 'ES256', 'typ': 'JWT'})}.{claims}.{signature}", "invalid_token")


@pytest.mark.parametrize(
    "kid",
    [
        "../../../../dev/null",
        "/proc/self/environ",
        "' UNION SELECT '0123456789abcdef' -- ",
        "| cat /etc/passwd",
        "http://127.0.0.1:1/keys",
        "x" * 5000,
        "a\x00b",
        "",
        None,
        7,
        ["a"],
        {"$ne": ""},
    ],
)
async def test_a_kid_is_looked_up_and_nothing_else(kid: Any) -> None:
    """Paths, SQL, commands, URLs, huge and odd ones: not a key here, so refused, whatever it was signed with."""
    door = authenticator(issuer(keys=[{"algorithm": "HS256", "value": SECRET, "kid": "known"}]))
    for key in (b"", b"0123456789abcdef"):
        await refused(door, forged({"alg": "HS256", "kid": kid}, key), "invalid_token")


async def test_a_token_brings_no_key_of_its_own() -> None:
    """``jwk``, ``jku``, ``x5u`` and ``x5c`` in the header change nothing: the attacker's key stays theirs."""
    mine = private_key("rsa-other")
    brought = {
        "jwk": jwk("rsa-other", "RS256"),
        "jku": "http://127.0.0.1:1/",
        "x5u": "http://127.0.0.1:1/",
        "x5c": ["x"],
    }
    door = authenticator(public("rsa", "RS256"))
    await refused(door, signed(mine, "RS256", brought), "invalid_token")
    await door.authenticate(f"Bearer {signed(private_key('rsa'), 'RS256', brought)}")


@pytest.mark.parametrize(
    "header", [{"crit": ["exp"], "exp": 1}, {"b64": False}, {"b64": False, "crit": ["b64"]}, {"zip": "DEF"}]
)
async def test_extensions_that_are_critical_are_not_ignored(header: dict[str, Any]) -> None:
    """RFC 7515: what is not understood and marked critical refuses the token; what is not marked is ignored."""
    door = authenticator()
    token = forged({"alg": "HS256", **header}, SECRET.encode())
    if "zip" in header:
        await door.authenticate(f"Bearer {token}")
    else:
        await refused(door, token, "invalid_token")


LEEWAY = 30


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"exp": -LEEWAY - 1}, "token_expired", ""),
        ({"nbf": LEEWAY + 2}, "invalid_token", "not valid yet"),
        ({"iat": LEEWAY + 2}, "invalid_token", "not valid yet"),
        ({"exp": None}, "invalid_token", "'exp'"),
        ({"sub": None}, "invalid_token", "'sub'"),
        ({"aud": None}, "invalid_token", "aud"),
        ({"iss": None}, "invalid_token", "'iss'"),
        ({"jti": None}, "invalid_token", "'jti'"),
        ({"aud": "else"}, "invalid_token", "aud"),
        ({"aud": ["else", "tidegate2"]}, "invalid_token", "aud"),
        ({"aud": {"tidegate": 1}}, "invalid_token", "aud"),
        ({"iss": "https://id.test/"}, "invalid_token", "another issuer"),
        ({"sub": ""}, "invalid_token", "sub"),
        ({"sub": "a\nb"}, "invalid_token", "sub"),
        ({"sub": "x" * 256}, "invalid_token", "sub"),
        ({"jti": "x" * 256}, "invalid_token", "jti"),
        ({"exp": "9999999999"}, "invalid_token", "exp"),
        ({"exp": True}, "token_expired", ""),
        ({"exp": 10**400}, "invalid_token", "exp"),
        ({"exp": 1e308}, "invalid_token", "exp"),
        ({"nbf": "0"}, "invalid_token", "nbf"),
        ({"iat": -1}, "invalid_token", "iat"),
        ({"tenant": None}, "invalid_token", "no tenant"),
        ({"tenant": ""}, "invalid_token", "no tenant"),
        ({"tenant": "a b"}, "invalid_token", "tenant must be"),
        ({"tenant": "a\nlevel=error"}, "invalid_token", "tenant must be"),
        ({"tenant": "acme\n"}, "invalid_token", "tenant must be"),
        ({"tenant": "x" * 129}, "invalid_token", "tenant must be"),
        ({"tenant": ["acme"]}, "invalid_token", "tenant must be"),
        ({"tenant": True}, "invalid_token", "tenant must be"),
        ({"tenant_class": {"a": 1}}, "invalid_token", "tenant class"),
        ({"scope": ["generate"]}, "invalid_token", "scope"),
        ({"scopes": "generate"}, "invalid_token", "scope"),
        ({"scopes": [["generate"]]}, "invalid_token", "scope"),
    ],
)
async def test_claims_that_do_not_hold(changes: dict[str, Any], code: str, says: str) -> None:
    """One second past the leeway is past; the message names the claim and not its value."""
    now = int(time.time())
    times = {key: now + value for key, value in changes.items()
             if key in ("exp", "nbf", "iat") and type(value) is int and -100 < value < 100 and value != -1}  # fmt: skip
    door = authenticator(issuer(leeway_seconds=LEEWAY, required_claims=["jti"]))
    await refused(door, _raw({"jti": "1", **changes, **times}), code, says)


def _raw(changes: dict[str, Any]) -> str:
    """Signed as it stands: PyJWT's encoder is more careful than an attacker."""
    claims = {**CLAIMS, "exp": int(time.time()) + 600, **changes}
    claims = {name: value for name, value in claims.items() if value is not None}
    return forged({"typ": "JWT", "alg": "HS256"}, SECRET.encode(), claims)


async def test_within_the_leeway_it_holds() -> None:
    """In both directions."""
    now, door = int(time.time()), authenticator(issuer(leeway_seconds=LEEWAY))
    for changes in ({"exp": now - LEEWAY + 5}, {"nbf": now + LEEWAY - 5}, {"iat": now + LEEWAY - 5}):
        await door.authenticate(f"Bearer {signed(**changes)}")


async def test_what_is_remembered_expires() -> None:
    """A token that was good is refused the second it ends, remembered or not."""
    door, end = authenticator(), int(time.time()) + 3
    token = f"Bearer {signed(exp=end)}"
    first = await door.authenticate(token)
    await asyncio.sleep(end - time.time() - 1)
    assert await door.authenticate(token) is first
    await asyncio.sleep(end - time.time())
    with pytest.raises(TokenExpired):
        await door.authenticate(token)


async def test_a_remembered_token_does_not_suspend() -> None:
    """The second time there is nothing to wait for: driven by hand, the call ends at once; memory is bounded."""
    door, token = authenticator(), f"Bearer {signed()}"
    first = await door.authenticate(token)
    call = door.authenticate(token)
    with pytest.raises(StopIteration) as done:
        call.send(None)
    assert done.value.value is first
    for number in range(REMEMBERED_TOKENS + 10):
        door._remember(number.to_bytes(32, "big"), (first, first.expires_at))
    assert len(door._verified) == REMEMBERED_TOKENS


@pytest.mark.parametrize("token", ["x" * 8193, "a." * 4097, signed(pad="x" * 9000)])
async def test_oversized_tokens(token: str) -> None:
    """Refused by length, before anything is computed."""
    await refused(authenticator(), token, "invalid_token", "longer than 8192")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "bearer\t", "Token x"])
async def test_no_token(header: str | None) -> None:
    """Says what to send."""
    with pytest.raises(MissingToken):
        await authenticator().authenticate(header)


_parts = st.one_of(st.binary(max_size=60).map(encoded), st.text(max_size=40), st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "crit", "b64", "iss", "exp", "aud", "sub", "tenant", "scope"]),
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("HS256"),
              st.just(CLAIMS["iss"]), st.lists(st.text(max_size=3), max_size=2))).map(encoded))  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(_parts, max_size=4).map(".".join) | st.text(max_size=80))
def test_whatever_is_sent_is_refused_in_our_own_words(token: str) -> None:
    """No text gets in, and none causes anything but a refusal."""
    call = authenticator().authenticate(f"Bearer {token}")
    with pytest.raises(Unauthenticated):
        call.send(None)  # nothing to wait for: the keys are here


async def test_a_deep_token_is_refused() -> None:
    """JSON nested as deep as a token is long."""
    deep = encoded(b'{"iss":' + b"[" * 2500 + b"]" * 2500 + b"}")
    await refused(authenticator(), f"{encoded({'alg': 'HS256'})}.{deep}.x", "invalid_token")


async def test_each_issuer_answers_for_itself_only() -> None:
    """Another issuer's key does not sign for this one, its audience does not count here, and it may speak only for its
    own tenants and grant only what it may."""
    partner = issuer(
        name="partner", issuer="https://partner.test", audience=["partners"], tenants=["bolt"], scopes=["generate"],
        keys=[{"algorithm": "RS256", "value": pem("rsa")}],
    )  # fmt: skip
    door = authenticator(issuer(), partner)
    ours = {"iss": "https://partner.test", "aud": "partners", "tenant": "bolt", "scope": "generate:a admin models:read"}
    principal = await door.authenticate(f"Bearer {signed(private_key('rsa'), 'RS256', **ours)}")
    assert (principal.tenant, principal.scopes) == ("bolt", frozenset({"generate:a"}))
    await refused(door, signed(SECRET, "HS256", **ours), "invalid_token")
    await refused(door, signed(private_key("rsa"), "RS256"), "invalid_token")
    await refused(door, signed(private_key("rsa"), "RS256", **{**ours, "aud": "tidegate"}), "invalid_token", "aud")
    await refused(door, signed(private_key("rsa"), "RS256", **{**ours, "tenant": "acme"}), "invalid_token", "tenant")


@pytest.mark.parametrize(
    ("part", "claims", "tenant", "tenant_class", "scopes"),
    [
        ({}, {}, "acme", "", {"generate"}),
        ({}, {"tenant": 7, "scopes": ["admin"]}, "7", "", {"generate", "admin"}),
        ({"tenant_claim": "org.id"}, {"org": {"id": "bolt"}}, "bolt", "", {"generate"}),
        ({"tenant_claim": "https://a.b/org"}, {"https://a.b/org": "bolt"}, "bolt", "", {"generate"}),
        ({"tenant_required": False}, {"tenant": None}, "", "", {"generate"}),
        ({"tenant_required": False, "tenant_claim": "tenant.x"}, {}, "", "", {"generate"}),
        ({"class_claim": "plan"}, {"plan": "gold"}, "acme", "gold", {"generate"}),
        ({"scope_claim": "scp"}, {"scp": "admin models:read"}, "acme", "", {"admin", "models:read"}),
        ({"scope_claim": "realm.roles"}, {"realm": {"roles": ["admin"]}}, "acme", "", {"admin"}),
        ({"scope_claim": "scp"}, {}, "acme", "", set()),
    ],
)
async def test_claims_become_a_principal(
    part: dict[str, Any], claims: dict[str, Any], tenant: str, tenant_class: str, scopes: set[str]
) -> None:
    """From whatever claims the issuer's file names; a scope claim that is not there grants nothing."""
    principal = await authenticator(issuer(**part)).authenticate(f"Bearer {signed(jti='1', **claims)}")
    assert (principal.tenant, principal.tenant_class, principal.scopes) == (tenant, tenant_class, scopes)
    assert (principal.token_id, principal.subject) == ("1", "ann")


async def test_scopes_for_one_model() -> None:
    """``generate`` is every model, ``generate:MODEL`` that one, and no scope implies another."""
    door = authenticator()
    one = await door.authenticate(f"Bearer {signed(scope='generate:small admin')}")
    every = await door.authenticate(f"Bearer {signed(scope='generate')}")
    one.require("generate", "small")
    every.require("generate", "small")
    every.require("generate")
    for scope, model in (("generate", "large"), ("generate", None), ("models:read", None), ("admin", "small:x")):
        if scope != "admin":
            with pytest.raises(Forbidden, match=scope):
                one.require(scope, model)
    with pytest.raises(Forbidden):
        every.require("admin")


async def test_two_keys_that_nothing_tells_apart() -> None:
    """With a kid each, both serve; without one, a token that names none is refused; the same kid twice is refused."""
    keys = [
        {"algorithm": "RS256", "value": pem("rsa"), "kid": "a"},
        {"algorithm": "RS256", "value": pem("rsa-other"), "kid": "b"},
    ]
    door = authenticator(issuer(keys=keys))
    await door.authenticate(f"Bearer {signed(private_key('rsa-other'), 'RS256', {'kid': 'b'})}")
    await refused(door, signed(private_key("rsa-other"), "RS256", {"kid": "a"}), "invalid_token")
    await refused(door, signed(private_key("rsa-other"), "RS256"), "invalid_token")
    with pytest.raises(AccessError, match="same kid"):
        authenticator(issuer(keys=[{**each, "kid": "a"} for each in keys]))
