"""The rules of ``gateway/policy/alignment.py`` once more, slowly: every way to lay an entry over the text is written
down as a path first and judged as a whole afterwards. Shares the folding's units with the matcher, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from gateway.policy.folds import DIGIT, HARD, IDEOGRAPH, IGNORED, LETTER, SIGN, SPACE, Folding, Unit

GAP, LONG, MANY = 8, 8, 3


class Step(NamedTuple):
    """A unit of the text, the entry's letter that it plays, as a digit, as one more of a run."""

    unit: int
    letter: int
    digit: int
    more: bool


Path = tuple[Step, ...]


class Text:
    """A text as units, each with its character's place."""

    def __init__(self, folding: Folding, text: str) -> None:
        pairs = [(unit, place) for place, character in enumerate(text) for unit in folding.units(character)]
        self.folds = folding.folds
        self.units: list[Unit] = [unit for unit, _ in pairs]
        self.places = [place for _, place in pairs]

    def kinds(self, first: int, last: int) -> list[int]:
        """The kinds of the units between two, without those that are ignored."""
        return [unit.kind for unit in self.units[first + 1 : last] if unit.kind != IGNORED]


def find(folding: Folding, entries: Sequence[tuple[str, bool]], content: str) -> set[tuple[int, int, int]]:
    """Every (start, end, entry) in ``content``. An entry is its word and whether it must be a whole word."""
    text = Text(folding, content)
    found = set()
    for number, (word, whole) in enumerate(entries):
        folded = folding.entry(word)
        entry = Entry(folded)
        for start in range(len(text.units) if entry.letters else 0):
            for path in paths(text, entry, (), start):
                if allowed(text, entry, path, whole):
                    found.add((text.places[start], text.places[path[-1].unit] + 1, number))
    return found


class Entry:
    """An entry's letters and where it has separators of its own: ``own[k]`` is behind letter ``k``."""

    def __init__(self, folded: str) -> None:
        self.letters = folded.replace(" ", "")
        self.own: list[bool] = []
        for index, character in enumerate(folded):
            if character != " ":
                self.own.append(folded[index + 1 : index + 2] == " ")


def paths(text: Text, entry: Entry, path: Path, unit: int) -> Iterator[Path]:
    """Every path that goes on with ``unit`` or with nothing (a complete one)."""
    letter = path[-1].letter + 1 if path else 0
    if letter == len(entry.letters):
        yield path
    for place in range(unit, unit + 1 if not path else len(text.units)):
        if path:
            between = text.kinds(path[-1].unit, place)
            if len(between) > GAP or any(kind > SIGN for kind in between):
                return
        for character, digit in plays(text, path, place):
            if letter < len(entry.letters) and entry.letters[letter] == character:
                yield from paths(text, entry, (*path, Step(place, letter, digit, False)), place + 1)
            if path and not between and entry.letters[path[-1].letter] == character:
                alphabetic = text.units[place].kind == text.units[path[-1].unit].kind == LETTER
                if alphabetic and text.folds.repeat:
                    yield from paths(text, entry, (*path, Step(place, letter - 1, 0, True)), place + 1)


def plays(text: Text, path: Path, place: int) -> list[tuple[str, int]]:
    """What a unit may stand for; a capital I behind small letters is an l too."""
    unit = text.units[place]
    found = [(chr(code), digit) for code, digit in unit.stands_for]
    if unit.capital_i and any(text.units[step.unit].lower for step in path):
        found.append(("l", 0))
    return found


def allowed(text: Text, entry: Entry, path: Path, whole: bool) -> bool:  # every line one rule
    """Whether a complete path is a match."""
    gaps = [text.kinds(one.unit, other.unit) for one, other in pairwise(path)]
    pairs = list(zip(path, path[1:], gaps, strict=False))
    repeated = any(step.more for step in path)
    own = [entry.own[one.letter] and not other.more for one, other, _ in pairs]
    inner = [gap for gap, at in zip(gaps, own, strict=True) if gap and not at]
    squashed = any(at and not gap for gap, at in zip(gaps, own, strict=True))
    sign_letter = any(text.units[step.unit].kind == SIGN for step in path)
    sign_gap = any(SIGN in gap for gap in gaps)
    digits = sum(step.digit for step in path)
    length = len(entry.letters)
    if inner and not text.folds.separators:
        return False
    if repeated and (inner or sign_gap or squashed):
        return False
    if squashed and length < LONG:
        return False
    if sign_letter and sign_gap:
        return False
    if digits and length - digits < 2:
        return False
    if not runs_fit(text, entry, path):
        return False
    segments = divide(text, pairs, own)
    if not all(segment_fits(segment, length) for segment in segments):
        return False
    spaced = any(latin and all(gap for gap in latin) for latin in map(latin_places, segments))
    return stands_free(text, path, whole, spaced, spaced and length == MANY)


