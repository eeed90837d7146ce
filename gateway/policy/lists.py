"""Word lists in files: one entry a line, ``word[TAB action[TAB category]]``, UTF-8, ``#`` starts a comment line.

Fields that are empty or missing are the list's own. Spaces around a field do not count; a byte order mark is passed
over.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import NamedTuple

from gateway.policy.errors import PolicyError
from gateway.policy.verdict import ACTIONS, Action

LONGEST_WORD = 128
MOST_CATEGORIES = 64
"""Of one policy: categories are labels of metrics."""


class Line(NamedTuple):
    """One entry of a list, and where it stands."""

    word: str
    action: Action | None
    category: str
    number: int


def read_list(path: Path) -> list[Line]:
    """The entries of a file. Raises :class:`PolicyError` naming file and line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise PolicyError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path} is not UTF-8 at byte {error.start}") from None
    lines = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.rstrip("\r")
        if line.strip() and not line.startswith("#"):
            lines.append(_line(path, number, line))
    return lines


def _line(path: Path, number: int, line: str) -> Line:
    word, action, category, *rest = (part.strip() for part in [*line.split("\t"), "", ""])
    if any(rest):
        raise PolicyError(f"{path}:{number}: more than three fields; expected word[TAB action[TAB category]]")
    if action and action not in ACTIONS[1:]:
        raise PolicyError(f"{path}:{number}: action must be one of {', '.join(ACTIONS[1:])}")
    check_entry(f"{path}:{number}", word, category)
    return Line(word, next((each for each in ACTIONS if each == action), None), category, number)


def check_entry(where: str, word: str, category: str = "") -> None:
    """Raises :class:`PolicyError` for what cannot be an entry."""
    if not word or len(word) > LONGEST_WORD:
        raise PolicyError(f"{where}: a word has 1 to {LONGEST_WORD} characters")
    if any(unicodedata.category(each) == "Cc" for each in word + category):
        raise PolicyError(f"{where}: control characters cannot be part of an entry")
