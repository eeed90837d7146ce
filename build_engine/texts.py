"""The user's own text, for calibration and for the accuracy gate: JSON lines, tokenised, cut into windows.

A line is ``{"text": "..."}`` or ``{"messages": [{"role": ..., "content": ...}, ...]}``; a conversation is rendered with
the model's own chat template, so the numbers see what the model will see.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from build_engine.errors import TextError
from build_engine.source import TokenizerFiles
from build_engine.template import rendered

TokenIds = npt.NDArray[np.int64]
LEAST_TOKENS = 1024  # fewer say nothing about a perplexity


def read_texts(path: Path, tokenizer: TokenizerFiles) -> list[str]:
    """The texts of a JSON-lines file. Raises :class:`TextError` naming file, line and field."""
    texts = [_text(where, entry, tokenizer) for where, entry in json_lines(path)]
    if not texts:
        raise TextError(f"{path} is empty; give one JSON object a line with text or messages")
    return texts


def refuse_overlap(calibration: list[str], held_out: list[str]) -> None:
    """What an engine is judged by must not have shaped it. Raises :class:`TextError` naming the first common line."""
    known = {hashlib.sha256(text.strip().encode()).digest() for text in calibration}
    for number, text in enumerate(held_out, 1):
        if hashlib.sha256(text.strip().encode()).digest() in known:
            raise TextError(f"--held-out: text {number} stands in --calibration too; judge by text it never saw")


def windows(path: Path, texts: list[str], tokenizer: TokenizerFiles, length: int, most: int) -> TokenIds:
    """Token windows int64 ``[n, length]``, ``n <= most``, evenly spread over the texts of ``path`` joined by blank
    lines. Raises :class:`TextError` when there are fewer than ``LEAST_TOKENS`` tokens."""
    encoder = Tokenizer.from_str(tokenizer.json)
    encoder.no_truncation()  # some were saved with what training had set
    encoder.no_padding()
    ids = np.array(encoder.encode("\n\n".join(texts), add_special_tokens=False).ids, np.int64)
    if len(ids) < max(LEAST_TOKENS, length):
        raise TextError(f"{path} has {len(ids)} tokens; at least {max(LEAST_TOKENS, length)} are needed to measure")
    count = min(most, len(ids) // length)
    starts = np.linspace(0, len(ids) - length, count).astype(int)
    return np.stack([ids[start : start + length] for start in starts])


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each line of a JSON-lines file stands, and its object; blank lines do not count. Raises :class:`TextError`
    naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a text may hold other line separators as they are
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"{path} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _parsed(where, line)


def _parsed(where: str, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        json.dumps(entry, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise TextError(f"{where}: half a surrogate pair (\\ud800 to \\udfff alone) is no text") from None
    except RecursionError:
        raise TextError(f"{where}: nested too deeply") from None
    except ValueError as error:  # also of a number of thousands of digits
        raise TextError(f"{where}: not JSON: {error}") from None
    if not isinstance(entry, dict):
        raise TextError(f"{where}: not a JSON object")
    return entry


def _text(where: str, entry: dict[str, Any], tokenizer: TokenizerFiles) -> str:
    if isinstance(entry.get("text"), str):
        return str(entry["text"])
    if isinstance(entry.get("messages"), list):
        return rendered(where, entry["messages"], tokenizer)
    raise TextError(f"{where}: neither text (a string) nor messages (a list)")
