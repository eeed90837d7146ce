"""The certificate of both doors, read again when its files change: a renewed one counts for the next connection."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from gateway.watch import stamps, watching

LOGGER = logging.getLogger("tidegate")
LOOK_SECONDS = 2.0
_PUBLIC = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo


class TlsError(Exception):
    """The files cannot be used; the message names them."""


@dataclass(frozen=True)
class Pair:
    """PEM texts: the chain (the gateway's certificate first), its private key, and whom clients' certificates must come
    from (None: clients need none). ``expires_at`` is the chain's first end, in seconds since the epoch."""

    chain: bytes
    key: bytes
    client_ca: bytes | None
    expires_at: float


class Certificate:
    """``pair`` is the one in force; ``on_change`` is called with each new one. Raises :class:`TlsError`."""

    def __init__(self, cert_file: Path, key_file: Path, client_ca_file: Path | None = None) -> None:
        self._files = cert_file, key_file, client_ca_file
        self._listeners: list[Callable[[], None]] = []
        self.pair = self._read()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Also call ``listener`` when another pair takes over."""
        self._listeners.append(listener)

    def watched(self, seconds: float = LOOK_SECONDS) -> AbstractAsyncContextManager[None]:
        """While the block runs, look at the files every so many ``seconds``."""
        return watching(seconds, lambda: stamps(each for each in self._files if each is not None), self.renew)

    async def renew(self) -> None:
        """Read the files anew. What cannot be used (a key that was not replaced yet) changes nothing."""
        try:
            pair = self._read()
        except TlsError as error:
            LOGGER.error(
                "the certificate on disk cannot be used; the old one stays", extra={"fields": {"reason": str(error)}}
            )
            return
        if pair != self.pair:
            self.pair = pair
            for listener in self._listeners:
                listener()
            LOGGER.info("certificate renewed")

    def context(self) -> ssl.SSLContext:
        """For the HTTP door; it takes up every later pair by itself."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        if self.pair.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=self.pair.client_ca.decode("ascii", "replace"))
        cert_file, key_file, _ = self._files
        context.load_cert_chain(cert_file, key_file)

        def take_up() -> None:
            try:
                context.load_cert_chain(cert_file, key_file)
            except (OSError, ssl.SSLError):  # changed again meanwhile: the next look takes it up
                LOGGER.warning("the certificate changed while it was read")

        self.on_change(take_up)
        return context

    def _read(self) -> Pair:
        cert_file, key_file, client_ca_file = self._files
        chain, key = _bytes("TIDEGATE_TLS_CERT_FILE", cert_file), _bytes("TIDEGATE_TLS_KEY_FILE", key_file)
        certificates = _certificates("TIDEGATE_TLS_CERT_FILE", chain)
        try:
            private = serialization.load_pem_private_key(key, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise TlsError("TIDEGATE_TLS_KEY_FILE: not a private key in PEM without a password") from None
        if private.public_key().public_bytes(*_PUBLIC) != certificates[0].public_key().public_bytes(*_PUBLIC):
            raise TlsError("TIDEGATE_TLS_KEY_FILE: not the key of the first certificate in TIDEGATE_TLS_CERT_FILE")
        client_ca = None
        if client_ca_file is not None:
            client_ca = _bytes("TIDEGATE_TLS_CLIENT_CA_FILE", client_ca_file)
            _certificates("TIDEGATE_TLS_CLIENT_CA_FILE", client_ca)
        expires_at = min(each.not_valid_after_utc.timestamp() for each in certificates)
        return Pair(chain, key, client_ca, expires_at)


def ca_certificates(setting: str, path: Path) -> bytes:
    """A file of certificates that are trusted. Raises :class:`TlsError` naming ``setting``."""
    content = _bytes(setting, path)
    _certificates(setting, content)
    return content


def _bytes(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{setting}: cannot be read: {error.strerror}") from None


def _certificates(setting: str, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise TlsError(f"{setting}: holds no certificate in PEM") from None
