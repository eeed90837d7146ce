"""How likely each token was: kept beside the text, and given out with it, never before.

Log-probabilities are the model's own, before penalties, temperature and everything else that a request asks for.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from .sampling import largest

MAX_ALTERNATIVES = 20
LEAST = -9999.0
"""Instead of minus infinity, which JSON does not have."""
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class TokenLogprob:
    """A token of the answer. Its text ends at character ``end`` of the answer."""

    end: int
    token: bytes
    logprob: float
    alternatives: tuple[tuple[bytes, float], ...]
    """The likeliest tokens at its place, from the likeliest on; the token itself may be one of them."""


def to_json(tokens: Sequence[TokenLogprob]) -> str:
    """A list of ``[end, token, logprob, [[token, logprob], ...]]``. Each character of a token is one of its bytes."""
    rows = [
        [
            each.end,
            each.token.decode("latin-1"),
            each.logprob,
            [[token.decode("latin-1"), logprob] for token, logprob in each.alternatives],
        ]
        for each in tokens
    ]
    return json.dumps(rows, separators=(",", ":"))


class TokenBytes:
    """The bytes that a token stands for, by the kind of the tokenizer's decoder."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        decoder = tokenizer.decoder.__getstate__().decode() if tokenizer.decoder is not None else ""
        self._byte_level = _byte_level() if '"ByteLevel"' in decoder else None
        self._byte_fallback = '"ByteFallback"' in decoder

    def __getitem__(self, token: int) -> bytes:
        """The bytes of ``token``; none for an id without a token."""
        text: str = self._tokenizer.id_to_token(token) or ""
        if self._byte_level is not None:
            if all(character in self._byte_level for character in text):
                return bytes(self._byte_level[character] for character in text)
            return text.encode()  # an added token stands for itself
        byte = _BYTE.fullmatch(text) if self._byte_fallback else None
        return bytes([int(byte[1], 16)]) if byte else text.replace("\u2581", " ").encode()


def _byte_level() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes are themselves, the others follow from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


class TokenLog:
    """The tokens of one answer that have not been given out. A token leaves with the last character of its text; one
    that ends inside a character waits for the token that completes it.
    """

    def __init__(self, alternatives: int, token_bytes: TokenBytes) -> None:
        self._count, self._bytes = alternatives, token_bytes
        self._open: list[TokenLogprob] = []
        self._whole: deque[TokenLogprob] = deque()
        self._decoded = self._sent = 0

    def add(self, logits: npt.NDArray[np.float32], token: int, decoded: int) -> None:
        """``token`` was chosen by a row ``[vocab_size]``; with it the answer has ``decoded`` whole characters."""
        top = float(logits.max())
        scale = top + float(np.log(np.exp(logits.astype(np.float64) - top).sum()))
        ids = largest(logits, self._count)[: self._count].tolist() if self._count else []
        alternatives = tuple((self._bytes[each], self._logprob(logits, each, scale)) for each in ids)
        self._open.append(TokenLogprob(0, self._bytes[token], self._logprob(logits, token, scale), alternatives))
        self.decoded(decoded)

    @staticmethod
    def _logprob(logits: npt.NDArray[np.float32], token: int, scale: float) -> float:
        return round(max(float(logits[token]) - scale, LEAST), 6)

    def decoded(self, characters: int) -> None:
        """The answer has so many whole characters now."""
        if characters > self._decoded:
            self._decoded = characters
            self._whole += [
                TokenLogprob(characters, each.token, each.logprob, each.alternatives) for each in self._open
            ]
            self._open = []

    def take(self, characters: int) -> list[TokenLogprob]:
        """So many more characters leave: the tokens that leave with them."""
        self._sent += characters
        taken = []
        while self._whole and self._whole[0].end <= self._sent:
            taken.append(self._whole.popleft())
        return taken
