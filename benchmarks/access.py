"""What it costs to learn who asks: ``python -m benchmarks.access``, half a minute, no server.

Each round asks in turn for a remembered token, an API key, and a token of each algorithm that must be verified; the
figure is the median of the rounds, in microseconds of one call. Writes the table of docs/access.md.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from benchmarks import harness
from gateway.access import Authenticator
from gateway.access.api_keys import ApiKeyLine, new_key, written
from gateway.access.build import Setup, build
from gateway.access.issuers import IssuerPart
from gateway.access.revocation import in_hours
from gateway.telemetry import Telemetry

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
ROUNDS, SECONDS = 7, 0.2
REVOKED = 10_000
WHAT = {
    "remembered": "a token that is remembered",
    "remembered_with_list": f"the same, {REVOKED:,} revocations in force",
    "api_key": "an API key",
}


def algorithms() -> dict[str, Any]:
    """A private key for each."""
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    elliptic = {"ES256": ec.generate_private_key(ec.SECP256R1()), "EdDSA": ed25519.Ed25519PrivateKey.generate()}
    return {"HS256": "k" * 64, "RS256": rsa_key, "PS256": rsa_key, **elliptic}


def token(algorithm: str, key: Any) -> str:
    """A header with a token of the ordinary size."""
    claims = {"sub": "ann", "tenant": "acme", "scope": "generate", "aud": "tidegate", "iss": algorithm, "jti": "1" * 36}
    return f"Bearer {jwt.encode({**claims, 'exp': int(time.time()) + 3600}, key, algorithm=algorithm)}"


def door(keys: dict[str, Any], folder: Path, revoked: int) -> tuple[Authenticator, str]:
    """Issuers of every algorithm, an API key, and so many revocations."""
    parts = []
    for algorithm, key in keys.items():
        public = key if isinstance(key, str) else _pem(key)
        entry = {"algorithm": algorithm, "value": public}
        parts.append(
            IssuerPart.model_validate(
                {"name": algorithm.lower(), "issuer": algorithm, "audience": ["tidegate"], "keys": [entry]}
            )
        )
    api_key, key_id, digest = new_key()
    end = in_hours(1, "an hour")
    line = ApiKeyLine(id=key_id, sha256=digest, tenant="acme", subject="job", scopes=["generate"], expires=end)
    (folder / "keys.jsonl").write_text(written(line) + "\n")
    (folder / "revoked.jsonl").write_text("".join(f'{{"jti": "{number}"}}\n' for number in range(revoked)))
    setup = Setup(parts, api_keys_file=folder / "keys.jsonl", revocation_file=folder / "revoked.jsonl")
    return build(setup, Telemetry()), f"Bearer {api_key}"


def _pem(key: Any) -> str:
    text: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


async def micros(ask: Authenticator, header: str, *, forget: bool) -> float:
    """Microseconds of one call, over :data:`SECONDS`."""
    calls, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        for _ in range(20):
            if forget:
                ask.forget()
            await ask.authenticate(header)
        calls += 20
    return 1e6 * (time.perf_counter() - began) / calls


async def measure() -> dict[str, float]:
    """All figures, round by round."""
    keys, found = algorithms(), dict[str, list[float]]()
    with tempfile.TemporaryDirectory(prefix="tidegate-access-") as name:
        plain, _ = door(keys, Path(name), 0)
        listed, api_key = door(keys, Path(name), REVOKED)
        tokens = {algorithm: token(algorithm, key) for algorithm, key in keys.items()}
        for _ in range(ROUNDS):
            asked: dict[str, Coroutine[Any, Any, float]] = {
                "remembered": micros(plain, tokens["RS256"], forget=False),
                "remembered_with_list": micros(listed, tokens["RS256"], forget=False),
                "api_key": micros(listed, api_key, forget=False),
                **{each: micros(plain, header, forget=True) for each, header in tokens.items()},
            }
            for what, call in asked.items():
                found.setdefault(what, []).append(await call)
    return {what: round(statistics.median(each), 2) for what, each in found.items()}


def main() -> None:
    """Measure, save, and renew the table."""
    figures = asyncio.run(measure())
    harness.save("access", {"microseconds": figures})
    rows = [
        f"| {WHAT.get(what, f'a token verified anew, {what}')} | {figure:.1f} µs |" for what, figure in figures.items()
    ]
    table = "\n".join([BEGIN, "| a call with | takes |", "|---|---|", *rows, END])
    page = harness.ROOT / "docs" / "access.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(before + table + rest.partition(END)[2], encoding="utf-8")
    print(figures)


if __name__ == "__main__":
    main()