def runs_fit(text: Text, entry: Entry, path: Path) -> bool:
    """Every run of one letter is as long as the entry's, or long enough for any; and one that the match begins in is
    all of the text's."""
    runs: list[list[Step]] = []
    for step in path:
        last = runs[-1][-1] if runs else None
        same = last is not None and not text.kinds(last.unit, step.unit)
        same = same and entry.letters[last.letter] == entry.letters[step.letter]  # type: ignore[union-attr]
        same = same and text.units[step.unit].kind == text.units[last.unit].kind == LETTER  # type: ignore[union-attr]
        if same and (step.more or not entry.own[last.letter]):  # type: ignore[union-attr]
            runs[-1].append(step)
        else:
            runs.append([step])
    least = text.folds.repeat
    if any(any(step.more for step in run) and len(run) < least for run in runs):
        return False
    return not (any(step.more for step in runs[0]) and begins_inside_a_run(text, path[0].unit))


def begins_inside_a_run(text: Text, unit: int) -> bool:
    """Whether the letter before is the same."""
    before = [each for each in text.units[:unit] if each.kind != IGNORED][-1:]
    return bool(before) and before[0].kind == LETTER and before[0].character == text.units[unit].character


Place = tuple[bool, list[int]]


def divide(text: Text, pairs: list[tuple[Step, Step, list[int]]], own: list[bool]) -> list[list[Place]]:
    """The places between letters (whether between letters of an alphabet, and the separators there), by the entry's
    stretches between its own separators."""
    segments: list[list[Place]] = [[]]
    for (one, other, gap), at in zip(pairs, own, strict=True):
        if at:
            segments.append([])
        elif not other.more:
            kinds = (text.units[one.unit].kind, text.units[other.unit].kind)
            segments[-1].append((IDEOGRAPH not in kinds, gap))
    return segments


def latin_places(segment: list[Place]) -> list[list[int]]:
    """What stands between letters of an alphabet."""
    return [gap for latin, gap in segment if latin]


def segment_fits(segment: list[Place], length: int) -> bool:
    """The rules for separators between letters."""
    latin = latin_places(segment)
    if any(latin):
        everywhere = all(latin)
        wide = any(len(gap) > 1 or gap[0] in (SPACE, HARD) for gap in latin if gap)
        if (wide and not everywhere) or length < (MANY if everywhere else MANY + 1):
            return False
    if any(HARD in gap for is_latin, gap in segment if not is_latin):
        return length >= MANY and all(gap for _, gap in segment)
    return True


def stands_free(text: Text, path: Path, whole: bool, spaced: bool, alone: bool) -> bool:
    """The rules for what stands around."""
    first, last = path[0].unit, path[-1].unit
    before = list(reversed(text.kinds(-1, first)))
    after = text.kinds(last, len(text.units))
    left = text.units[first].kind != IDEOGRAPH and whole
    right = text.units[last].kind != IDEOGRAPH and whole
    if (left or spaced) and before[:1] and before[0] in (LETTER, DIGIT):
        return False
    if (right or spaced) and after[:1] and after[0] in (LETTER, DIGIT):
        return False
    return not (alone and (singles(before) >= 2 or singles(after) >= 2))


def singles(kinds: list[int]) -> int:
    """How many letters that stand alone, each behind one to eight separators, come first."""
    count, place = 0, 0
    while True:
        gap = 0
        while place < len(kinds) and kinds[place] <= SIGN:
            gap, place = gap + 1, place + 1
        if not 1 <= gap <= GAP or place == len(kinds) or kinds[place] == IDEOGRAPH:
            return count
        if kinds[place + 1 : place + 2] and kinds[place + 1] in (LETTER, DIGIT):
            return count
        count, place = count + 1, place + 1
