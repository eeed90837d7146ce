"""Chinese entries spelled in pinyin, whole (``min gan ci``) or one character at a time (``敏gan词``)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from gateway.policy.errors import PolicyError


class Spelling(NamedTuple):
    """Another form of an entry."""

    text: str
    whole_word: bool


def spellings(word: str) -> list[Spelling]:
    """Other forms of ``word``; none if it has no Chinese character. Raises :class:`PolicyError` without the extra."""
    syllables = [_syllable(character) for character in word]
    if sum(syllable is not None for syllable in syllables) < 2:
        return []
    forms = [syllable or character for syllable, character in zip(syllables, word, strict=True)]
    found = [Spelling("".join(forms), True), Spelling(" ".join(forms), True)]
    for place, syllable in enumerate(syllables):
        if syllable is not None:
            found.append(Spelling(word[:place] + syllable + word[place + 1 :], False))
    return found


@lru_cache(maxsize=1 << 15)
def _syllable(character: str) -> str | None:
    if not "\u3400" <= character <= "\u9fff":
        return None
    readings: list[list[str]] = _module().pinyin(character, style=_module().Style.NORMAL)
    return readings[0][0]


@lru_cache(maxsize=1)
def _module() -> Any:
    try:
        import pypinyin  # noqa: PLC0415 - only lists that ask for it need it
    except ImportError:
        raise PolicyError("a list with pinyin: true needs pip install 'tidegate[pinyin]'") from None
    return pypinyin
