"""Regular expressions over a text that comes in pieces, with the same answer however it was cut.

A rule's pattern must be bounded: no match longer than :data:`LONGEST` characters, no look further than one character
ahead and :data:`LOOK_BEHIND` back. Then a place in the text is decided as soon as the text behind it can no longer
change what matches there. Matches of one rule do not overlap and are taken from left to right. A rule may carry a check
(a checksum) that a match has to pass. The module ``regex`` tells whether a text could still become a match
(``partial``).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import regex

LONGEST, LOOK_BEHIND = 256, 32
PROBES, PROBE_SECONDS = "aZ0 -._@中", 0.5
LOOKS = ("ASSERT", "ASSERT_NOT")
_parser = importlib.import_module("re._parser")


class PatternError(ValueError):
    """A pattern that cannot be used; the message says why and what to write instead."""


def _accept(_match: str) -> bool:
    return True


@dataclass(frozen=True)
class Rule:
    """One pattern. ``first`` holds every character that a match may begin with (empty: any); it spares the search."""

    name: str
    pattern: regex.Pattern[str]
    longest: int
    first: frozenset[str] = frozenset()
    check: Callable[[str], bool] = _accept


class Hit(NamedTuple):
    """A match: the rule's place in the list of rules, the first character, the one behind the last, and how many
    characters had been read when it was certain."""

    rule: int
    start: int
    end: int
    certain: int


def compile_rule(name: str, pattern: str, first: str = "", check: Callable[[str], bool] = _accept) -> Rule:
    """A rule from a pattern in the syntax of Python's ``re``. Raises :class:`PatternError`."""
    try:
        tree = _parser.parse(pattern)
        compiled = regex.compile(pattern, flags=regex.VERSION0)
    except (re.error, regex.error, OverflowError) as error:
        raise PatternError(f"'{name}' is not a regular expression: {error}") from None
    shortest, longest = tree.getwidth()
    if longest > LONGEST:
        raise PatternError(f"'{name}' may match more than {LONGEST} characters; write {{1,20}} instead of + or *")
    if shortest == 0:
        raise PatternError(f"'{name}' matches the empty text")
    for ahead, width, plain in _looks(tree):
        if width > (1 if ahead else LOOK_BEHIND):
            raise PatternError(f"'{name}' looks further than 1 character ahead or {LOOK_BEHIND} back")
        if not plain:
            raise PatternError(f"'{name}' looks around within a look-around; write (?!\\S) instead of (?=\\s|$)")
    if any(str(argument) == "AT_END" for _, argument in _within(tree)) and not tree.state.flags & re.MULTILINE:
        raise PatternError(f"'{name}' has a $, which also stands before a last line end; write \\Z for the end")
    if _backtracks(compiled, pattern):
        raise PatternError(f"'{name}' takes too long on some texts; do not repeat what is repeated: (a{{1,9}}){{1,9}}")
    return Rule(name, compiled, longest, frozenset(first), check)


def _backtracks(compiled: regex.Pattern[str], pattern: str) -> bool:
    """Whether a long row of one character, or of one and a blank, keeps the expression busy."""
    characters = dict.fromkeys([*PROBES, *(each for each in pattern if each.isalnum())])
    for text in (each * LONGEST + "\0" for letter in characters for each in (letter, letter + " ")):
        try:
            compiled.search(text, timeout=PROBE_SECONDS)
        except TimeoutError:
            return True
    return False


def _looks(tree: Any) -> Iterator[tuple[bool, int, bool]]:
    """The look-arounds of a parsed pattern: ahead or back, how far at most, and whether they look no further by an
    anchor, a word's edge or a look-around inside."""
    for operation, argument in _within(tree):
        if operation in LOOKS:
            direction, inner = argument
            plain = not any(each == "AT" or each in LOOKS for each, _ in _within(inner))
            yield direction > 0, inner.getwidth()[1], plain


