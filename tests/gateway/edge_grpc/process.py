"""The real command in a process of its own, and certificates made on the spot."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ..conftest import KEY, free_port, serve_triton
from .kserve import KServeTriton


@dataclass
class Process:
    """`python -m gateway serve` with both doors on loopback."""

    child: asyncio.subprocess.Process
    triton: KServeTriton
    port: int
    grpc_port: int

    @property
    def address(self) -> str:
        """Of the gRPC door."""
        return f"127.0.0.1:{self.grpc_port}"


async def started(
    settings: dict[str, str], *arguments: str, stdout: int = asyncio.subprocess.PIPE
) -> asyncio.subprocess.Process:
    """The command with these TIDEGATE_ settings and no others."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    environment = clean | {f"TIDEGATE_{name.upper()}": value for name, value in settings.items()}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", *arguments),
        env=environment,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
    )


@contextlib.asynccontextmanager
async def running(folder: Path, *arguments: str, triton_url: str = "", **settings: str) -> AsyncIterator[Process]:
    """The command, listening on both ports, before a :class:`KServeTriton` unless another is given."""
    words = folder / "policy.yaml"
    words.write_text("version: test\nlists: [{name: words, words: [bad word]}]\n", encoding="utf-8")
    triton, port, grpc_port = KServeTriton(), free_port(), free_port()
    own = f"127.0.0.1:{free_port()}"
    server = await serve_triton(triton, own)
    usual = {"jwt_key": KEY, "policy_file": str(words), "triton_url": triton_url or own}
    usual |= {"port": str(port), "grpc_port": str(grpc_port)}
    child = await started({**usual, **settings}, *arguments, stdout=asyncio.subprocess.DEVNULL)
    try:
        for each in (port, grpc_port):
            await _listening(child, each)
        yield Process(child, triton, port, grpc_port)
    finally:
        if child.returncode is None:
            child.terminate()
            await asyncio.wait_for(child.wait(), 20)
        await server.stop(None)


async def _listening(child: asyncio.subprocess.Process, port: int) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        assert child.returncode is None, (await child.communicate())[1].decode()
        await asyncio.sleep(0.05)
    raise AssertionError("the gateway does not listen")


@dataclass
class Authority:
    """A certificate authority of its own."""

    name: str

    def __post_init__(self) -> None:
        """Make its key and certificate."""
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._signed(self.name, self.key, authority=True, days=30)

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str, days: int = 30) -> tuple[bytes, bytes]:
        """A certificate for localhost and 127.0.0.1, and its key, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._signed(name, key, authority=False, days=days)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate.public_bytes(serialization.Encoding.PEM), private

    def _signed(self, name: str, key: ec.EllipticCurvePrivateKey, *, authority: bool, days: int) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    key_cert_sign=authority,
                    crl_sign=authority,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
        )
        return builder.sign(self.key, hashes.SHA256())


def secure_channel(address: str, ca: bytes, client: tuple[bytes, bytes] | None = None) -> grpc.aio.Channel:
    """A TLS channel of its own connection."""
    chain, key = client or (None, None)
    return grpc.aio.secure_channel(
        address, grpc.ssl_channel_credentials(ca, key, chain), options=(("grpc.use_local_subchannel_pool", 1),)
    )
