"""Lists and patterns together, for one direction and one set of actions.

A whole text gets its spans. A stream gets its text back as soon as nothing in it can become a match any more: redacted
stretches masked, and nothing from a blocked match on. A stream is judged a character at a time as soon as there is
something to judge, so what leaves is the same however the text was cut.
"""

from __future__ import annotations

import sys
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from gateway.policy.matcher import Matcher, Selection
from gateway.policy.patterns import Hit, PatternScan, Rule
from gateway.policy.patterns import find as find_patterns
from gateway.policy.scan import Found
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
    """Entries with the same folds, and what a match of each means: ``kinds`` by entry number are places in
    ``meanings``. ``selection`` is what of the matcher's entries is looked for at all."""

    matcher: Matcher
    selection: Selection
    kinds: Sequence[int]
    meanings: Sequence[Meaning | None]

    def span(self, text: str, found: Found) -> Span:
        """A match as a span of ``text``."""
        meaning = self.meanings[self.kinds[found.entry]]
        assert meaning is not None, "only what is selected is found"  # noqa: S101 - a contract of Matcher
        return _span(found.start, with_marks(text, found.end), meaning)


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
        spans = {words.span(text, found) for words in self.words for found in words.matcher.find(text, words.selection)}
        for hit in find_patterns(self.patterns, text) if self.patterns else ():
            spans.add(_span(hit.start, with_marks(text, hit.end), self.pattern_meanings[hit.rule]))
        if spans and self.allow is not None:
            allowed = self.allow.find(text)
            spans = without(spans, [(found.start, with_marks(text, found.end)) for found in allowed])
        return sorted(spans, key=_in_order)

    def redacted(self, text: str, spans: Iterable[Span]) -> str:
        """``text`` with the stretches that are to be redacted masked."""
        parts, place = [], 0
        for start, end, category, _ in merged(each for each in spans if each.action == "redact"):
            parts += [text[place:start], self.mask.over(text[start:end], category)]
            place = end
        return "".join([*parts, text[place:]])


def _span(start: int, end: int, meaning: Meaning) -> Span:
    return Span(start, end, meaning.source, meaning.category, meaning.action)


def with_marks(text: str, end: int) -> int:
    """``end`` behind the accents that belong to the last letter."""
    while end < len(text) and _is_mark(text[end]):
        end += 1
    return end


def _is_mark(character: str) -> bool:
    return character > "\u02ff" and unicodedata.category(character) in ("Mn", "Me")


def without(spans: Iterable[Span], allowed: Iterable[tuple[int, int]]) -> set[Span]:
    """The spans that are not inside one of ``allowed``."""
    firsts: list[int] = []
    furthest: list[int] = []  # the end that any of those that begin up to here reaches
    for start, end in sorted(allowed):
        firsts.append(start)
        furthest.append(max(end, furthest[-1] if furthest else 0))
    kept = set()
    for span in spans:
        place = bisect_right(firsts, span.start)
        if not place or furthest[place - 1] < span.end:
            kept.add(span)
    return kept


class Stretch(NamedTuple):
    """Redacted text: overlapping spans as one, with the category of the one that begins first (the longest of those),
    which ends at ``first_end``."""

    start: int
    end: int
    category: str
    first_end: int


def merged(spans: Iterable[Span]) -> list[Stretch]:
    """Overlapping spans as one, in order."""
    stretches: list[Stretch] = []
    for span in sorted(spans, key=lambda each: (each.start, -each.end)):
        if stretches and span.start < stretches[-1].end:
            stretches[-1] = stretches[-1]._replace(end=max(stretches[-1].end, span.end))
        else:
            stretches.append(Stretch(span.start, span.end, span.category, span.end))
    return stretches


def with_span(stretches: Sequence[Stretch], span: Span) -> list[Stretch]:
    """The same with one span more."""
    one = Stretch(span.start, span.end, span.category, span.end)
    apart = []
    for each in stretches:
        if each.start < one.end and one.start < each.end:
            first = min(each, one, key=lambda stretch: (stretch.start, -stretch.first_end))
            one = first._replace(end=max(each.end, one.end))
        else:
            apart.append(each)
    return sorted([*apart, one])


