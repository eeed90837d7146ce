"""Identity at the real HTTP door, and what the gateway does not start with."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.__main__ import main
from gateway.access import AccessError, Principal
from gateway.access.build import Setup, build
from gateway.access.issuers import read_issuers
from gateway.app import create_app
from gateway.settings import Settings
from gateway.telemetry import Telemetry
from tests.gateway.conftest import KEY, Served, good_token, serve
from tests.gateway.test_startup import gateway

from .identity import CLAIMS, SECRET, jwk, pem, private_key, serving, signed
from .test_api_keys import KEY as API_KEY
from .test_api_keys import line

POLICY = Path(__file__).resolve().parents[3] / "deploy/policy/policy.yaml"
ASK = {"text_input": "hi"}


async def code(served: Served, headers: Any) -> str:
    """What the door says to a request with these headers: ok, or the error's code."""
    async with served.client("") as client:
        response = await client.post("/generate", json=ASK, headers=headers)
    return "ok" if response.status_code == 200 else str(response.json()["error"]["code"])


async def test_issuers_api_keys_and_revocations_from_files(tmp_path: Path) -> None:
    """All settings together: a JWKS URL, a JWKS file, PEM and secret, API keys, and a revocation in time."""
    (tmp_path / "set.json").write_text(json.dumps({"keys": [jwk("P-256", "ES256")]}))
    (tmp_path / "rsa.pem").write_text(pem("rsa-other"))
    (tmp_path / "secret").write_text(SECRET + "\n")
    keys, revoked = tmp_path / "keys.jsonl", tmp_path / "revoked.jsonl"
    keys.write_text(line())
    revoked.write_text("")
    async with serving(jwk("rsa", "RS256")) as server:
        issuers = tmp_path / "issuers.yaml"
        issuers.write_text(f"""
issuers:
  - {{name: url, issuer: url, audience: [tidegate], jwks_url: "{server.url}", algorithms: [RS256]}}
  - {{name: set, issuer: set, audience: [tidegate], jwks_file: set.json, algorithms: [ES256]}}
  - {{name: files, issuer: files, audience: [tidegate], keys: [
      {{algorithm: PS256, file: rsa.pem, kid: a}}, {{algorithm: HS256, file: secret, kid: b}}]}}
""")
        settings: dict[str, Any] = {"jwt_key": None, "issuers_file": issuers, "api_keys_file": keys}
        async with serve(tmp_path, **settings, revocation_file=revoked, revocation_seconds=0.1) as served:
            tokens = [
                signed(private_key("rsa"), "RS256", {"kid": "rsa"}, iss="url"),
                signed(private_key("P-256"), "ES256", {"kid": "P-256"}, iss="set"),
                signed(private_key("rsa-other"), "PS256", {"kid": "a"}, iss="files"),
                signed(SECRET, "HS256", {"kid": "b"}, iss="files"),
            ]
            for token in (*tokens, API_KEY):
                assert await code(served, {"Authorization": f"Bearer {token}"}) == "ok"
            assert await code(served, {"X-API-Key": API_KEY}) == "ok"
            assert await code(served, {"X-API-Key": API_KEY, "Authorization": f"Bearer {tokens[0]}"}) == "invalid_token"
            assert await code(served, {"X-API-Key": API_KEY[:-1]}) == "invalid_token"
            crossed = signed(SECRET, "HS256", {"kid": "b"}, iss="url")
            assert await code(served, {"Authorization": f"Bearer {crossed}"}) == "invalid_token"
            revoked.write_text('{"sub": "ann"}\n')
            deadline = time.monotonic() + 5
            while await code(served, {"Authorization": f"Bearer {tokens[0]}"}) != "token_revoked":
                assert time.monotonic() < deadline, "not within 5 s"
            assert await code(served, {"X-API-Key": API_KEY}) == "ok"


async def test_two_of_one_header_are_refused(served: Served) -> None:
    """Another door may have read the other one."""
    two = [("Authorization", f"Bearer {good_token()}"), ("Authorization", f"Bearer {good_token(subject='bob')}")]
    assert await code(served, two) == "invalid_token"
    assert await code(served, two[:1]) == "ok"


@pytest.mark.parametrize(
    ("scope", "opens"),
    [("generate", False), ("generate:generate", False), ("generate:generate.candidate", True)],
)
def test_a_version_that_is_being_proven_has_to_be_named(scope: str, opens: bool) -> None:
    """A scope for every model does not open it; one that names it opens nothing else."""
    principal = Principal("ann", "acme", frozenset({scope}), 0.0)
    assert principal.may("generate", "generate.candidate") == opens
    assert principal.may("generate", "generate") != opens


@pytest.mark.parametrize(("scope", "expected"), [("generate:generate", "ok"), ("generate:other", "insufficient_scope")])
async def test_a_scope_for_one_model(served: Served, scope: str, expected: str) -> None:
    """`generate:MODEL` opens that model and no other."""
    assert await code(served, {"Authorization": f"Bearer {good_token(scope=scope)}"}) == expected


async def test_keys_from_a_url_by_settings_alone(tmp_path: Path) -> None:
    """The simple case of one identity provider; down at the start it is 503, and the gateway runs, not ready."""
    async with serving(jwk("ed25519", "EdDSA")) as server:
        settings: dict[str, Any] = {"jwt_key": None, "jwt_jwks_url": server.url, "jwt_algorithm": "EdDSA"}
        changes = {"jwt_issuer": CLAIMS["iss"], "jwt_tenant_claim": "org.id", "jwt_class_claim": "plan"}
        token = signed(private_key("ed25519"), "EdDSA", {"kid": "ed25519"}, org={"id": "bolt"})
        async with serve(tmp_path, **settings, **changes) as served:
            assert await code(served, {"Authorization": f"Bearer {token}"}) == "ok"
        await server.stop()
        async with serve(tmp_path, **settings, **changes) as served:
            assert await code(served, {"Authorization": f"Bearer {token}"}) == "identity_unavailable"
            async with served.client() as client:
                assert (await client.get("/health/live")).status_code == 200
                ready = await client.get("/health/ready")
                assert (ready.status_code, "issuer" in ready.json()["reason"]) == (503, True)


