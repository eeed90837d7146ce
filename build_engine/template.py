"""A conversation in the model's own chat template, in a sandbox.

The environment is the gateway's (``gateway/template.py``), so what a build is fitted to, judged and asked by is
rendered as it will be served; the two halves never import each other, and a test holds them together.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from build_engine.errors import TextError
from build_engine.source import TokenizerFiles


def rendered(where: str, messages: list[Any], tokenizer: TokenizerFiles, *, ask: bool = False) -> str:
    """``messages`` with texts ``role`` and ``content``; with ``ask`` the model's turn is opened behind them. Raises
    :class:`TextError` that begins with ``where`` and names the field."""
    for number, message in enumerate(messages):
        for field in ("role", "content"):
            if not isinstance(message, dict) or not isinstance(message.get(field), str):
                raise TextError(f"{where}: messages[{number}].{field} must be a string")
    if not tokenizer.chat_template:
        raise TextError(f"{where}: messages, but the model has no chat template; give text")
    values = {"messages": messages, "bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
    try:
        return _environment().from_string(tokenizer.chat_template).render(values | {"add_generation_prompt": ask})
    except Exception as error:  # noqa: BLE001 - a template is the model author's program and may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TextError(f"{where}: the chat template refuses these messages: {reason}") from None


def _environment() -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda pattern: datetime.now(UTC).strftime(pattern)
    return environment


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
