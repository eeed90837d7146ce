"""What is the same to a word list: every character becomes units, a unit is what a list entry is compared with.

Both the list and the text are folded by the same table, so a fold can only make them meet. A text's unit also knows for
which letters its sign or digit may stand (``$`` for ``s``); an entry's does not, so an entry ``a5`` finds no ``as``.
Folding is by code point, without a look at neighbours, so it is the same however a stream is cut.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from gateway.policy.tables import read_table

IGNORED, SPACE, SOFT, HARD, SIGN, LETTER, DIGIT, IDEOGRAPH = range(8)
"""Kinds of units. ``SOFT`` and ``HARD`` are separators that people put inside a word, and those that end a phrase;
``SIGN`` is a separator that may stand for a letter; ``IDEOGRAPH`` is any letter of a script without word spaces."""

SIGNS = {"@": "a", "$": "s", "!": "il", "|": "il", "+": "t", "€": "e", "£": "l", "¢": "c", "¡": "i"}
DIGITS = {"0": "o", "1": "il", "2": "z", "3": "e", "4": "a", "5": "s", "6": "gb", "7": "t", "8": "b", "9": "g"}
PHRASE_ENDS = frozenset('\n\r\v\f\x85\u2028\u2029，。！？；：、,!?;:…．()（）[]【】「」『』《》<>“”"‘’{}')
FILLERS = frozenset("\u115f\u1160\u3164\uffa0\u034f\u17b4\u17b5")
BLANKS = frozenset("\u2800")
COARSE = str.maketrans({"l": "i", "I": "i", "1": "i", "!": "i", "|": "i", "¡": "i", "0": "o", "2": "z", "3": "e",
                        "€": "e",
                        "4": "a", "@": "a", "5": "s", "$": "s", "7": "t", "+": "t", "8": "b", "6": "b", "g": "b",
                        "9": "b", "£": "i", "¢": "c"})  # fmt: skip
_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3040, 0x31FF),
             (0x3400, 0x9FFF), (0xAC00, 0xD7FF), (0xF900, 0xFAFF), (0x1B000, 0x1B16F), (0x20000, 0x3FFFF))  # fmt: skip
_UNIFORM = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0x20000, 0x323B0))
CODE = (1 << 21) - 1
"""In the rough table: the code point of the class of letters that signs and digits may be taken for."""
SEPARATOR, LETTER_BIT, SIGN_BIT, SEVERAL = 1 << 28, 1 << 29, 1 << 30, 1 << 31
"""In the rough table: no letter; a letter that may be repeated; a sign; several units, to be looked up one by one."""
_VARIANT_SHIFT = 21
_VARIANTS = {each: 1 + index for index, each in enumerate(sorted(chr(code) for code in COARSE))}
CAPITAL_I = _VARIANTS["I"] << _VARIANT_SHIFT | LETTER_BIT | ord("i")


MOST_KNOWN = 1 << 15


@dataclass(frozen=True)
class Folds:
    """Which differences do not count. ``repeat`` is the length from which a run of one letter counts as any shorter
    one; 0 is off."""

    width: bool = True
    case: bool = True
    accents: bool = True
    traditional: bool = True
    lookalikes: bool = True
    invisible: bool = True
    separators: bool = True
    signs: bool = True
    repeat: int = 3

    def names(self) -> list[str]:
        """The folds that are on."""
        return [each.name for each in fields(self) if getattr(self, each.name)]


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of a text. ``stands_for`` are pairs of an entry's character and whether a digit plays it."""

    kind: int
    character: str
    stands_for: tuple[tuple[int, int], ...]
    lower: bool
    capital_i: bool
    mark: bool


