"""What is wrong with how identity is set up."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError


class AccessError(Exception):
    """Keys, issuers, API keys or revocations cannot be used; the message names file, line and field, never a key."""


def first_problem(error: ValidationError, whole: str) -> str:
    """Field and what is wrong with it, without the value that was found there."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or whole
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"


def read_text(path: Path) -> str:
    """The file's text. Raises :class:`AccessError`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise AccessError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise AccessError(f"{path} is not UTF-8 at byte {error.start}") from None