def _within(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every operation of a parsed pattern, with what it is about."""
    for operation, argument in tree:
        yield str(operation), argument
        for part in _parts(argument):
            yield from _within(part)


def _parts(argument: Any) -> Iterator[Any]:
    if isinstance(argument, _parser.SubPattern):
        yield argument
    elif isinstance(argument, (tuple, list)):
        for each in argument:
            yield from _parts(each)


def find(rules: Sequence[Rule], text: str) -> list[Hit]:
    """Every match in a whole text."""
    return PatternScan(rules, text).finish()


class PatternScan:
    """One text, in pieces; the first may be given at once."""

    def __init__(self, rules: Sequence[Rule], text: str = "") -> None:
        self._rules = rules
        self._text = text
        self._dropped = 0
        self._next = [0] * len(rules)
        self._last = (self._text, 0, self._next, "")  # before the last piece, and that piece
        everything = any(not rule.first for rule in rules)
        self._first = None if everything else frozenset().union(*(rule.first for rule in rules))

    @property
    def position(self) -> int:
        """Characters read."""
        return self._dropped + len(self._text)

    def feed(self, piece: str) -> list[Hit]:
        """Read on; returns the matches that are certain now, and says of each since which character: what is found in
        a longer piece is looked for once more, a character at a time."""
        text, dropped, places = self._text, self._dropped, list(self._next)
        self._last = text, dropped, places, piece
        found = self._feed(piece)
        if found and len(piece) > 1:
            self._text, self._dropped, self._next = text, dropped, list(places)
            found = [hit for character in piece for hit in self._feed(character)]
        return found

    def _feed(self, piece: str) -> list[Hit]:
        idle = min(self._next, default=0) == self.position or not self._rules
        self._text += piece
        if idle and self._first is not None and self._first.isdisjoint(piece):
            self._next = [self.position] * len(self._rules)
            found = []
        else:
            found = self._decide(final=False)
        keep = min(self._next, default=self.position) - LOOK_BEHIND - self._dropped
        if keep > LONGEST:
            self._text, self._dropped = self._text[keep:], self._dropped + keep
        return found

    def waiting_at(self, position: int) -> list[Hit]:
        """The matches that there would have been, had the text ended with its first ``position`` characters, some of
        the last piece among them."""
        text, dropped, places, piece = self._last
        scan = PatternScan(self._rules, text)
        scan._dropped, scan._next = dropped, list(places)
        for character in piece[: position - dropped - len(text)]:
            scan._feed(character)
        return scan.finish()

    def finish(self) -> list[Hit]:
        """Nothing follows: the matches that were waiting for it."""
        return self._decide(final=True)

    def oldest(self, holds: Sequence[bool] | None = None) -> int:
        """The first character that is not decided; ``position`` if there is none. With ``holds`` (by rule), other rules
        do not count."""
        places = [place for number, place in enumerate(self._next) if holds is None or holds[number]]
        return min(places, default=self.position)

    def _decide(self, *, final: bool) -> list[Hit]:
        found: list[Hit] = []
        for number, rule in enumerate(self._rules):
            place = self._next[number] - self._dropped
            while place < len(self._text):
                match = rule.pattern.search(self._text, place, partial=not final)
                if match is None:
                    place = len(self._text)
                    break
                live = match.start() if match.partial else None if final else self._live(rule, place, match.start())
                if live is not None:
                    place = live
                    break
                place = match.start() + 1
                if rule.check(match.group()):
                    place = match.end()
                    first, end = self._dropped + match.start(), self._dropped + match.end()
                    found.append(Hit(number, first, end, self.position))
            self._next[number] = self._dropped + place
        return found

    def _live(self, rule: Rule, first: int, last: int) -> int | None:
        """The first place from ``first`` to ``last`` whose match may still change with more text."""
        for place in range(max(first, len(self._text) - rule.longest), last + 1):
            if rule.pattern.fullmatch(self._text, place, partial=True) is not None:
                return place
        return None
