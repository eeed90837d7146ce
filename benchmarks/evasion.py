"""Words in every dress, in ordinary texts: what of them is found, and what the peers find.

``python -m benchmarks.evasion generate`` wrote ``evasion.jsonl.gz`` beside this file, once; it needs the extra ``dev``
and is kept so that nobody has to believe it. ``python -m benchmarks.evasion`` measures the frozen set (a minute; five
the first time, for the peers' environments). Words and texts come from the reviews and the prose that the gateway
ships (NOTICE), so they are real and harmless: to a filter, a word is a word.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import evasions, harness
from benchmarks.peer_environments import environment
from gateway.policy import pinyin
from gateway.policy.benign import shipped_texts
from gateway.policy.folds import Folds
from gateway.policy.matcher import Entry, Matcher
from gateway.policy.rules import Meaning, Rules, Words, merged

SET = Path(__file__).with_name("evasion.jsonl.gz")
CASES, WORDS = 85, 200
PEERS = ("pyahocorasick", "better_profanity", "gorget")


class Case(NamedTuple):
    """A text in which a word of the list stands from ``start`` to ``end``, changed as ``family`` says. ``script`` tells
    the word's, ``promised`` whether the policy promises to find it."""

    script: str
    family: str
    promised: bool
    word: str
    text: str
    start: int
    end: int


class Result(NamedTuple):
    """Of one family: cases, those found, those of them whose place is exact."""

    cases: int
    found: int
    exact: int


def read() -> list[Case]:
    """The frozen set."""
    lines = gzip.decompress(SET.read_bytes()).decode("utf-8").split("\n")
    return [Case(*json.loads(line)) for line in lines if line]


def rules(words: list[str], *, with_pinyin: bool = False) -> Rules:
    """A list of these words, each its own category, every fold on."""
    entries = [(Entry(word, True), word) for word in words]
    if with_pinyin:
        entries += [(Entry(each.text, each.whole_word), word) for word in words for each in pinyin.spellings(word)]
    matcher = Matcher([entry for entry, _ in entries], Folds())
    kinds = [matcher.entry(number) for number in range(len(matcher.entries))]
    meanings = [Meaning("list", word, "redact") for _, word in entries]
    return Rules((Words(matcher, matcher.everything, kinds, meanings),))


def judged(check: Rules, case: Case) -> tuple[bool, bool]:
    """Whether the word is found, and whether exactly its place would be masked."""
    spans = [span for span in check.check(case.text) if span.start < case.end and case.start < span.end]
    mine = [span for span in spans if span.category == case.word]
    stretches = [(each.start, each.end) for each in merged(mine)]
    return bool(mine), stretches == [(case.start, case.end)]


def measured(cases: list[Case], *, with_pinyin: bool = False) -> dict[str, Result]:
    """By script and family."""
    check = rules(sorted({case.word for case in cases}), with_pinyin=with_pinyin)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for case in cases:
        found, exact = judged(check, case)
        counts[f"{case.script}: {case.family}"].update(cases=1, found=found, exact=found and exact)
    return {name: Result(each["cases"], each["found"], each["exact"]) for name, each in counts.items()}


def chinese_words(texts: list[str], draw: random.Random) -> list[str]:
    """Two to six characters in a row that stand in one review only."""
    found: set[str] = set()
    everything = "\n".join(texts)
    while len(found) < WORDS:
        run = draw.choice(re.findall(r"[\u4e00-\u9fff]{2,}", draw.choice(texts)) or ["的"])
        length = draw.choice((2, 2, 3, 3, 3, 4, 4, 4, 5, 6))
        if len(run) >= length:
            place = draw.randint(0, len(run) - length)
            word = run[place : place + length]
            if everything.count(word) == 1 and len(set(word)) == length:
                found.add(word)
    return sorted(found)


def latin_words(texts: list[str], draw: random.Random) -> list[str]:
    """Words of four letters or more that stand in few paragraphs."""
    counts = Counter(word for text in texts for word in set(re.findall(r"\b[a-z]{4,12}\b", text)))
    rare = sorted(word for word, count in counts.items() if count <= 2)
    return sorted(draw.sample(rare, WORDS))


