"""Texts and entries that provoke: few letters, every kind of separator, everything that folds to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from gateway.policy.folds import Folds
from gateway.policy.matcher import Entry

LETTERS = "aabbсciIllsSoOßﬁﬀéÄа𝐚ⓑＡ1034@$!|"
HAN = "词语敏感詞語⼀一㍿"
GAPS = "  .-_*·\t\u3000,，。！\n\u2003/😀!@"
IGNORED = "\u200b\u00ad\u0301\ufe0f\u202e\u0338"
ALPHABETS = (LETTERS, LETTERS + HAN, LETTERS + GAPS, HAN + GAPS, LETTERS + HAN + GAPS + IGNORED, "ab c.I l1", "aab.")
WORDS = ("ab", "abc", "aab", "abba", "ass", "bill", "oil", "sis", "aa", "a b", "ab ac", "il", "fi", "s1", "a1b",
         "abcabcab", "ab cab ca", "abc abc ab", "词语", "敏感词",
         "敏", "感a", "a词b", "词 语", "敏感 词语", "ball", "abcd", "cable",
         "ss", "b@", "$", "classic", "l", "aaa", "а", "bб", "É", "lll", "敏感词语敏感词语", "a,b")  # fmt: skip
FOLDS = (Folds(), Folds(), Folds(), *(replace(Folds(), **{name: 0})  # type: ignore[arg-type]  # off
         for name in Folds().names()), replace(Folds(), repeat=2), replace(Folds(), repeat=4))  # fmt: skip


def entries(random: Random) -> list[Entry]:
    """One to six entries; some are parts of others."""
    found = []
    for _ in range(random.randint(1, 6)):
        if random.random() < 0.75:
            word = random.choice(WORDS)
        else:
            word = "".join(random.choice("aabbcisl1 词语") for _ in range(random.randint(1, 5)))
        found.append(Entry(word, random.random() < 0.4, random.random() < 0.8))
    return found


def text(random: Random, entries: Sequence[Entry]) -> str:
    """A short text, half of the time around a distorted entry."""
    alphabet = random.choice(ALPHABETS)
    if random.random() < 0.3:
        return "".join(random.choice(alphabet) for _ in range(random.randint(1, 14)))
    parts = [random.choice(alphabet) for _ in range(random.randint(0, 4))]
    gap = random.choice(("", "", "mixed", random.choice(GAPS)))
    for letter in random.choice(entries).word:
        if len(parts) > 18:
            break
        parts.append(distorted(random, letter))
        parts.append("".join(random.choice(GAPS + IGNORED) for _ in range(random.choice((0, 0, 1, 1, 2))))
                     if gap == "mixed" else gap)  # fmt: skip
    parts += [random.choice(alphabet) for _ in range(random.randint(0, 4))]
    return "".join(parts)[:26]


FORMS = {"a": "aaaA@4àа𝐚Ⓐ", "b": "bB8ЬⒷ", "c": "cCс¢", "i": "iI1!|í", "l": "lLI1|!ł", "s": "sS5$ß", "o": "oO0о",
         "词": "词詞", "语": "语語", "f": "fFﬁﬀ", "t": "t7+"}  # fmt: skip


def distorted(random: Random, letter: str) -> str:
    """A letter as people write it."""
    form = random.choice(FORMS.get(letter, letter)) if random.random() < 0.5 else letter
    return form * random.choice((1, 1, 1, 1, 1, 2, 3, 4)) + random.choice(("", "", "", "", random.choice(IGNORED)))


def cuts(random: Random, content: str) -> list[str]:
    """The text in pieces."""
    places = sorted(random.randint(0, len(content)) for _ in range(random.randint(0, 5)))
    if random.random() < 0.3:
        places = list(range(len(content)))
    return [content[one:other] for one, other in zip([0, *places], [*places, len(content)], strict=True)]
