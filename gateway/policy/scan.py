"""Find a trie's entries in a text that comes in pieces, and say what could still become one.

A character at a time: alignments that began earlier go on over it, new ones begin with it. A finished match may have to
wait for what follows (whole words, spaced-out letters). How the text was cut makes no difference, since nothing here
looks at a piece as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway.policy.alignment import MAX_GAP, Alignment, State
from gateway.policy.folds import DIGIT, IDEOGRAPH, IGNORED, LETTER, SIGN, Folding, Unit
from gateway.policy.trie import HAS_BLANK, Starts

SPACED_RIGHT, SINGLE_RIGHT, SINGLE_GAP, SINGLES_RIGHT, WORD_RIGHT = range(5)


class Found(NamedTuple):
    """An entry in the text: its number, its first character and the one behind its last, and how many characters had
    been read when it was certain."""

    start: int
    end: int
    entry: int
    certain: int


class Waiting(NamedTuple):
    """A match that what follows may still rule out. ``rule`` is how far its right side has been seen."""

    start: int
    end: int
    entry: int
    rule: int
    gap: int


# What stands before a place, as one number: whether a letter or digit does, how many letters in a row stand alone (up
# to two), whether the word before is one letter, more, or none, and the separators since.
_WORD, _SINGLES, _TOKEN, _GAP = 1, 2, 8, 32
NOTHING = 0


def _passed(left: int, kind: int) -> int:
    """What stands before the place behind a unit of this kind."""
    singles, token, gap = left // _SINGLES % 4, left // _TOKEN % 4, left // _GAP
    if kind in (LETTER, DIGIT):
        if left & _WORD:
            return _WORD + 2 * _TOKEN
        return _WORD + _TOKEN + _SINGLES * (min(2, singles + 1) if token == 1 else 0)
    if kind == IDEOGRAPH:
        return NOTHING
    if kind == IGNORED:
        return left
    gap += 1
    if gap > MAX_GAP:
        return _GAP * (MAX_GAP + 1)
    return _SINGLES * singles + _TOKEN * token + _GAP * gap


PASSED = tuple(_passed(left, kind) for left in range(_GAP * (MAX_GAP + 2)) for kind in range(8))
"""By what stood before, times eight, and a unit's kind: what stands before the place behind the unit."""


def in_word(left: int) -> bool:
    """Whether a letter or digit stands before."""
    return bool(left & _WORD)


