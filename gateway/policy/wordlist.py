"""What may be asked: a first check of the input against a list of sensitive words.

Text and words are folded alike (Unicode NFKC, then case folding) and compared as substrings. A line of the list is
``word[TAB action[TAB category]]``; ``#`` starts a comment; the file is UTF-8. Actions: ``block`` refuses the request,
``flag`` lets it pass and counts it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

Action = Literal["allow", "flag", "block"]
ACTIONS = ("flag", "block")


class PolicyError(Exception):
    """The word list cannot be used; the message names file and line."""


@dataclass(frozen=True)
class Verdict:
    """What the policy says about a text. ``category`` is the list's own word for the reason."""

    action: Action
    category: str = ""


@dataclass(frozen=True)
class _Entry:
    word: str
    verdict: Verdict


class WordPolicy:
    """A checked word list."""

    def __init__(self, entries: Iterable[tuple[str, Verdict]] = ()) -> None:
        self._by_first: dict[str, list[_Entry]] = {}
        for word, verdict in entries:
            folded = fold(word)
            if folded:
                self._by_first.setdefault(folded[0], []).append(_Entry(folded, verdict))

    def check(self, text: str) -> Verdict:
        """The strictest verdict of all words in ``text``."""
        folded, found = fold(text), Verdict("allow")
        for position, character in enumerate(folded):
            for entry in self._by_first.get(character, ()):
                if folded.startswith(entry.word, position):
                    if entry.verdict.action == "block":
                        return entry.verdict
                    found = entry.verdict
        return found


def fold(text: str) -> str:
    """Compatibility forms and case away: ``Ｂad`` and ``bad`` are one."""
    return unicodedata.normalize("NFKC", text).casefold()


def load_words(path: Path) -> WordPolicy:
    """Read a word file. Raises :class:`PolicyError` naming file and line."""
    try:
        lines = path.read_bytes().decode("utf-8").splitlines()
    except OSError as error:
        raise PolicyError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path} is not UTF-8 at byte {error.start}") from None
    entries = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        word, action, category, *rest = [*line.split("\t"), "", ""]
        action = action.strip() or "block"
        if action not in ACTIONS or not fold(word).strip() or any(rest[:-2]):
            raise PolicyError(f"{path}:{number}: expected word[TAB action[TAB category]], action one of {ACTIONS}")
        entries.append((word.strip(), Verdict(cast(Action, action), category.strip())))
    return WordPolicy(entries)
