"""The user's own text, for calibration and for the accuracy gate: JSON lines, tokenised, cut into windows.

A line is ``{"text": "..."}`` or ``{"messages": [{"role": ..., "content": ...}, ...]}``; a conversation is rendered with
the model's own chat template, so the numbers see what the model will see.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from build_engine.errors import TextError
from build_engine.source import TokenizerFiles

TokenIds = npt.NDArray[np.int64]
LEAST_TOKENS = 1024  # fewer say nothing about a perplexity


def read_texts(path: Path, tokenizer: TokenizerFiles) -> list[str]:
    """The texts of a JSON-lines file. Raises :class:`TextError` naming file, line and field."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"{path} cannot be read: {error}") from None
    texts = [_text(f"{path}, line {number}", line, tokenizer) for number, line in enumerate(lines, 1) if line.strip()]
    if not texts:
        raise TextError(f"{path} is empty; give one JSON object a line with text or messages")
    return texts


def refuse_overlap(calibration: list[str], held_out: list[str]) -> None:
    """What an engine is judged by must not have shaped it. Raises :class:`TextError` naming the first common line."""
    known = {hashlib.sha256(text.strip().encode()).digest() for text in calibration}
    for number, text in enumerate(held_out, 1):
        if hashlib.sha256(text.strip().encode()).digest() in known:
            raise TextError(f"--held-out: text {number} stands in --calibration too; judge by text it never saw")


def windows(texts: list[str], tokenizer: TokenizerFiles, length: int, most: int) -> TokenIds:
    """Token windows int64 ``[n, length]``, ``n <= most``, evenly spread over the texts joined by blank lines. Raises
    :class:`TextError` when there are fewer than ``LEAST_TOKENS`` tokens."""
    encoder = Tokenizer.from_str(tokenizer.json)
    ids = np.array(encoder.encode("\n\n".join(texts), add_special_tokens=False).ids, np.int64)
    if len(ids) < max(LEAST_TOKENS, length):
        raise TextError(f"the text has {len(ids)} tokens; at least {max(LEAST_TOKENS, length)} are needed to measure")
    count = min(most, len(ids) // length)
    starts = np.linspace(0, len(ids) - length, count).astype(int)
    return np.stack([ids[start : start + length] for start in starts])


def _text(where: str, line: str, tokenizer: TokenizerFiles) -> str:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise TextError(f"{where}: not JSON: {error}") from None
    if not isinstance(entry, dict):
        raise TextError(f"{where}: not a JSON object")
    if isinstance(entry.get("text"), str):
        return str(entry["text"])
    if isinstance(entry.get("messages"), list):
        return rendered(where, entry["messages"], tokenizer)
    raise TextError(f"{where}: neither text (a string) nor messages (a list)")


def rendered(where: str, messages: list[Any], tokenizer: TokenizerFiles, *, ask: bool = False) -> str:
    """A conversation in the model's chat template; with ``ask`` the model's turn is opened behind it. Raises
    :class:`TextError` that begins with ``where``."""
    if not tokenizer.chat_template:
        raise TextError(f"{where}: messages, but the model has no chat template; give text")

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    try:
        template = environment.from_string(tokenizer.chat_template)
        values = {"messages": messages, "bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
        return template.render(values | ({"add_generation_prompt": True} if ask else {}))
    except jinja2.TemplateError as error:
        raise TextError(f"{where}: the chat template refuses these messages: {error}") from None
