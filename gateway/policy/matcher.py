"""All lists with the same folds, made ready: a rough search in native code over the whole text, the exact rules where
it finds something, and a scan for text that comes in pieces.

The rough search folds with one table look-up per character, joins the letters and looks for the entries' letters with
an Aho-Corasick automaton (``daachorse``). It finds more than is there and never less, because it does everything that
an alignment may do, at once: separators are left out, signs and digits are taken for letters. Two rarer readings get a
search of their own, if the text gives cause: signs as separators, and runs of one letter as one.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import daachorse
import numpy as np
import numpy.typing as npt

from gateway.policy.alignment import Alignment
from gateway.policy.folds import (
    CAPITAL_I,
    CODE,
    LETTER_BIT,
    SEPARATOR,
    SEVERAL,
    SIGN_BIT,
    Folding,
    Folds,
    folding,
    rough,
)
from gateway.policy.scan import PASSED, Found, Scan, before
from gateway.policy.trie import Starts, build, root_of

Codes = npt.NDArray[np.uint32]
Places = npt.NDArray[np.intp]
Automaton = Any  # daachorse carries no types


class Entry(NamedTuple):
    """What a matcher is built from: a list's word, whether it must be a whole word, and the group that it belongs to,
    for those who look for some groups only."""

    word: str
    whole_word: bool = False
    group: int = 0


class Selection(NamedTuple):
    """What is looked for: some groups of a matcher's entries, and by root whether they hold back a stream."""

    starts: Starts
    holds: tuple[bool, ...]


class Matcher:
    """Entries under one set of folds. Numbers of matches are not places in ``entries``: :meth:`entry` tells those. An
    entry that folds to nothing is left out and never found. It can be pickled, and is made of few large parts, so that
    it is handed from process to process in milliseconds."""

    def __init__(self, entries: Sequence[Entry], folds: Folds = Folds()) -> None:  # noqa: B008 - frozen
        self.folding = folding(folds)
        folded = [self.folding.entry(entry.word) for entry in entries]
        kept = [place for place, word in enumerate(folded) if word]
        words = [folded[place] for place in kept]
        trie, order = build(words, [root_of(entries[place].group, entries[place].whole_word) for place in kept])
        self._entry_of = array("i", [kept[place] for place in order])
        self.alignment = Alignment(folds, trie)
        plain, merged = _keys(self.folding, words)
        self._plain = _automaton(plain)
        plain.clear()  # before the next one takes its place
        self._merged = _automaton(merged)
        self.everything = self._select_all()

    def __getstate__(self) -> dict[str, Any]:
        """For another process."""
        automata = [each.serialize() if each is not None else None for each in (self._plain, self._merged)]
        alignment, coarse = self.alignment, self.folding.coarse()
        parts = {"folds": alignment.folds, "trie": alignment.trie, "entry_of": self._entry_of, "automata": automata}
        return {**parts, "coarse": coarse}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In another process."""
        self.folding = folding(state["folds"])
        self.folding.take_coarse(state["coarse"])
        self.alignment = Alignment(state["folds"], state["trie"])
        self._entry_of = state["entry_of"]
        self._plain, self._merged = (
            daachorse.CharwiseDoubleArrayAhoCorasick.deserialize(each) if each is not None else None
            for each in state["automata"]
        )
        self.everything = self._select_all()

    def _select_all(self) -> Selection:
        trie = self.alignment.trie
        return Selection(trie.starts, (True,) * (max(trie.roots, default=-1) + 1))

    def select(self, holds: Mapping[int, bool]) -> Selection:
        """Only the groups in ``holds``, which says of each whether it holds back a stream."""
        chosen = {root_of(group, whole): held for group, held in holds.items() for whole in (False, True)}
        trie = self.alignment.trie
        starts = trie.starts
        if any(root not in chosen for root in set(trie.roots)):
            kept = ((letter, tuple(each for each in nodes if each[0] in chosen)) for letter, nodes in starts.items())
            starts = {letter: nodes for letter, nodes in kept if nodes}
        return Selection(starts, tuple(chosen.get(root, False) for root in range(len(self.everything.holds))))

    def scan(self, selection: Selection | None = None) -> Scan:
        """A new text that comes in pieces; its matches carry numbers of :meth:`entry`."""
        starts, holds = selection or self.everything
        return Scan(self.folding, self.alignment, starts, holds)

    def entry(self, number: int) -> int:
        """The place in ``entries`` of a match's number."""
        return self._entry_of[number]

    @property
    def entries(self) -> array[int]:
        """The same for all numbers."""
        return self._entry_of

    def find(self, text: str, selection: Selection | None = None) -> list[Found]:
        """Every match in ``text``, in the order in which a reader could be certain of them."""
        places = self._rough(text)
        if not places:
            return []
        chosen = selection or self.everything
        found = {match for place in sorted(places) for match in self._exact(text, place, chosen)}
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
            seen = int(np.bitwise_or.reduce(values))
        if not values.all():
            kept = np.flatnonzero(values)
            values, where = values[kept], kept if where is None else where[kept]
        letters = values & np.uint32(CODE)
        _search(self._plain, letters, where, starts)
        if seen & SIGN_BIT:
            _search(self._plain, letters * (values & np.uint32(SIGN_BIT) == 0), where, starts)
        if self._merged is not None and _has_run(values, self.alignment.folds.repeat, "I" in text):
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

    def _exact(self, text: str, start: int, selection: Selection) -> list[Found]:
        """The matches that begin with the character at ``start``."""
        starts, holds = selection
        units = self.folding.units(text[start])
        if not any(letter in starts for unit in units for letter, _ in unit.stands_for):
            return []
        left, last = before(self.folding, text, start)
        found: list[Found] = []
        for nth, unit in enumerate(units):
            if unit.stands_for:
                found += Scan(self.folding, self.alignment, starts, holds, (left, last)).only_from(text, start, nth)
            left, last = PASSED[8 * left + unit.kind], unit.character if unit.kind else last
        return found


