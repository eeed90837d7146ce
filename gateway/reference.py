"""The settings as a page: ``python -m gateway settings`` prints the table of docs/configuration.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gateway.settings import Settings

LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "min_length": "characters, at least"}


def settings_table() -> str:
    """Markdown: a row for each setting, in the order of :class:`gateway.settings.Settings`."""
    prefix = Settings.model_config["env_prefix"]
    rows = (
        f"| `{prefix}{name.upper()}` | {_default(field)} | {'; '.join(_limits(field))} | {field.description} |"
        for name, field in Settings.model_fields.items()
    )
    return "\n".join(["| variable | default | values | meaning |", "|---|---|---|---|", *rows])


def _default(field: FieldInfo) -> str:
    if field.default in (None, PydanticUndefined):
        return ""
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _limits(field: FieldInfo) -> Iterator[str]:
    yield _kind(field.annotation)
    for each in field.metadata:
        for name, words in LIMITS.items():
            if getattr(each, name, None) is not None:
                yield f"{words} {getattr(each, name)}"


def _kind(annotation: Any) -> str:
    """A choice as its values, an optional type as the type, any other by its name."""
    choices = [each for each in get_args(annotation) if isinstance(each, str)]
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    kinds = [each for each in get_args(annotation) if each is not type(None)]
    kind = kinds[0] if get_origin(annotation) is not None and kinds else annotation
    words = {"int": "integer", "float": "number", "str": "text", "bool": "true or false", "SecretStr": "secret"}
    name = str(kind.__name__)
    return words.get(name, name.lower())
