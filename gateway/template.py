"""Messages into a prompt, with the model's own chat template, in a sandbox.

A message cannot end itself and speak in another role: the texts of the model's special tokens are taken out of what
users write before the template puts its own in.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.errors import InvalidField, InvalidRequest


def without_special_tokens(text: str, special_tokens: Sequence[str]) -> str:
    """``text`` without any special token's text, also one that appears when another is taken out."""
    pattern = _pattern(tuple(special_tokens))
    if pattern is None:
        return text
    while (shorter := pattern.sub("", text)) != text:
        text = shorter
    return text


@functools.lru_cache(maxsize=8)
def _pattern(special_tokens: tuple[str, ...]) -> re.Pattern[str] | None:
    longest_first = sorted((token for token in special_tokens if token), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def render(template: str, messages: Sequence[dict[str, str]], bos_token: str, eos_token: str) -> str:
    """The prompt, up to where the answer begins. Raises :class:`InvalidRequest` when the model has no template,
    :class:`InvalidField` when its template refuses the messages."""
    if not template:
        raise InvalidRequest("this model has no chat template; send text_input instead of messages", field="messages")
    try:
        return _compiled(template).render(
            messages=list(messages), bos_token=bos_token, eos_token=eos_token, add_generation_prompt=True
        )
    except _Refused as refusal:
        raise InvalidField(f"the model's chat template refuses the messages: {refusal}", field="messages") from None
    except Exception as error:  # noqa: BLE001 - a template is the model author's program and may raise anything
        reason = type(error).__name__
        raise InvalidRequest(
            f"the model's chat template fails on these messages ({reason})", field="messages"
        ) from None


class _Refused(Exception):
    """The template called ``raise_exception``."""


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.now(UTC).strftime(pattern)
    return environment.from_string(template)


def _raise_exception(message: str) -> None:
    raise _Refused(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