def _keys(folding: Folding, words: Sequence[str]) -> tuple[set[str], set[str]]:
    """What the rough search looks for: each folded entry's letters, and the same with runs of one letter as one, for
    entries with letters that may be repeated."""
    length = np.array([len(word) for word in words], np.int64)
    entry = np.repeat(np.arange(len(words)), length)
    values = folding.coarse()[np.frombuffer("".join(words).encode("utf-32-le", "surrogatepass"), "<u4")]
    if (values & SEVERAL).any():
        several = [[rough(unit) for each in word for unit in folding.units(each)] for word in words]
        entry = np.repeat(np.arange(len(words)), [len(each) for each in several])
        values = np.array([value for each in several for value in each], np.uint32)
    plain = set(_strings(values, entry, len(words)))
    if not folding.folds.repeat:
        return plain, set()
    alphabetic = np.zeros(len(words), bool)
    alphabetic[entry[values & LETTER_BIT != 0]] = True
    values, entry = values[alphabetic[entry]], entry[alphabetic[entry]]
    alike = values & np.uint32(CODE | SEPARATOR)
    first = np.append(True, (alike[1:] != alike[:-1]) | (entry[1:] != entry[:-1]))[: len(values)]
    return plain, set(_strings(values[first], entry[first], len(words))) - {""}


def _strings(values: Codes, entry: Places, count: int) -> list[str]:
    """The letters of each entry."""
    letters = values & SEPARATOR == 0
    text = _string(values[letters])
    ends = np.cumsum(np.bincount(entry[letters], minlength=count)).tolist()
    return [text[first:end] for first, end in pairwise([0, *ends])]


def _automaton(keys: set[str]) -> Automaton | None:
    return daachorse.CharwiseDoubleArrayAhoCorasick(sorted(keys)) if keys else None


def _string(values: Codes) -> str:
    return (values & CODE).tobytes().decode("utf-32-le", "surrogatepass")


def _search(automaton: Automaton, letters: Codes, where: Places | None, starts: set[int]) -> None:
    """Add the places of matches in ``letters``, in which 0 is no letter."""
    hits = automaton.find_overlapping(letters.tobytes().decode("utf-32-le", "surrogatepass").replace("\0", ""))
    if hits:
        places = np.flatnonzero(letters)
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


def _has_run(values: Codes, repeat: int, capital_i: bool) -> bool:
    """Whether one letter stands ``repeat`` times in a row (three times, where it is more). ``capital_i``: whether there
    is one, since it goes with two letters."""
    same = values[1:] == values[:-1]
    if _in_a_row(same, repeat) and _in_a_row(same & (values[1:] & np.uint32(LETTER_BIT) != 0), repeat):
        return True
    if not capital_i:
        return False
    alike = values & np.uint32(CODE | SEPARATOR | LETTER_BIT)
    alike_too = alike[1:] == alike[:-1]
    if not _in_a_row(alike_too, repeat):
        return False
    several = values == np.uint32(CAPITAL_I)
    letters = values[1:] & np.uint32(LETTER_BIT) != 0
    return _in_a_row(alike_too & letters & (same | several[1:] | several[:-1]), repeat)


def _in_a_row(same: npt.NDArray[np.bool_], repeat: int) -> bool:
    return (b"\1\1" if repeat > 2 else b"\1") in same.tobytes()
