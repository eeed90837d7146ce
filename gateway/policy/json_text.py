"""Answers that are JSON: judged by what their strings say, sent as they were written.

In JSON a line end is written ``\\n``, and that ``n`` would be a letter right before the word that follows. So escapes
are read as the characters that they stand for, and what is not masked leaves as the model wrote it. JSON has
backslashes in its strings only.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from dataclasses import replace

import regex

from gateway.policy.rules import Mask, Rules, RuleStream, with_marks

_HEX = "[0-9a-fA-F]"
_LOW = rf"\\u[dD][c-fC-F]{_HEX}{{2}}"  # the second half of a character that takes two escapes
_ESCAPE = regex.compile(rf'\\u[dD][89abAB]{_HEX}{{2}}{_LOW}|\\u{_HEX}{{4}}|\\["\\/bfnrt]', flags=regex.VERSION0)
_SECOND_HALF = regex.compile(_LOW, flags=regex.VERSION0)


def unescaped(text: str) -> str:
    """What a stretch of JSON says; an escape that is not whole stays as it is."""
    return _ESCAPE.sub(lambda match: _said(match.group()), text) if "\\" in text else text


def _said(escape: str) -> str:
    said: str = json.loads(f'"{escape}"')
    return said


def _is_begun(text: str) -> bool:
    """Whether ``text`` could become the second half of a character."""
    return not text or _SECOND_HALF.fullmatch(text, partial=True) is not None


def _within_json(mask: Mask) -> Mask:
    """The mask as it is written in a string of JSON."""
    label = json.dumps(mask.label, ensure_ascii=False)[1:-1] if mask.label is not None else None
    return Mask(json.dumps(mask.character, ensure_ascii=False)[1:-1], label)


class JsonRuleStream(RuleStream):
    """As :class:`RuleStream`, for JSON that comes in pieces. Places in :attr:`spans` are places in the JSON."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(replace(rules, mask=_within_json(rules.mask)))
        self._tail = ""  # an escape that is not whole yet
        self._places: list[int] = []  # of escapes, in what the JSON says
        self._written: list[str] = []
        self._longer = [0]  # by how many characters the JSON is longer, before each escape and after all

    @property
    def held(self) -> int:
        """Characters that were read and may not leave yet."""
        return super().held + len(self._tail)

    def feed(self, piece: str) -> str:
        """Read on; returns what may leave now."""
        if self._tail or "\\" in piece:
            piece = self._unescaped(self._tail + piece)
        known = len(self.spans)
        text = super().feed(piece)
        self._find_places(known)
        return text

    def finish(self) -> str:
        """Nothing follows: the rest."""
        text, known = super().feed(self._tail), len(self.spans)
        text += super().finish()
        self._find_places(known)
        return text

    def _unescaped(self, piece: str) -> str:
        said: list[str] = []
        length, place = self._read, 0
        self._tail = ""
        for match in _ESCAPE.finditer(piece, partial=True):
            said.append(piece[place : match.start()])
            length, place = length + match.start() - place, match.end()
            character = "" if match.partial else _said(match.group())
            if not character or ("\ud800" <= character < "\udc00" and _is_begun(piece[place:])):
                self._tail, place = piece[match.start() :], len(piece)
                break
            said.append(character)
            self._places.append(length)
            self._written.append(match.group())
            self._longer.append(self._longer[-1] + len(match.group()) - 1)
            length += 1
        said.append(piece[place:])
        return "".join(said)

    def _cut(self, end: int, *, masked: bool = False) -> str:
        """As for any text, and in JSON."""
        if masked or not self._places:
            return super()._cut(end, masked=masked)
        held = self._text[: max(end - self._released, 0)]
        plain = held[with_marks(held, 0) if self._masked else 0 :]
        text = super()._cut(end)
        return text[: len(text) - len(plain)] + self._as_written(plain)

    def _as_written(self, text: str) -> str:
        """``text``, which ends where what has left ends, in JSON."""
        first, parts, done = self._released - len(text), [], 0
        for number in range(bisect_left(self._places, first), bisect_left(self._places, self._released)):
            place = self._places[number] - first
            parts += [text[done:place], self._written[number]]
            done = place + 1
        return "".join([*parts, text[done:]])

    def _find_places(self, known: int) -> None:
        """Move the spans from number ``known`` on from what the JSON says to the JSON."""
        for number in range(known, len(self.spans)):
            span = self.spans[number]
            self.spans[number] = replace(span, start=self._in_json(span.start), end=self._in_json(span.end))

    def _in_json(self, place: int) -> int:
        return place + self._longer[bisect_left(self._places, place)]
