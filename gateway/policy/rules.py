"""Lists and patterns together, for one direction and one set of actions.

A whole text gets its spans. A stream gets its text back as soon as nothing in it can become a match any more: redacted
stretches masked, and nothing from a blocked match on. A stream is judged a character at a time as soon as there is
something to judge, so what leaves is the same however the text was cut.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.policy.folds import Folds
from gateway.policy.matcher import Entry, Matcher
from gateway.policy.patterns import PatternScan, Rule
from gateway.policy.patterns import find as find_patterns
from gateway.policy.scan import Scan
from gateway.policy.verdict import Action, Span


@dataclass(frozen=True)
class Meaning:
    """What a match means: the list or pattern, the category, the action."""

    source: str
    category: str
    action: Action


@dataclass(frozen=True)
class Mask:
    """What stands in place of redacted text: a character for each, or a label for each stretch."""

    character: str = "*"
    label: str | None = None

    def over(self, text: str, category: str) -> str:
        """What replaces ``text``."""
        return self.label.replace("{category}", category) if self.label is not None else self.character * len(text)


@dataclass(frozen=True)
class Words:
    """Entries with the same folds, and what a match of each means."""

    matcher: Matcher
    meanings: Sequence[Meaning]

    def meaning(self, number: int) -> Meaning:
        """Of a match's entry number."""
        return self.meanings[self.matcher.entry(number)]


@dataclass(frozen=True)
class Rules:
    """Everything that is looked for. ``allow`` holds words that cancel the hits that they contain."""

    words: tuple[Words, ...] = ()
    patterns: tuple[Rule, ...] = ()
    pattern_meanings: tuple[Meaning, ...] = ()
    allow: Matcher | None = None
    mask: Mask = field(default_factory=Mask)

    def check(self, text: str) -> list[Span]:
        """The spans of a whole text, in order."""
        spans = {
            _span(found.start, _with_marks(text, found.end), words.meaning(found.entry))
            for words in self.words
            for found in words.matcher.find(text)
        }
        for hit in find_patterns(self.patterns, text) if self.patterns else ():
            spans.add(_span(hit.start, _with_marks(text, hit.end), self.pattern_meanings[hit.rule]))
        if spans and self.allow is not None:
            allowed = [(found.start, found.end) for found in self.allow.find(text)]
            spans = {each for each in spans if not _inside(each, allowed)}
        return sorted(spans, key=lambda each: (each.start, each.end, each.source))

    def redacted(self, text: str, spans: Iterable[Span]) -> str:
        """``text`` with the stretches that are to be redacted masked."""
        parts, place = [], 0
        for start, end, category in merged(each for each in spans if each.action == "redact"):
            parts += [text[place:start], self.mask.over(text[start:end], category)]
            place = end
        return "".join([*parts, text[place:]])


def _span(start: int, end: int, meaning: Meaning) -> Span:
    return Span(start, end, meaning.source, meaning.category, meaning.action)


def _with_marks(text: str, end: int) -> int:
    """``end`` behind the accents that belong to the last letter."""
    while end < len(text) and _is_mark(text[end]):
        end += 1
    return end


def _is_mark(character: str) -> bool:
    return character > "\u02ff" and unicodedata.category(character) in ("Mn", "Me")


def _inside(span: Span, allowed: Iterable[tuple[int, int]]) -> bool:
    return any(start <= span.start and span.end <= end for start, end in allowed)


class Stretch(NamedTuple):
    """Redacted text: overlapping spans as one, with the first one's category."""

    start: int
    end: int
    category: str


def merged(spans: Iterable[Span]) -> list[Stretch]:
    """Overlapping spans as one, in order."""
    stretches: list[Stretch] = []
    for span in sorted(spans, key=lambda each: (each.start, -each.end)):
        if stretches and span.start < stretches[-1].end:
            stretches[-1] = stretches[-1]._replace(end=max(stretches[-1].end, span.end))
        else:
            stretches.append(Stretch(span.start, span.end, span.category))
    return stretches


@dataclass
class _Place:
    """How far a stream has been read; copied so that a piece can be read again a character at a time."""

    scans: list[Scan]
    patterns: PatternScan | None
    allow: Scan | None