class RuleStream:
    """One text that comes in pieces. ``blocked`` is set when it must not go on; ``spans`` collects what was found."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._scans = [(words, words.matcher.scan(words.selection)) for words in rules.words]
        self._patterns = PatternScan(rules.patterns) if rules.patterns else None
        self._pattern_holds = [meaning.action != "flag" for meaning in rules.pattern_meanings]
        self._allow = rules.allow.scan() if rules.allow is not None else None
        self._text, self._released, self._read = "", 0, 0
        self._masked = False
        self._unsure: list[Span] = []
        self._unsure_first = self._unsure_held = sys.maxsize
        self._allowed: list[tuple[int, int]] = []
        self._redact: list[Stretch] = []
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
        found = [  # what is certain within ``piece``, and from which character on: the same however the text is cut
            (match.certain, words.span("", match)) for words, scan in self._scans for match in scan.feed(piece)
        ]
        if self._patterns is not None:
            found += [(hit.certain, self._pattern_span(hit)) for hit in self._patterns.feed(piece)]
        if not (found or self._unsure):
            self._read += len(piece)
            if self._allow is not None:
                self._read_allowed(piece)
        elif self._allow is None:
            self._read += len(piece)
            for certain, together in groupby(sorted(found, key=_certain), key=_certain):
                self._take((span for _, span in together), certain)
        else:
            for character in piece:
                self._read += 1
                self._read_allowed(character)
                self._judge((span for certain, span in found if certain == self._read), self._read)
        return self._release(self._limit())

    def finish(self) -> str:
        """Nothing follows: the rest."""
        if self.blocked is not None:
            return ""
        found = [words.span("", match) for words, scan in self._scans for match in scan.finish()]
        if self._patterns is not None:
            found += [self._pattern_span(hit) for hit in self._patterns.finish()]
        if self._allow is not None:
            self._allowed += [(match.start, match.end) for match in self._allow.finish()]
        self._judge(found)
        return self._release(self._limit())

    def _pattern_span(self, hit: Hit) -> Span:
        return _span(hit.start, hit.end, self._rules.pattern_meanings[hit.rule])

    def _read_allowed(self, piece: str) -> None:
        matches = self._allow.feed(piece) if self._allow is not None else ()
        if matches:
            needed = min(self._released, self._unsure_first)
            self._allowed = [each for each in self._allowed if each[1] > needed]
            self._allowed += [(match.start, match.end) for match in matches]

    def _judge(self, found: Iterable[Span], position: int | None = None) -> None:
        """Take what no allowed word can cancel any more, once ``position`` characters (None: all) have been read."""
        self._doubt(found)
        settled = self._allow.oldest() if self._allow is not None else self._read
        if self._unsure and settled > self._unsure_first:
            unsure, self._unsure = self._unsure, []
            self._unsure_first = self._unsure_held = sys.maxsize
            self._doubt(each for each in unsure if each.start >= settled)
            self._take(without((each for each in unsure if each.start < settled), self._allowed), position)

    def _doubt(self, spans: Iterable[Span]) -> None:
        for span in spans:
            self._unsure.append(span)
            self._unsure_first = min(self._unsure_first, span.start)
            if span.action != "flag":
                self._unsure_held = min(self._unsure_held, span.start)

    def _take(self, certain: Iterable[Span], position: int | None) -> None:
        """What became certain with the character before ``position`` (None: the last one); nothing counts from the
        first character of what blocks on. Before it, what would have been redacted had the text ended here is."""
        if self.blocked is not None:
            return
        spans = sorted(set(certain), key=_in_order)
        self.blocked = next((span for span in spans if span.action == "block"), None)
        if self.blocked is not None:
            waiting = self._waiting_at(position) if position is not None else []
            before = {span for span in (*spans, *waiting) if span.start < self.blocked.start}
            spans = [*sorted(before, key=_in_order), self.blocked]
        self.spans += spans
        for span in spans:
            if span.action == "redact":
                self._redact = with_span(self._redact, span)

    def _waiting_at(self, position: int) -> list[Span]:
        """What is to be redacted, but for what might have followed."""
        found = [words.span("", match) for words, scan in self._scans for match in scan.waiting_at(position)]
        if self._patterns is not None:
            found += [self._pattern_span(hit) for hit in self._patterns.waiting_at(position)]
        return [span for span in found if span.action == "redact"]

    def _limit(self) -> int:
        """The first character that may not leave yet."""
        if self.blocked is not None:
            return self.blocked.start
        limit = self._read
        for _, scan in self._scans:
            first = scan.oldest()
            limit = min(limit, first)
        if self._patterns is not None:
            limit = min(limit, self._patterns.oldest(self._pattern_holds))
        return min(limit, self._unsure_held)

    def _release(self, limit: int) -> str:
        """The text up to ``limit``, masked. A label waits until its whole stretch may leave."""
        if not self._redact:
            return self._cut(limit)
        out: list[str] = []
        for stretch in self._redact:
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
            marks = with_marks(text, 0)
            self._masked = marks == len(text)
            mask = self._rules.mask
            return ("" if mask.label is not None else mask.character * marks) + text[marks:]
        return text


def _certain(found: tuple[int, Span]) -> int:
    return found[0]


def _in_order(span: Span) -> tuple[int, int, str]:
    return span.start, span.end, span.source