def singles(left: int) -> int:
    """Letters that stand alone right before a letter that begins here, up to two."""
    if left & _WORD or left // _TOKEN % 4 != 1:
        return 0
    return min(2, left // _SINGLES % 4 + 1)


def before(folding: Folding, text: str, position: int) -> tuple[int, str]:
    """What stands before ``text[position]``, and the last unit's character, read from as few characters as tell."""
    begin, letters, gap, adjacent = position, 0, 0, False
    while begin and letters < 4 and gap <= MAX_GAP:
        kinds = [unit.kind for unit in folding.units(text[begin - 1]) if unit.kind != IGNORED]
        begin -= 1
        if IDEOGRAPH in kinds:
            break
        is_letter = any(kind in (LETTER, DIGIT) for kind in kinds)
        if is_letter and (adjacent or len(kinds) > 1):
            break
        if kinds:
            adjacent, gap, letters = is_letter, 0 if is_letter else gap + 1, letters + is_letter
    left, last = NOTHING, ""
    for character in text[begin:position]:
        for unit in folding.units(character):
            left, last = PASSED[8 * left + unit.kind], unit.character if unit.kind != IGNORED else last
    return left, last


def followed_by(waiting: Waiting, kind: int) -> Waiting | bool:  # noqa: PLR0911 - a table of cases
    """A waiting match after one more unit: certain (True), ruled out (False) or still waiting."""
    rule, gap = waiting.rule, waiting.gap
    if kind == IGNORED:
        return waiting
    if kind in (LETTER, DIGIT):
        if rule in (WORD_RIGHT, SPACED_RIGHT):
            if rule == WORD_RIGHT or not gap:
                return False
            return waiting._replace(rule=SINGLE_RIGHT, gap=0)
        if rule == SINGLE_GAP:
            return waiting._replace(rule=SINGLES_RIGHT)
        return True
    if rule == WORD_RIGHT or kind == IDEOGRAPH:
        return rule != SINGLES_RIGHT
    if rule == SINGLES_RIGHT:
        return False
    if gap == MAX_GAP:
        return True
    return waiting._replace(rule=SINGLE_GAP if rule == SINGLE_RIGHT else rule, gap=gap + 1)


def at_the_end(waiting: Waiting) -> bool:
    """Whether a waiting match counts when nothing follows any more."""
    return waiting.rule != SINGLES_RIGHT


Live = tuple[int, int, list[State]]
"""Alignments that began at one character: its place, what stood before it, and they."""

Seed = tuple[int, int, Unit, tuple[tuple[int, int], ...]]
"""The same before it is worth a state: its place, what stood before, its ideograph, and that one's roots and nodes."""


class Scan:
    """One text, in pieces. ``position`` counts the characters read; ``holds`` says by root whether an entry that is
    not finished keeps text back."""

    def __init__(
        self,
        folding: Folding,
        alignment: Alignment,
        starts: Starts,
        holds: Sequence[bool],
        left: tuple[int, str] = (NOTHING, ""),
    ) -> None:
        self._folding, self._alignment, self._starts, self._holds = folding, alignment, starts, holds
        self._known = folding.known
        self.position = 0
        self._left, self._last = left
        self._live: list[Live] = []
        self._seed: Seed | None = None
        self._waiting: list[Waiting] = []
        self._settled: list[tuple[Waiting, int]] = []  # those that waited no more, and since when, in the last piece

    def feed(self, text: str) -> list[Found]:
        """Read on; returns the matches that are certain now."""
        found: list[Found] = []
        if self._settled:
            self._settled = []
        known, starts, passed = self._known, self._starts, PASSED
        for character in text:
            self.position += 1
            for unit in known.get(character) or self._folding.units(character):
                kind = unit.kind
                if self._seed is not None:
                    self._sprout(self._seed, unit)
                if self._live or self._waiting:
                    self._read(unit, found)
                for letter, _ in unit.stands_for:
                    if letter in starts:
                        self._begin(unit, found)
                        break
                self._left = passed[8 * self._left + kind]
                if kind:
                    self._last = unit.character
        return found

    def only_from(self, text: str, start: int, nth: int) -> list[Found]:
        """The matches that begin with the ``nth`` unit of ``text[start]``, in a scan of its own."""
        found: list[Found] = []
        units = self._folding.units(text[start])
        self.position = start + 1
        self._begin(units[nth], found)
        rest = units[nth + 1 :]
        while True:
            for unit in rest:
                if self._seed is not None:
                    self._sprout(self._seed, unit)
                self._read(unit, found)
            if self.position == len(text) or not (self._live or self._waiting or self._seed):
                break
            rest = self._folding.units(text[self.position])
            self.position += 1
        return found if self.position < len(text) else found + self.finish()

    def _read(self, unit: Unit, found: list[Found]) -> None:
        """Let what began earlier go on over ``unit``."""
        if self._waiting:
            self._settle(unit.kind, found)
        if self._live:
            live = []
            step, letter = self._alignment.step, unit.kind >= SIGN
            for start, left, before_unit in self._live:
                states = step(before_unit, unit)
                if states:
                    live.append((start, left, states))
                    if letter:
                        self._finish(start, states, left, found)
            self._live = live

    def _sprout(self, seed: Seed, unit: Unit) -> None:
        """Let what began with an ideograph go on over ``unit``; nearly always it ends there."""
        if unit.kind == IGNORED:
            return
        self._seed = None
        position, left, begun, nodes = seed
        if unit.kind == IDEOGRAPH:
            trie, letter = self._alignment.trie, unit.stands_for[0][0]
            for _, node in nodes:
                if trie.labels[node] & HAS_BLANK or trie.child(node, letter):
                    break
            else:
                return
        self._live.append((position, left, self._alignment.start(begun, self._starts, False, False)))

    def _begin(self, unit: Unit, found: list[Found]) -> None:
        left = self._left
        if unit.kind == IDEOGRAPH:
            nodes, ends = self._starts.get(unit.stands_for[0][0], ()), self._alignment.trie.ends
            for _, node in nodes:
                if ends[node]:
                    break
            else:
                self._seed = (self.position - 1, left, unit, nodes) if nodes else None
                return
        inside = bool(left & _WORD)
        in_row = inside and unit.kind == LETTER and unit.character == self._last
        begun = self._alignment.start(unit, self._starts, inside, in_row)
        if begun:
            self._live.append((self.position - 1, left, begun))
            self._finish(self.position - 1, begun, left, found)

    def _finish(self, start: int, states: list[State], left: int, found: list[Found]) -> None:
        ends = self._alignment.trie.ends
        for state in states:
            if not ends[state.node]:
                continue
            for match in self._alignment.matches(state):
                if (match.not_preceded and in_word(left)) or (match.alone and singles(left) == 2):
                    continue
                if not match.not_followed:
                    found.append(Found(start, self.position, match.entry, self.position))
                    continue
                waiting = Waiting(start, self.position, match.entry, SPACED_RIGHT if match.alone else WORD_RIGHT, 0)
                if waiting not in self._waiting:
                    self._waiting.append(waiting)

    def _settle(self, kind: int, found: list[Found]) -> None:
        still = []
        for each in self._waiting:
            after = followed_by(each, kind)
            if isinstance(after, Waiting):
                still.append(after)
                continue
            self._settled.append((each, self.position))
            if after:
                found.append(Found(each.start, each.end, each.entry, self.position))
        self._waiting = still

    def waiting_at(self, position: int) -> list[Found]:
        """The matches that were waiting for what follows when ``position`` characters, some of the last piece among
        them, had been read."""
        waited = self._waiting + [each for each, until in self._settled if position < until]
        return [Found(each.start, each.end, each.entry, position) for each in waited if each.end <= position]

    def finish(self) -> list[Found]:
        """Nothing follows: the matches that were waiting for it."""
        found = [Found(each.start, each.end, each.entry, self.position) for each in self._waiting if at_the_end(each)]
        self._live, self._waiting, self._seed = [], [], None
        return found

    def oldest(self) -> int:
        """The first character that could still be in a match that holds back text; ``position`` if there is none."""
        first = self._first_live()
        if self._waiting:
            roots = self._alignment.trie.roots
            for each in self._waiting:
                if each.start < first and self._holds[roots[each.entry]]:
                    first = each.start
        return first

    def _first_live(self) -> int:
        holds = self._holds
        for start, _, states in self._live:  # oldest first
            for state in states:
                if holds[state.root]:
                    return start
        if self._seed is not None:
            for root, _ in self._seed[3]:
                if holds[root]:
                    return self._seed[0]
        return self.position
