"""The exact rules: when a stretch of text is an entry of a list.

An alignment walks the trie of entries one unit of text at a time, so the same code decides about a whole text and about
a stream, and "could this still become a match" is the question whether an alignment is alive. The rules:

* Ignored units (zero width, accents) may stand anywhere.
* Separators may stand between letters, at most :data:`MAX_GAP` at once. Between ideographs a separator that ends a
  phrase (a comma) counts only if there is a separator at every place and the entry has three letters or more. Between
  letters of an alphabet either every place has one (``f u c k``), or each is a single one and not a blank (``fu-ck``).
  Three letters that stand alone must not be part of a longer row of such (``c l a s s i c``).
* Where the entry has separators itself, any may stand; none only in long entries.
* A sign may stand for a letter or between letters, but in one match all signs do the same.
* A digit may stand for a letter, if two letters at least are played by themselves.
* A letter repeated ``repeat`` times or more counts as any smaller number of them, in a match without other separators.
  A match that begins inside a row of one letter takes none of it twice: the one that begins with the row covers it.
* Whole words: an entry that begins or ends with a letter of an alphabet or a digit must not go on there, and letters
  that stand alone must not either.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from gateway.policy.folds import HARD, IDEOGRAPH, IGNORED, LETTER, SIGN, SPACE, Folds, Unit
from gateway.policy.trie import BLANK, HAS_BLANK, Starts, Trie

MAX_GAP = 8
LONG_ENTRY = 8  # letters from which an entry's own separators may be left out
MANY = 3  # letters from which rules for separators at every place apply

# What an alignment has met so far, as bits.
(LATIN_GAP, LATIN_PLAIN, LATIN_WIDE, PHRASE_GAP, IDEOGRAPH_PLAIN, SQUASHED, SIGN_LETTER, SIGN_GAP, REPEATED, LOWER,
 SPACED_OUT, PARTLY, IN_ROW) = (1 << bit for bit in range(13))  # fmt: skip
SEGMENT = LATIN_GAP | LATIN_PLAIN | LATIN_WIDE | PHRASE_GAP | IDEOGRAPH_PLAIN
UNREPEATABLE = LATIN_GAP | PHRASE_GAP | SIGN_GAP | SQUASHED | PARTLY | IN_ROW
GAP_WIDE, GAP_HARD, GAP_SIGN = 1 << 8, 1 << 9, 1 << 10


class State(NamedTuple):
    """A live alignment: its place in the trie, the last unit's kind and entry character, the separators since
    (count and bits), the length of the run of one letter in the text and in the entry, how many letters are digits,
    and the root that it began at.
    """

    node: int
    previous: int
    kind: int
    flags: int
    gap: int
    run: int
    entry_run: int
    digits: int
    root: int


_state: Any = tuple.__new__
"""Makes a :class:`State` at once; most are made for nothing, one a character."""


class Match(NamedTuple):
    """An entry that ends here, if the text around allows it: whether a letter or digit must not follow, must not stand
    before, and whether letters that stand alone must not either."""

    entry: int
    not_followed: bool
    not_preceded: bool
    alone: bool


class Alignment:
    """The rules over one trie."""

    def __init__(self, folds: Folds, trie: Trie) -> None:
        self.folds, self.trie = folds, trie

    def start(self, unit: Unit, starts: Starts, in_word: bool, in_row: bool) -> list[State]:
        """The alignments that begin with ``unit``; ``in_word`` if a letter or digit stands before it, ``in_row`` if it
        is the same letter."""
        found = []
        flags = -1
        for character, digit in unit.stands_for:
            for root, node in starts.get(character, ()):
                if root & 1 and in_word and unit.kind != IDEOGRAPH:
                    continue
                if flags < 0:
                    flags = (LOWER if unit.lower else 0) | (SIGN_LETTER if unit.kind == SIGN else 0)
                    flags |= IN_ROW if in_row else 0
                found.append(_state(State, (node, character, unit.kind, flags, 0, 1, 1, digit, root)))
        return found

    def step(self, states: list[State], unit: Unit) -> list[State]:
        """The alignments that go on over ``unit``."""
        kind = unit.kind
        if kind == IGNORED:
            return states
        found: list[State] = []
        labels, child = self.trie.labels, self.trie.child
        for state in states:
            if kind == IDEOGRAPH and not (labels[state.node] & HAS_BLANK or child(state.node, unit.stands_for[0][0])):
                continue  # what nearly always happens
            if kind <= SIGN:
                gapped = self._separate(state, kind)
                if gapped is not None:
                    found.append(gapped)
            if kind >= SIGN and not (kind == SIGN and state.flags & SIGN_GAP):
                self._letter(state, unit, found)
        return list(dict.fromkeys(found)) if len(found) > 1 else found

    def _separate(self, state: State, kind: int) -> State | None:
        """The alignment with one more separator behind its last letter."""
        count = state.gap & 0xFF
        own = self.trie.labels[state.node] & HAS_BLANK
        if count == MAX_GAP or (kind == SIGN and state.flags & (SIGN_LETTER | REPEATED)):
            return None
        if not own and (not self.folds.separators or state.flags & REPEATED):
            return None
        wide = GAP_WIDE if count or kind in (SPACE, HARD) else 0
        bits = wide | (GAP_HARD if kind == HARD else 0) | (GAP_SIGN if kind == SIGN else 0)
        flags = state.flags | (SIGN_GAP if kind == SIGN else 0)
        return state._replace(gap=(state.gap & ~0xFF | bits) | (count + 1), flags=flags)

    def _letter(self, state: State, unit: Unit, found: list[State]) -> None:
        node, child = state.node, self.trie.child
        blank = child(node, BLANK) if self.trie.labels[node] & HAS_BLANK else 0
        same = unit.kind == LETTER == state.kind and not state.gap
        stands = unit.stands_for
        if unit.capital_i and state.flags & LOWER:
            stands = (*stands, (0x6C, 0))
        for character, digit in stands:
            runs_on = same and character == state.previous
            inner = child(node, character)
            if not (inner or blank or runs_on):
                continue
            flags = state.flags | (LOWER if unit.lower else 0) | (SIGN_LETTER if unit.kind == SIGN else 0)
            run, entry_run = 1, 1
            if runs_on:
                run, entry_run = self._longer(state)
            else:
                flags &= ~IN_ROW
            digits = state.digits + digit
            if inner and (runs_on or self._run_ok(state)):
                within = self._inside(flags, state, unit.kind)
                if within is not None:
                    found.append(State(inner, character, unit.kind, within, 0, run, entry_run, digits, state.root))
            outer = child(blank, character) if blank and self._run_ok(state) else 0
            if outer:
                between = self._between(flags, state)
                if between is not None:
                    found.append(State(outer, character, unit.kind, between, 0, 1, 1, digits, state.root))
            if runs_on and self.folds.repeat and not flags & UNREPEATABLE:
                found.append(state._replace(flags=flags | REPEATED, run=run, entry_run=min(state.entry_run, entry_run)))

    def _longer(self, state: State) -> tuple[int, int]:
        """The runs with one more letter. From ``repeat`` letters on they fit whatever they are, and count as one and
        the same: a long row has few states."""
        run, repeat = state.run + 1, self.folds.repeat
        if not repeat:
            return 1, 1  # as long as the entry's, always
        return (run, state.entry_run + 1) if run < repeat else (repeat, 1)

    def _run_ok(self, state: State) -> bool:
        return state.run == state.entry_run or state.run >= self.folds.repeat > 0

    def _inside(self, flags: int, state: State, kind: int) -> int | None:
        """The flags behind a place within a segment of an entry; None if the separators there rule it out."""
        latin = IDEOGRAPH not in (state.kind, kind)
        gap = state.gap
        if not gap:
            flags |= LATIN_PLAIN if latin else IDEOGRAPH_PLAIN
        elif flags & REPEATED or not self.folds.separators:
            return None
        elif latin:
            flags |= LATIN_GAP | PARTLY | (LATIN_WIDE if gap & GAP_WIDE else 0)
        else:
            flags |= PARTLY | (PHRASE_GAP if gap & GAP_HARD else 0)
        if flags & LATIN_GAP and flags & LATIN_PLAIN and flags & LATIN_WIDE:
            return None
        if flags & PHRASE_GAP and flags & (IDEOGRAPH_PLAIN | LATIN_PLAIN):
            return None
        return flags

    def _between(self, flags: int, state: State) -> int | None:
        """The flags behind a place where the entry has separators of its own."""
        if not state.gap:
            if flags & REPEATED:
                return None
            flags |= SQUASHED
        if flags & LATIN_GAP and not flags & LATIN_PLAIN:
            flags |= SPACED_OUT
        return flags & ~SEGMENT

    def matches(self, state: State) -> list[Match]:
        """The entries that end with ``state``'s last letter."""
        if state.gap or not self.trie.ends[state.node] or not self._run_ok(state):
            return []
        flags = state.flags
        spaced = bool(flags & SPACED_OUT) or bool(flags & LATIN_GAP and not flags & LATIN_PLAIN)
        found = []
        for number in self.trie.entries(state.node):
            length = self.trie.length(number)
            if state.digits and length - state.digits < 2:
                continue
            if flags & SQUASHED and length < LONG_ENTRY:
                continue
            if flags & LATIN_GAP and length < (MANY + 1 if flags & LATIN_PLAIN else MANY):
                continue
            if flags & PHRASE_GAP and length < MANY:
                continue
            whole = self.trie.is_whole(number) and state.kind != IDEOGRAPH
            found.append(Match(number, whole or spaced, spaced, spaced and length == MANY))
        return found
