"""All lists with the same folds, made ready: a rough search in native code over the whole text, the exact rules where
it finds something, and a scan for text that comes in pieces.

The rough search folds with one table look-up per character, joins the letters and looks for the entries' letters with
an Aho-Corasick automaton (``daachorse``). It finds more than is there and never less, because it does everything that
an alignment may do, at once: separators are left out, signs and digits are taken for letters. Two rarer readings get a
search of their own, if the text gives cause: signs as separators, and runs of one letter as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import daachorse
import numpy as np
import numpy.typing as npt

from gateway.policy.alignment import Trie
from gateway.policy.folds import CODE, LETTER_BIT, SEPARATOR, SEVERAL, SIGN_BIT, Folds, folding, rough
from gateway.policy.scan import Found, Left, Scan

Codes = npt.NDArray[np.uint32]
Places = npt.NDArray[np.intp]
Automaton = Any  # daachorse carries no types


class Entry(NamedTuple):
    """What a matcher is built from: a list's word, whether it must be a whole word, whether it holds back a stream."""

    word: str
    whole_word: bool = False
    holds: bool = True


class Matcher:
    """Entries under one set of folds. Numbers of matches are places in ``entries``; an entry that folds to nothing is
    left out and never found."""

    def __init__(self, entries: Sequence[Entry], folds: Folds = Folds()) -> None:  # noqa: B008 - frozen
        self.folding = folding(folds)
        self.trie = Trie(folds)
        self._entry_of: list[int] = []
        self.holds: list[bool] = []
        plain: set[str] = set()
        merged: set[str] = set()
        for number, entry in enumerate(entries):
            folded = self.folding.entry(entry.word)
            if not folded:
                continue
            self.trie.add(folded, entry.whole_word, entry.holds)
            self._entry_of.append(number)
            self.holds.append(entry.holds)
            values = self._values(folded)
            plain.add(_string(values[values & SEPARATOR == 0]))
            if folds.repeat and (values & LETTER_BIT).any():
                once = _merge(values)[0]
                merged.add(_string(once[once & SEPARATOR == 0]))
        self._plain = _automaton(plain)
        self._merged = _automaton(merged)

    def _values(self, folded: str) -> Codes:
        """A folded entry in the rough table's terms."""
        return np.array([rough(unit) for each in folded for unit in self.folding.units(each)], np.uint32)

    def scan(self) -> Scan:
        """A new text that comes in pieces; its matches carry numbers of :meth:`entry`."""
        return Scan(self.folding, self.trie)

    def entry(self, number: int) -> int:
        """The place in ``entries`` of a match's number."""
        return self._entry_of[number]

    def find(self, text: str) -> list[Found]:
        """Every match in ``text``, in the order in which a reader could be certain of them."""
        starts = self._rough(text)
        if not starts:
            return []
        found = {match for index in sorted(starts) for match in self._exact(text, index)}
        return sorted(found, key=lambda match: (match.certain, match))

    def _rough(self, text: str) -> set[int]:
        """The characters at which a match may begin."""
        starts: set[int] = set()
        if self._plain is None or not text:
            return starts
        values = self.folding.coarse()[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")]
        seen, where = int(np.bitwise_or.reduce(values)), None
        if seen & SEVERAL:
            values, where = self._expand(text, values)
        if not values.all():
            kept = np.flatnonzero(values)
            values, where = values[kept], kept if where is None else where[kept]
        _search(self._plain, values, SEPARATOR, where, starts)
        if seen & SIGN_BIT:
            _search(self._plain, values, SEPARATOR | SIGN_BIT, where, starts)
        if self._merged is not None and _has_run(values, self.trie.folds.repeat):
            _search_merged(self._merged, values, where, starts)
        return starts

    def _expand(self, text: str, values: Codes) -> tuple[Codes, Places]:
        """The units of every character, one by one, and the character of each."""
        codes: list[int] = []
        where: list[int] = []
        for place, (character, value) in enumerate(zip(text, values.tolist(), strict=True)):
            several = [rough(unit) for unit in self.folding.units(character)] if value & SEVERAL else [value]
            codes += several
            where += [place] * len(several)
        return np.array(codes, np.uint32), np.array(where, np.intp)

    def _exact(self, text: str, start: int) -> list[Found]:
        """The matches that begin with the character at ``start``."""
        left = Left.of(self.folding, text, start)
        found: list[Found] = []
        for nth, unit in enumerate(self.folding.units(text[start])):
            if unit.stands_for:
                found += Scan(self.folding, self.trie, left.copy()).only_from(text, start, nth)
            left.pass_over(unit)
        return found


def _automaton(keys: set[str]) -> Automaton | None:
    return daachorse.CharwiseDoubleArrayAhoCorasick(list(keys)) if keys else None


def _string(values: Codes) -> str:
    return (values & CODE).tobytes().decode("utf-32-le", "surrogatepass")


def _search(automaton: Automaton, values: Codes, without: int, where: Places | None, starts: set[int]) -> None:
    """Add the places of matches in ``values`` that have none of the bits ``without``."""
    mask = values & np.uint32(without) == 0
    hits = automaton.find_overlapping(_string(values[mask]))
    if hits:
        places = np.flatnonzero(mask)
        if where is not None:
            places = where[places]
        starts.update(places[[begin for begin, _, _ in hits]].tolist())


def _search_merged(automaton: Automaton, values: Codes, where: Places | None, starts: set[int]) -> None:
    """The same with runs of one letter as one; a match may begin anywhere in its first run."""
    merged, firsts = _merge(values)
    ends = np.append(firsts[1:], len(values))
    letters = np.flatnonzero(merged & SEPARATOR == 0)
    hits = automaton.find_overlapping(_string(merged[letters]))
    for run in {int(letters[begin]) for begin, _, _ in hits}:
        places = np.arange(firsts[run], ends[run])
        starts.update((places if where is None else where[places]).tolist())


def _merge(values: Codes) -> tuple[Codes, Places]:
    """``values`` with runs that may be taken for one letter as their first, and where each run begins."""
    alike = values & np.uint32(CODE | SEPARATOR)
    firsts = np.flatnonzero(np.append(True, alike[1:] != alike[:-1]))
    return values[firsts], firsts


def _has_run(values: Codes, repeat: int) -> bool:
    """Whether one letter stands ``repeat`` times in a row (three times, where it is more)."""
    same = (values[1:] == values[:-1]) & (values[1:] & np.uint32(LETTER_BIT) != 0)
    return bool((same[1:] & same[:-1]).any() if repeat > 2 else same.any())