def generated() -> Iterator[Case]:
    """The set, drawn once."""
    draw = random.Random(20261125)
    texts = list(shipped_texts())
    chinese, prose = [each for each in texts if not each.isascii()], [each for each in texts if each.isascii()]
    words = {"chinese": chinese_words(chinese, draw), "latin": latin_words(prose, draw)}
    check = rules(sorted({*words["chinese"], *words["latin"]}))
    carriers = {script: [each for each in those if 40 <= len(each) <= 240 and not check.check(each)]
                for script, those in (("chinese", chinese), ("latin", prose))}  # fmt: skip
    families: list[tuple[str, bool, dict[str, evasions.Evasion], range]] = [
        ("chinese", True, evasions.CHINESE, range(2, 9)),
        ("chinese", True, evasions.LONGER_CHINESE, range(3, 9)),
        ("chinese", False, evasions.SHORT_CHINESE, range(2, 3)),
        ("chinese", False, evasions.OTHER_CHINESE, range(2, 9)),
        ("latin", True, evasions.LATIN, range(4, 13)),
        ("latin", False, evasions.OTHER_LATIN, range(4, 13)),
        ("chinese", False, evasions.LATER_CHINESE, range(2, 9)),
        ("latin", False, evasions.LATER_LATIN, range(4, 13)),
    ]
    for script, promised, table, lengths in families:
        usable = [word for word in words[script] if len(word) in lengths]
        for family, change in table.items():
            for case in _cases(usable, change, carriers[script], draw):
                yield Case(script, family, promised, *case)


def _cases(
    words: list[str], change: evasions.Evasion, carriers: list[str], draw: random.Random
) -> Iterator[tuple[str, str, int, int]]:
    made, tried = 0, 0
    while made < CASES and tried < 50 * CASES:
        tried += 1
        word, carrier = draw.choice(words), draw.choice(carriers)
        dressed = change(word, draw)
        if not dressed:
            continue
        blanks = [place for place, each in enumerate(carrier) if each == " "] or [0]
        place = draw.choice(blanks) if word.isascii() else draw.randint(0, len(carrier))
        before, after = (
            (carrier[:place] + " ", carrier[place:] or " ") if word.isascii() else (carrier[:place], carrier[place:])
        )
        yield word, before + dressed + after, len(before), len(before) + len(dressed)
        made += 1


def beside(cases: list[Case]) -> dict[str, float]:
    """The share of the promised families' cases in which peers find the word, each asked for that word alone."""
    promised = [(case.word, case.text) for case in cases if case.promised]
    shares = {}
    with tempfile.TemporaryDirectory(prefix="tidegate-evasion-") as folder:
        file = Path(folder) / "set.json"
        file.write_text(json.dumps({"cases": promised}), encoding="utf-8")
        for kind in PEERS:
            command = [str(environment(kind)), str(Path(__file__).with_name("peers.py")), kind, str(file)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            shares[kind] = int(done.stdout.split()[-1]) / len(promised)
    return shares


def figures(results: dict[str, Result], cases: list[Case]) -> dict[str, Any]:
    """For the result file."""
    promised = {f"{case.script}: {case.family}": case.promised for case in cases}
    families = {
        name: {"promised": promised[name], "cases": each.cases, "recall": each.found / each.cases,
               "exact": each.exact / each.found if each.found else None}
        for name, each in results.items()
    }  # fmt: skip
    kept = [each for name, each in results.items() if promised[name]]
    return {
        "cases": len(cases),
        "families_promised": len(kept),
        "lowest_recall_promised": min(each.found / each.cases for each in kept),
        "lowest_exact_promised": min(each.exact / each.found for each in kept if each.found),
        "recall_promised": sum(each.found for each in kept) / sum(each.cases for each in kept),
        "exact_promised": sum(each.exact for each in kept) / sum(each.found for each in kept),
        "families": families,
    }


def main(arguments: list[str]) -> None:
    """Generate, or measure and save."""
    if arguments == ["generate"]:
        lines = "".join(json.dumps(case, ensure_ascii=False) + "\n" for case in generated())
        SET.write_bytes(gzip.compress(lines.encode("utf-8"), mtime=0))
        return
    cases = read()
    spelled = measured([case for case in cases if "pinyin" in case.family], with_pinyin=True)
    shares = {name: each.found / each.cases for name, each in spelled.items()}
    others = {"recall_with_pinyin": shares, "peers_recall_promised": beside(cases)}
    harness.save("evasion", {**figures(measured(cases), cases), **others})


if __name__ == "__main__":
    main(sys.argv[1:])
