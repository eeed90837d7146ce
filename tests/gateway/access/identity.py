"""Keys, tokens and a real JWKS server: what an identity provider is to the tests."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.access.authenticator import Authenticator
from gateway.access.build import Setup, build
from gateway.access.issuers import IssuerPart, KeyPart
from gateway.errors import GatewayError
from gateway.telemetry import Telemetry

SECRET = "0123456789abcdef" * 4
CLAIMS = {"sub": "ann", "tenant": "acme", "aud": "tidegate", "iss": "https://id.test", "scope": "generate"}


@functools.cache
def private_key(kind: str) -> Any:
    """A private key: rsa, rsa-other, rsa-1024, P-256, P-384, P-521 or ed25519; the same one each time."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(public_exponent=65537, key_size=1024 if kind.endswith("1024") else 2048)
    if kind.startswith("P-"):
        curves = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
        return ec.generate_private_key(curves[kind])
    return ed25519.Ed25519PrivateKey.generate()


def pem(kind: str) -> str:
    """The public key's text."""
    public = private_key(kind).public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def jwk(kind: str, algorithm: str, **fields: Any) -> dict[str, Any]:
    """The public key as it stands in a set; None leaves a field out."""
    public = jwt.get_algorithm_by_name(algorithm).to_jwk(private_key(kind).public_key(), as_dict=True)
    entry = {**public, "use": "sig", "alg": algorithm, "kid": kind, **fields}
    return {name: value for name, value in entry.items() if value is not None}


def signed(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **changes: Any) -> str:
    """A token for ten minutes with changed claims; None removes one."""
    claims = {**CLAIMS, "exp": int(time.time()) + 600, **changes}
    kept = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(kept, key, algorithm=algorithm, headers=headers)


def issuer(**changes: Any) -> IssuerPart:
    """An issuer with one secret, unless it is changed; no leeway."""
    fields: dict[str, Any] = {"name": "id", "issuer": CLAIMS["iss"], "audience": ["tidegate"], "leeway_seconds": 0}
    if not changes.keys() & {"keys", "jwks_url", "jwks_file"}:
        fields["keys"] = [KeyPart(algorithm="HS256", value=SECRET)]  # type: ignore[arg-type]
    return IssuerPart(**{**fields, **changes})


def public(kind: str, algorithm: str, kid: str | None = None) -> IssuerPart:
    """An issuer with one public key."""
    return issuer(keys=[{"algorithm": algorithm, "value": pem(kind), "kid": kid}])


def authenticator(*parts: IssuerPart, **setup: Any) -> Authenticator:
    """The door for these issuers."""
    telemetry = setup.pop("telemetry", None) or Telemetry()
    return build(Setup(issuers=list(parts) or [issuer()], **setup), telemetry)


async def refused(door: Authenticator, token: str, code: str, says: str = "") -> None:
    """The token is refused with this code, and the message repeats nothing of it."""
    with pytest.raises(GatewayError) as error:
        await door.authenticate(f"Bearer {token}")
    assert error.value.code == code
    assert says in error.value.message
    assert not token or token not in error.value.message


class JwksServer:
    """Serves ``keys`` over real HTTP, or does what ``mode`` says: garbage, huge, hang, drip, moved, failing."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys, self.mode, self.fetches, self.port = list(keys), "", 0, 0
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where the set is."""
        return f"http://127.0.0.1:{self.port}/jwks.json"

    async def start(self) -> None:
        """Listen, at the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Be down."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            self.fetches += 1
            status, body = "200 OK", json.dumps({"keys": self.keys}).encode()
            if self.mode == "garbage":
                body = b"<html>not a key in sight</html>"
            elif self.mode == "huge":
                body += b" " * 300_000
            elif self.mode == "moved":
                status = f"302 Found\r\nLocation: {self.url}"
            elif self.mode == "failing":
                status = "500 Internal Server Error"
            elif self.mode == "hang":
                await reader.read()
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode())
            if self.mode == "drip":
                for byte in body:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.02)
            writer.write(body)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def serving(*keys: dict[str, Any]) -> AsyncIterator[JwksServer]:
    """A server that runs while the block does."""
    server = JwksServer(*keys)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def until(happened: Any, seconds: float = 5.0) -> None:
    """Wait for something that is going to happen; fail if it does not."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.01)
