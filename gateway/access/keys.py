"""Keys that tokens are checked with. Each is bound to one algorithm here, so that a token has nothing to choose.

A key of a set that cannot or must not be used (meant for encryption, too weak, secret but published) is left out; a set
that leaves nothing is refused, and so is one in which two different keys have the same ``kid`` and algorithm.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from gateway.access.errors import AccessError

MAX_KEYS = 100
CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
ABLE = {
    "oct": ("HS256", "HS384", "HS512"),
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "OKP": ("EdDSA",),
}


@dataclass(frozen=True)
class Key:
    """A key and the one algorithm it is for; ``kid`` None serves any. ``digest`` tells two keys apart."""

    kid: str | None
    algorithm: str
    digest: str
    jwk: jwt.PyJWK


class KeySet:
    """Keys by ``kid`` and algorithm. Raises :class:`AccessError` where that does not tell two keys apart."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys: dict[tuple[str | None, str], Key] = {}
        for key in keys:
            known = self._keys.setdefault((key.kid, key.algorithm), key)
            if known.digest != key.digest:
                raise AccessError(f"two different keys for {key.algorithm} have the same kid, or none")
        self._kids = {key.kid for key in keys}
        self.digests = frozenset((key.kid, key.algorithm, key.digest) for key in keys)

    def knows(self, kid: str | None, algorithm: str) -> bool:
        """Whether a token with this ``kid`` has a key here, of whatever algorithm, or one that serves any ``kid``."""
        return kid is None or kid in self._kids or (None, algorithm) in self._keys

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The one key that may check such a token. Without a ``kid`` it must be the only one for the algorithm."""
        if kid is not None:
            return self._keys.get((kid, algorithm)) or (
                None if kid in self._kids else self._keys.get((None, algorithm))
            )
        candidates = [key for key in self._keys.values() if key.algorithm == algorithm]
        return candidates[0] if len(candidates) == 1 else None


def key_of(text: str, algorithm: str, kid: str | None, *, development: bool) -> Key:
    """A key from a secret (HS…) or a PEM public key. Raises :class:`AccessError`, which never repeats it."""
    if algorithm.startswith("HS"):
        secret = text.encode()
        try:
            jwt.get_algorithm_by_name(algorithm).prepare_key(secret)
        except jwt.InvalidKeyError:
            raise AccessError(f"{algorithm} needs a secret, and this is a key of another kind, or nothing") from None
        entry = {"kty": "oct", "k": base64.urlsafe_b64encode(secret).rstrip(b"=").decode()}
    else:
        if "PRIVATE KEY" in text:
            raise AccessError("this is a private key; tokens are checked with the public key")
        try:
            public: Any = load_pem_public_key(text.encode())
            entry = jwt.get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True)
        except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm, jwt.PyJWTError):
            raise AccessError(f"{algorithm} needs its public key as PEM, and this is something else") from None
    return _key({**entry, "kid": kid}, [algorithm], published=False, development=development)


def key_set(text: str | bytes, algorithms: Sequence[str], *, published: bool, development: bool) -> KeySet:
    """A JSON Web Key Set (RFC 7517), for these algorithms. ``published``: whoever can read it may not sign with it.
    Raises :class:`AccessError`."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise AccessError("this is not JSON") from None
    entries = document.get("keys") if isinstance(document, Mapping) else None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise AccessError(f"this is not a JSON Web Key Set of at most {MAX_KEYS} keys")
    keys, reasons = [], []
    for entry in entries:
        try:
            keys.append(_key(entry, algorithms, published=published, development=development))
        except AccessError as error:
            reasons.append(str(error))
    if not keys:
        raise AccessError("no key of this set can be used" + (f": {reasons[0]}" if reasons else ""))
    return KeySet(keys)


def _key(entry: Any, algorithms: Sequence[str], *, published: bool, development: bool) -> Key:
    """Raises :class:`AccessError` for a key that is not used."""
    if not isinstance(entry, Mapping):
        raise AccessError("an entry is not an object")
    kid = entry.get("kid")
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise AccessError("a key is not for signatures")
    if not (kid is None or (isinstance(kid, str) and kid)):
        raise AccessError("a kid is not a string")
    if "d" in entry or (published and entry.get("kty") == "oct"):
        raise AccessError("a key is given away that must be secret")
    algorithm = _algorithm(entry, algorithms)
    if algorithm is None:
        raise AccessError(f"a key is not for {', '.join(algorithms)}")
    try:
        jwk = jwt.PyJWK(dict(entry), algorithm)
        prepared = jwk.Algorithm.prepare_key(jwk.key)
        canonical = jwk.Algorithm.to_jwk(prepared, as_dict=True)
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        raise AccessError(f"a key for {algorithm} is malformed") from None
    if not development and jwk.Algorithm.check_key_length(prepared) is not None:
        raise AccessError(f"a key for {algorithm} is too weak: RSA needs 2048 bits, HS256 32 bytes, HS384 48, HS512 64")
    digest = hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()
    return Key(kid, algorithm, digest, jwk)


def _algorithm(entry: Mapping[str, Any], algorithms: Sequence[str]) -> str | None:
    """The one algorithm of a key: the one it names, else the first that it can do; None if it is not among these."""
    kind, curve, named = (str(entry.get(name, "")) for name in ("kty", "crv", "alg"))
    able = (CURVES.get(curve, ""),) if kind == "EC" else ABLE.get(kind, ())
    return next((each for each in algorithms if each in able and named in ("", each)), None)