async def test_revocations_that_cannot_be_read_are_not_ready(tmp_path: Path) -> None:
    """With Redis away from the start."""
    async with serve(tmp_path, redis_url="redis://127.0.0.1:1/0") as served, served.client() as client:
        response = await client.get("/health/ready")
        assert (response.status_code, "revocations" in response.json()["reason"]) == (503, True)
        answer = await client.post("/generate", json=ASK)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


ISSUER = "issuers:\n  - name: a\n    issuer: i\n    audience: [t]\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "issuers.yaml:1: issuers: Field required"),
        ("issuers: []\n", "issuers: "),
        (ISSUER, "issuers.yaml:2: issuers.0: give exactly one of keys, jwks_file and jwks_url"),
        (ISSUER + "    jwks_url: https://x/\n", "algorithms is required"),
        (ISSUER + "    jwks_url: https://x/\n    algorithms: [RS256, HS256]\n", "never fetched from a URL"),
        (ISSUER + "    jwks_url: file:///etc/passwd\n    algorithms: [RS256]\n", "must be a URL"),
        (ISSUER + "    jwks_url: http://id.test/\n    algorithms: [RS256]\n", "issuer 'a': jwks_url must be https"),
        (ISSUER + "    jwks_url: https://x/\n    algorithms: [none]\n", "issuers.yaml:6: issuers.0.algorithms.0"),
        (ISSUER + "    jwks_file: none.json\n    algorithms: [RS256]\n", "issuer 'a': "),
        (ISSUER + "    keys: [{algorithm: RS256, file: none.pem}]\n", "none.pem cannot be read"),
        (ISSUER + "    keys: [{algorithm: HS256, value: canary-7f3a}]\n", "keys.0: a key for HS256 is too weak"),
        (ISSUER + "    keys: [{algorithm: HS256}]\n", "give exactly one of file and value"),
        (ISSUER + "    keys: [{algorithm: HS256, value: [canary-7f3a]}]\n", "issuers.0.keys.0.value"),
        (ISSUER + "    kyes: []\n", "issuers.yaml:5: issuers.0.kyes"),
        (ISSUER + "    keys: [{algorithm: RS256, value: &k x}]\n" + ISSUER.partition("\n")[2]
         + "    keys: [{algorithm: RS256, value: x}]\n", "two issuers have the same name"),
    ],
)  # fmt: skip
def test_an_issuers_file_that_does_not_hold(tmp_path: Path, text: str, says: str) -> None:
    """File, line and field, and no key."""
    path = tmp_path / "issuers.yaml"
    path.write_text(text)
    with pytest.raises(AccessError) as error:
        build(Setup(read_issuers(path).issuers, tmp_path), Telemetry())
    assert str(error.value).startswith("TIDEGATE_ISSUERS_FILE: ")
    assert says in str(error.value)
    assert "canary" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "nobody could be let in"),
        ({"jwt_key": KEY, "issuers_file": "x"}, "TIDEGATE_JWT_KEY and TIDEGATE_ISSUERS_FILE are set"),
        ({"jwt_jwks_url": "https://id.test/", "jwt_algorithm": "HS256"}, "TIDEGATE_JWT_JWKS_URL: "),
        ({"jwt_jwks_url": "http://id.test/", "jwt_algorithm": "RS256"}, "must be https"),
        ({"jwt_key": pem("rsa-1024"), "jwt_algorithm": "RS256"}, "TIDEGATE_JWT_KEY: issuer 'default': keys.0: "),
        ({"jwt_key": KEY[:40], "jwt_algorithm": "HS512"}, "too weak"),
        ({"jwt_key": KEY, "api_keys_file": "/nowhere"}, "TIDEGATE_API_KEYS_FILE: /nowhere cannot be read"),
        ({"jwt_key": KEY, "revocation_file": "/nowhere"}, "TIDEGATE_REVOCATION_FILE: /nowhere cannot be read"),
        ({"jwt_key": KEY, "redis_url": "http://:canary-7f3a@x/"}, "TIDEGATE_REDIS_URL must be"),
        ({"jwt_key": KEY, "revocation_seconds": "60"}, "revocation_seconds"),
    ],
)
def test_identity_that_does_not_hold(settings: dict[str, str], says: str) -> None:
    """With the setting's name, and no secret."""
    with pytest.raises((AccessError, ValueError)) as error:
        create_app(Settings(policy_file=POLICY, **settings))  # type: ignore[arg-type]
    assert says in str(error.value)
    assert all(each not in str(error.value) for each in ("canary", KEY))


def test_the_command_says_it_too() -> None:
    """Status 2 and one line."""
    ended = gateway("serve", policy_file=str(POLICY), jwt_key=KEY, api_keys_file="/nowhere")
    assert ended.returncode == 2
    assert ended.stderr == "error: TIDEGATE_API_KEYS_FILE: /nowhere cannot be read: No such file or directory\n"


def test_tokens_are_minted_with_a_secret_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not where keys come from elsewhere."""
    for name, value in (("ENVIRONMENT", "development"), ("JWT_JWKS_URL", "https://x/"), ("JWT_ALGORITHM", "RS256")):
        monkeypatch.setenv(f"TIDEGATE_{name}", value)
    assert main(["token", "--subject", "a", "--tenant", "b"]) == 2
    assert capsys.readouterr().out == ""
