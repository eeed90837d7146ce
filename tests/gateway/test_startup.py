"""What the gateway refuses to start with, and the tokens it mints: the real command, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from .conftest import KEY

CANARY = "canary-7f3a"


def gateway(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`python -m gateway ...` with these TIDEGATE_ settings and no others."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    environment = clean | {f"TIDEGATE_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths to words and keys, good and bad."""
    folder = tmp_path_factory.mktemp("startup")
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    contents = {"words": b"bad word\n", "private": private, "empty": b"", "short": CANARY.encode()}
    contents["latin"] = "schlecht\xe4\n".encode("latin-1")
    contents["action"] = b"fine\nword\texplode\n"
    for name in ("words", "latin", "action"):
        contents[f"{name}.yaml"] = f"version: '1'\nlists:\n  - {{name: a, file: {name}}}\n".encode()
    contents["typo.yaml"] = b"version: '1'\nlists:\n  - name: a\n    fiel: words\n"
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: str(folder / name) for name in contents} | {"absent": str(folder / "absent")}


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"policy_file": "words.yaml"}, "TIDEGATE_JWT_KEY"),
        ({"policy_file": "words.yaml", "jwt_key": f"{CANARY}-too-short"}, "TIDEGATE_JWT_KEY"),
        ({"policy_file": "words.yaml", "jwt_key_file": "short"}, "openssl rand -hex 32"),
        ({"policy_file": "words.yaml", "jwt_key_file": "empty"}, "TIDEGATE_JWT_KEY"),
        ({"policy_file": "words.yaml", "jwt_key_file": "absent"}, "TIDEGATE_JWT_KEY_FILE cannot be read"),
        ({"policy_file": "words.yaml", "jwt_key": CANARY * 9, "jwt_algorithm": "RS256"}, "public key"),
        ({"policy_file": "words.yaml", "jwt_key_file": "private", "jwt_algorithm": "RS256"}, "public key"),
        ({"policy_file": "words.yaml", "jwt_key": KEY, "jwt_algorithm": "none"}, "TIDEGATE_JWT_ALGORITHM"),
        ({"policy_file": "words.yaml", "jwt_key": KEY, "redis_url_file": "absent"}, "TIDEGATE_REDIS_URL_FILE"),
        ({"policy_file": "words.yaml", "jwt_key": KEY, "redis_url_file": "empty"}, "TIDEGATE_REDIS_URL_FILE is empty"),
        ({"jwt_key": KEY}, "TIDEGATE_POLICY_FILE"),
        ({"jwt_key": KEY, "policy_file": "absent"}, "TIDEGATE_POLICY_FILE"),
        ({"jwt_key": KEY, "policy_file": "latin.yaml"}, "not UTF-8 at byte 8"),
        ({"jwt_key": KEY, "policy_file": "action.yaml"}, "action:2"),
        ({"jwt_key": KEY, "policy_file": "typo.yaml"}, "typo.yaml:4: lists.0.fiel: "),
        ({"jwt_key": KEY, "policy_file": "words.yaml", "port": "70000"}, "TIDEGATE_PORT"),
        ({"jwt_key": KEY, "policy_file": "words.yaml", "environment": "staging"}, "TIDEGATE_ENVIRONMENT"),
    ],
)
def test_it_does_not_start_with_settings_that_do_not_hold(
    files: dict[str, str], settings: dict[str, str], names: str
) -> None:
    """Status 2 and one line that names the setting; a key is never printed."""
    resolved = {
        name: files[value] if name.endswith("_file") and value in files else value for name, value in settings.items()
    }
    ended = gateway("serve", **resolved)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith("error: ")
    assert names in ended.stderr
    assert "Traceback" not in ended.stderr
    for secret in (CANARY, KEY, "BEGIN PRIVATE"):
        assert secret not in ended.stdout + ended.stderr


def test_a_development_token_is_what_the_verifier_wants() -> None:
    """Audience, issuer, subject, tenant, scope, and an end."""
    ended = gateway(
        "token", "--subject", "ann", "--tenant", "acme", "--lifetime-seconds", "60",
        environment="development", jwt_key=KEY,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    claims = jwt.decode(ended.stdout.strip(), KEY, algorithms=["HS256"], audience="tidegate", issuer="tidegate")
    assert (claims["sub"], claims["tenant"], claims["scope"]) == ("ann", "acme", "generate")
    assert claims["exp"] - claims["iat"] == 60


def test_tokens_are_minted_in_development_only(files: dict[str, str]) -> None:
    """A production key mints nothing here."""
    ended = gateway("token", "--subject", "ann", "--tenant", "acme", jwt_key=KEY, policy_file=files["words.yaml"])
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "TIDEGATE_ENVIRONMENT=development" in ended.stderr


def test_the_readme_knows_where_the_words_are() -> None:
    """The shipped list loads."""
    root = Path(__file__).resolve().parents[2]
    ended = gateway("token", "--subject", "a", "--tenant", "b", environment="development", jwt_key=KEY,
                    policy_file=str(root / "deploy/policy/policy.yaml"))  # fmt: skip
    assert ended.returncode == 0
