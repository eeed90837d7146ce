"""Find a trie's entries in a text that comes in pieces, and say what could still become one.

A character at a time: alignments that began earlier go on over it, new ones begin with it. A finished match may have to
wait for what follows (whole words, spaced-out letters). How the text was cut makes no difference, since nothing here
looks at a piece as a whole.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.policy.alignment import MAX_GAP, State, Trie
from gateway.policy.folds import DIGIT, IDEOGRAPH, IGNORED, LETTER, SIGN, Folding, Unit

CLEAR, SPACED_RIGHT, SINGLE_RIGHT, SINGLE_GAP, SINGLES_RIGHT, WORD_RIGHT = range(6)


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


class Left:
    """What stands before a place in the text: a letter or digit, which, and how many letters that stand alone (up to
    two)."""

    __slots__ = ("gap", "in_word", "last", "singles", "token")

    def __init__(self) -> None:
        self.in_word, self.singles, self.token, self.gap, self.last = False, 0, 0, 0, ""

    def pass_over(self, unit: Unit) -> None:
        """Move behind ``unit``."""
        kind = unit.kind
        if kind != IGNORED:
            self.last = unit.character
        if kind in (LETTER, DIGIT):
            if self.in_word:
                self.token += 1
                self.singles = 0
            else:
                self.singles = min(2, self.singles + 1) if self.token == 1 else 0
                self.token = 1
            self.in_word, self.gap = True, 0
        elif kind == IDEOGRAPH:
            self.in_word, self.singles, self.token, self.gap = False, 0, 0, 0
        elif kind != IGNORED:
            self.in_word = False
            self.gap += 1
            if self.gap > MAX_GAP:
                self.singles = self.token = 0

    def before(self) -> int:
        """Letters that stand alone right before a letter that begins here."""
        return min(2, self.singles + 1) if self.token == 1 and not self.in_word else 0

    @classmethod
    def of(cls, folding: Folding, text: str, position: int) -> Left:
        """What stands before ``text[position]``, read from as few characters before it as tell the same."""
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
        left = cls()
        for character in text[begin:position]:
            for unit in folding.units(character):
                left.pass_over(unit)
        return left

    def copy(self) -> Left:
        """The same, on its own."""
        twin = Left()
        twin.in_word, twin.singles, twin.token = self.in_word, self.singles, self.token
        twin.gap, twin.last = self.gap, self.last
        return twin


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


def judged(trie: Trie, start: int, end: int, states: list[State], left: tuple[bool, int]) -> list[Waiting]:
    """The matches that end with the last unit. ``left`` is what stands before ``start``."""
    found = []
    for state in states:
        if state.node in trie.ends:
            for match in trie.matches(state):
                if (match.not_preceded and left[0]) or (match.alone and left[1] == 2):
                    continue
                rule = SPACED_RIGHT if match.alone else WORD_RIGHT if match.not_followed else CLEAR
                found.append(Waiting(start, end, match.entry, rule, 0))
    return found


class Live(NamedTuple):
    """Alignments that began at ``start``."""

    start: int
    left: tuple[bool, int]
    states: list[State]


class Scan:
    """One text, in pieces. ``position`` counts the characters read."""

    def __init__(self, folding: Folding, trie: Trie, left: Left | None = None) -> None:
        self._folding, self._trie = folding, trie
        self.position = 0
        self._left = left or Left()
        self._live: list[Live] = []
        self._waiting: list[Waiting] = []

    def copy(self) -> Scan:
        """The same place in the same text, to go on from twice."""
        twin = Scan(self._folding, self._trie)
        twin.position, twin._left = self.position, self._left.copy()
        twin._live, twin._waiting = list(self._live), list(self._waiting)
        return twin

    def feed(self, text: str) -> list[Found]:
        """Read on; returns the matches that are certain now."""
        found: list[Found] = []
        for character in text:
            self.position += 1
            for unit in self._folding.units(character):
                self._read(unit, found)
                if unit.stands_for:
                    self._begin(unit, found)
                self._left.pass_over(unit)
        return found

    def only_from(self, text: str, start: int, nth: int) -> list[Found]:
        """The matches that begin with the ``nth`` unit of ``text[start]``, in a scan of its own."""
        found: list[Found] = []
        first, self.position = start, start
        while self.position < len(text) and (self._live or self._waiting or self.position == start):
            units = self._folding.units(text[self.position])
            self.position += 1
            for unit in units[nth if self.position == first + 1 else 0 :]:
                self._read(unit, found)
                if self.position == first + 1 and unit is units[nth] and not self._live:
                    self._begin(unit, found)
        return found if self.position < len(text) else found + self.finish()

    def _read(self, unit: Unit, found: list[Found]) -> None:
        """Let what began earlier go on over ``unit``."""
        if self._waiting:
            self._settle(unit.kind, found)
        if self._live:
            live = []
            for each in self._live:
                states = self._trie.step(each.states, unit)
                if states:
                    live.append(each._replace(states=states))
                    if unit.kind >= SIGN:
                        self._finish(each.start, states, each.left, found)
            self._live = live

    def _begin(self, unit: Unit, found: list[Found]) -> None:
        in_word = self._left.in_word
        in_row = in_word and unit.kind == LETTER and unit.character == self._left.last
        begun = self._trie.start(unit, in_word, in_row)
        if begun:
            left = (in_word, self._left.before())
            self._live = [*self._live, Live(self.position - 1, left, begun)]
            self._finish(self.position - 1, begun, left, found)

    def _finish(self, start: int, states: list[State], left: tuple[bool, int], found: list[Found]) -> None:
        for waiting in judged(self._trie, start, self.position, states, left):
            if waiting.rule == CLEAR:
                found.append(Found(start, waiting.end, waiting.entry, self.position))
            elif waiting not in self._waiting:
                self._waiting.append(waiting)

    def _settle(self, kind: int, found: list[Found]) -> None:
        still = []
        for each in self._waiting:
            after = followed_by(each, kind)
            if isinstance(after, Waiting):
                still.append(after)
            elif after:
                found.append(Found(each.start, each.end, each.entry, self.position))
        self._waiting = still

    def finish(self) -> list[Found]:
        """Nothing follows: the matches that were waiting for it."""
        found = [Found(each.start, each.end, each.entry, self.position) for each in self._waiting if at_the_end(each)]
        self._live, self._waiting = [], []
        return found

    def oldest(self, holds: list[bool] | None = None) -> int:
        """The first character that could still be in a match; ``position`` if there is none. With ``holds`` (by entry),
        alignments of entries that do not hold back text do not count."""
        first = self.position
        for live in self._live:
            if live.start < first and (holds is None or any(state.held for state in live.states)):
                first = live.start
        for each in self._waiting:
            if each.start < first and (holds is None or holds[each.entry]):
                first = each.start
        return first