class RuleStream:
    """One text that comes in pieces. ``blocked`` is set when it must not go on; ``spans`` collects what was found."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._place = _Place(
            [words.matcher.scan() for words in rules.words],
            PatternScan(rules.patterns) if rules.patterns else None,
            rules.allow.scan() if rules.allow is not None else None,
        )
        self._text, self._released, self._read = "", 0, 0
        self._masked = False
        self._unsure: list[Span] = []
        self._allowed: list[tuple[int, int]] = []
        self._redact: list[Span] = []
        self._pattern_holds = [meaning.action != "flag" for meaning in rules.pattern_meanings]
        self.spans: list[Span] = []
        self.blocked: Span | None = None

    @property
    def held(self) -> int:
        """Characters that were read and may not leave yet."""
        return len(self._text)

    def feed(self, piece: str) -> str:
        """Read on; returns what may leave now. Nothing leaves once :attr:`blocked` is set."""
        if self.blocked is not None or not piece:
            return ""
        self._text += piece
        before = self._copy() if len(piece) > 1 else None
        found = self._advance(piece)
        if before is None or not (found or self._unsure):
            self._read += len(piece)
            return self._judge(found)
        self._place, out = before, []
        for character in piece:
            found = self._advance(character)
            self._read += 1
            out.append(self._judge(found))
            if self.blocked is not None:
                break
        return "".join(out)

    def finish(self) -> str:
        """Nothing follows: the rest."""
        if self.blocked is not None:
            return ""
        found = [
            _span(match.start, match.end, words.meaning(match.entry))
            for words, scan in zip(self._rules.words, self._place.scans, strict=True)
            for match in scan.finish()
        ]
        if self._place.patterns is not None:
            found += [
                _span(hit.start, hit.end, self._rules.pattern_meanings[hit.rule])
                for hit in self._place.patterns.finish()
            ]
        if self._place.allow is not None:
            self._allowed += [(match.start, match.end) for match in self._place.allow.finish()]
        return self._judge(found)

    def _copy(self) -> _Place:
        place = self._place
        return _Place(
            [scan.copy() for scan in place.scans],
            place.patterns.copy() if place.patterns is not None else None,
            place.allow.copy() if place.allow is not None else None,
        )

    def _advance(self, piece: str) -> list[Span]:
        found = [
            _span(match.start, match.end, words.meaning(match.entry))
            for words, scan in zip(self._rules.words, self._place.scans, strict=True)
            for match in scan.feed(piece)
        ]
        if self._place.patterns is not None:
            found += [
                _span(hit.start, hit.end, self._rules.pattern_meanings[hit.rule])
                for hit in self._place.patterns.feed(piece)
            ]
        if self._place.allow is not None:
            self._allowed += [(match.start, match.end) for match in self._place.allow.feed(piece)]
        return found

    def _judge(self, found: list[Span]) -> str:
        """Take what is certain, and release what nothing can change any more."""
        unsure = [*self._unsure, *found]
        if unsure:
            allow = self._place.allow
            settled = allow.oldest() if allow is not None else self._read
            self._unsure = [each for each in unsure if each.start >= settled] if allow is not None else []
            certain = [each for each in unsure if each not in self._unsure and not _inside(each, self._allowed)]
            self._take(certain)
            if self.blocked is not None:
                return self._release(self.blocked.start)
        return self._release(self._limit())

    def _take(self, certain: list[Span]) -> None:
        for span in sorted(set(certain), key=lambda each: (each.action != "block", each.start, each.end)):
            self.spans.append(span)
            if span.action == "block":
                self.blocked = span
                return
            if span.action == "redact":
                self._redact.append(span)

    def _limit(self) -> int:
        """The first character that may not leave yet."""
        limit = self._read
        for words, scan in zip(self._rules.words, self._place.scans, strict=True):
            limit = min(limit, scan.oldest(words.matcher.holds))
        if self._place.patterns is not None:
            limit = min(limit, self._place.patterns.oldest(self._pattern_holds))
        return min([limit, *(each.start for each in self._unsure if each.action != "flag")])

    def _release(self, limit: int) -> str:
        """The text up to ``limit``, masked. A label waits until its whole stretch may leave."""
        out: list[str] = []
        for stretch in merged(self._redact):
            if stretch.start >= limit:
                break
            if self._rules.mask.label is not None and stretch.end > limit and self.blocked is None:
                limit = max(stretch.start, self._released)
                break
            out.append(self._cut(stretch.start))
            covered = self._cut(min(stretch.end, limit), masked=True)
            out.append(self._rules.mask.over(covered, stretch.category) if covered else "")
        out.append(self._cut(limit))
        self._redact = [each for each in self._redact if each.end > self._released]
        return "".join(out)

    def _cut(self, end: int, *, masked: bool = False) -> str:
        """Take the text up to ``end`` from what is held. Accents behind a masked letter are masked with it."""
        count = end - self._released
        if count <= 0:
            return ""
        text, self._text = self._text[:count], self._text[count:]
        self._released += count
        if masked:
            self._masked = True
            return text
        if self._masked:
            marks = _with_marks(text, 0)
            self._masked = marks == len(text)
            mask = self._rules.mask
            return ("" if mask.label is not None else mask.character * marks) + text[marks:]
        return text


def build_words(entries: Iterable[tuple[Entry, Meaning]], folds: Folds) -> Words:
    """Entries with the same folds, made ready."""
    pairs = list(entries)
    return Words(Matcher([entry for entry, _ in pairs], folds), [meaning for _, meaning in pairs])