class Folding:
    """The units of every character under ``folds``. Made once per set of folds: :func:`folding`."""

    def __init__(self, folds: Folds) -> None:
        self.folds = folds
        self._traditional = read_table("traditional") if folds.traditional else {}
        self._lookalikes = read_table("lookalikes") if folds.lookalikes else {}
        self.known: dict[str, tuple[Unit, ...]] = {}
        self._coarse: npt.NDArray[np.uint32] | None = None

    def units(self, character: str) -> tuple[Unit, ...]:
        """What one character is, in order; remembered."""
        units = self.known.get(character)
        if units is None:
            if len(self.known) >= MOST_KNOWN:  # somebody sends all of Unicode
                self.known.clear()
            units = self.known[character] = tuple(self._unit(each, character) for each in self._letters(character))
        return units

    def _letters(self, character: str) -> str:
        """The character as others: compatibility forms, simplified, without accents, lower case, look-alikes."""
        folds = self.folds
        text = self._lookalikes.get(character, character)
        text = unicodedata.normalize("NFKC", text) if folds.width and text not in PHRASE_ENDS else text
        text = "".join(self._traditional.get(each, each) for each in text)
        if folds.lookalikes:
            text = "".join(self._lookalikes.get(each, each) for each in text)
        if folds.accents and not _within(_UNSPACED, ord(text[0])):
            bare = "".join(each for each in unicodedata.normalize("NFD", text) if unicodedata.category(each)[0] != "M")
            text = bare or text
        if folds.case:
            text = text.casefold()
        if folds.lookalikes:
            text = "".join(self._lookalikes.get(each, each) for each in text)
        return text

    def _unit(self, letter: str, original: str) -> Unit:
        kind = self._kind(letter)
        stands: tuple[tuple[int, int], ...] = ()
        if kind >= LETTER:
            stands = ((ord(letter), 0),)
        elif kind == SIGN:
            stands = tuple((ord(each), 0) for each in SIGNS[letter])
        if kind == DIGIT and self.folds.signs:
            stands += tuple((ord(each), 1) for each in DIGITS.get(letter, ""))
        mark = unicodedata.category(letter) in ("Mn", "Me")
        return Unit(kind, letter, stands, original.islower(), original == "I" and self.folds.lookalikes, mark)

    def _kind(self, letter: str) -> int:  # noqa: PLR0911 - one case a line, the first that fits
        category = unicodedata.category(letter)
        if category in ("Mn", "Me"):
            return IGNORED if self.folds.accents or (_is_selector(letter) and self.folds.invisible) else SOFT
        if category == "Cf" or letter in FILLERS or (category == "Cc" and letter not in "\t\n\r\v\f\x85"):
            return IGNORED if self.folds.invisible else SOFT
        if letter in PHRASE_ENDS and letter != "!":
            return HARD
        if letter in SIGNS and self.folds.signs:
            return SIGN
        if letter in PHRASE_ENDS:
            return HARD
        if category[0] == "Z" or letter in BLANKS or letter == "\t":
            return SPACE
        if category == "Nd":
            return DIGIT
        if category[0] in "LN" or category == "Mc":
            return IDEOGRAPH if _within(_UNSPACED, ord(letter)) else LETTER
        return SOFT

    def entry(self, word: str) -> str:
        """An entry as it is compared: letters, with one blank for each run of separators between them. A sign that an
        entry is written with is the letter that it most often stands for, beside a letter."""
        parts: list[str] = []
        for character in word:
            for unit in self.units(character):
                if unit.kind >= LETTER:
                    parts.append(unit.character)
                elif unit.character in "@$" and unit.kind == SIGN and word.strip() != unit.character:
                    parts.append(SIGNS[unit.character])
                elif unit.kind != IGNORED and parts and parts[-1] != " ":
                    parts.append(" ")
        return "".join(parts).strip(" ")

    def coarse(self) -> npt.NDArray[np.uint32]:
        """By code point, what the rough search needs: 0 for what is ignored, else bits (:data:`CODE` and below)."""
        if self._coarse is None:
            self._coarse = self._make_coarse()
        return self._coarse

    def take_coarse(self, table: npt.NDArray[np.uint32]) -> None:
        """The same as another process has made it, which takes half a second."""
        if self._coarse is None:
            self._coarse = table

    def _make_coarse(self) -> npt.NDArray[np.uint32]:
        table = np.full(0x110000, SEPARATOR, np.uint32)
        for first, end in _UNIFORM:
            table[first:end] = np.arange(first, end, dtype=np.uint32)
        rest = [code for code in range(0x20000) if not _within(_UNIFORM, code, half_open=True)]
        special = [ord(each) for each in self._traditional]
        for code in [*rest, *range(0x2F800, 0x2FA20), *special, *range(0xE0000, 0xE0200)]:
            table[code] = self._coarse_of(chr(code))
        self.known.clear()
        return table

    def _coarse_of(self, character: str) -> int:
        if unicodedata.category(character) in ("Cn", "Co", "Cs"):
            return SEPARATOR
        units = [unit for unit in self.units(character) if unit.kind != IGNORED]
        if len(units) > 1:
            return SEVERAL
        return rough(units[0]) if units else 0


def rough(unit: Unit) -> int:
    """A unit's place in the rough table: two units with one code may be taken for each other, and only equal units have
    equal values (but a capital I has :data:`CAPITAL_I`, since it may be taken for two letters)."""
    if unit.kind == IGNORED:
        return 0
    if unit.kind < SIGN:
        return SEPARATOR
    flags = {SIGN: SIGN_BIT, LETTER: LETTER_BIT}.get(unit.kind, 0)
    variant = _VARIANTS.get("I" if unit.capital_i else unit.character, 0) << _VARIANT_SHIFT
    return ord(unit.character.translate(COARSE)) | variant | flags


@lru_cache(maxsize=16)
def folding(folds: Folds) -> Folding:
    """The one :class:`Folding` of these folds."""
    return Folding(folds)


def _within(ranges: tuple[tuple[int, int], ...], code: int, *, half_open: bool = False) -> bool:
    return any(first <= code < last + (not half_open) for first, last in ranges)


def _is_selector(character: str) -> bool:
    return (
        "\ufe00" <= character <= "\ufe0f"
        or "\U000e0100" <= character <= "\U000e01ef"
        or "\u180b" <= character <= "\u180f"
    )
