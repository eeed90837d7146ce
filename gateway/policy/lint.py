"""How ordinary a list's entries are: each is scored on texts of ordinary people.

An entry that blocks, for a tenant at least, and hits more of them than the policy allows is refused (or only flags, as
the policy says), since big public lists are full of everyday words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.policy.folds import Folds, folding
from gateway.policy.lists import Line
from gateway.policy.matcher import Entry, Matcher
from gateway.policy.pinyin import spellings


@dataclass(frozen=True)
class Score:
    """How many of the texts an entry hits."""

    line: Line
    hits: int
    texts: int

    @property
    def rate(self) -> float:
        """The share."""
        return self.hits / self.texts


def score(
    lines: Sequence[Line],
    folds: Folds,
    whole_words: bool,
    texts: Sequence[str],
    allow: Matcher | None,
    *,
    pinyin: bool = False,
) -> list[Score]:
    """The entries that hit any of ``texts``, most ordinary first; with ``pinyin``, spelled out too. What ``allow``
    cancels is no hit."""
    entries = [(Entry(line.word, whole_words), place) for place, line in enumerate(lines)]
    if pinyin:
        entries += [(Entry(*other), place) for place, line in enumerate(lines) for other in spellings(line.word)]
    matcher = Matcher([entry for entry, _ in entries], folds)
    hits: Counter[int] = Counter()
    for text in texts:
        found = {(each.start, each.end, entries[matcher.entry(each.entry)][1]) for each in matcher.find(text)}
        if found and allow is not None:
            allowed = [(each.start, each.end) for each in allow.find(text)]
            found = {each for each in found if not any(first <= each[0] and each[1] <= end for first, end in allowed)}
        hits.update({place for _, _, place in found})
    return [Score(lines[place], count, len(texts)) for place, count in hits.most_common()]


def too_short(lines: Iterable[Line], folds: Folds) -> list[Line]:
    """Entries of which a single letter is left."""
    fold = folding(folds)
    return [line for line in lines if len(fold.entry(line.word)) < 2]
