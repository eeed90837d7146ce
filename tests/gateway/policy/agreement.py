"""What has to agree, for one drawn example: the tests draw thousands, a benchmark hundreds of thousands."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from gateway.policy.folds import Folds, folding
from gateway.policy.matcher import Entry, Matcher
from gateway.policy.patterns import compile_rule
from gateway.policy.rules import Mask, Meaning, Rules, RuleStream, with_marks
from gateway.policy.verdict import Action, Span
from gateway.policy.wordset import Kind, make_words
from tests.gateway.policy import provoking, reference

LETTERS = "abc敏感词 .，!1@$0́\u200b ＡB"
WORDS = ("ab", "abc", "敏感", "敏感词", "a c", "bca", "c敏", "abba", "词a")
ACTIONS: tuple[Action, ...] = ("flag", "redact", "block")
ALLOWED = ("xabc", "cab", "感词敏感", "a.b.c a", "敏感词c", "ab c")
PATTERNS = (r"a\d{1,3}b?", r"(?<!c)1[0-9]{2}(?!\d)", r"c.{1,4}a")
MASKS = (Mask(), Mask("#"), Mask("*", "[{category}]"))


def of_matches(seed: int, folds: Folds) -> None:
    """Stream, whole text and brute force find the same, and nothing before ``oldest()`` is in a later match."""
    random = Random(seed)
    entries = provoking.entries(random)
    text = provoking.text(random, entries)
    matcher = Matcher(entries, folds)
    expected = reference.find(folding(folds), [(each.word, each.whole_word) for each in entries], text)
    whole = matcher.find(text)
    assert {(each.start, each.end, matcher.entry(each.entry)) for each in whole} == expected
    scan, streamed, certain = matcher.scan(), [], 0
    for piece in provoking.cuts(random, text):
        found = scan.feed(piece)
        assert all(each.start >= certain and each.certain <= scan.position for each in found)
        streamed += found
        certain = scan.oldest()
    last = scan.finish()
    assert all(each.start >= certain for each in last)
    assert set(streamed + last) == set(whole)


def of_policies(seed: int) -> None:
    """What leaves a stream is what the whole text gives, however it is cut."""
    random = Random(seed)
    words = {
        word: (random.choice(ACTIONS), random.random() < 0.5) for word in random.sample(WORDS, random.randint(0, 6))
    }
    patterns = {pattern: random.choice(ACTIONS) for pattern in random.sample(PATTERNS, random.randint(0, 2))}
    rules = make_rules(words, random.sample(ALLOWED, random.randint(0, 2)), random.choice(MASKS), patterns)
    text = "".join(random.choices(LETTERS, k=random.randint(0, 24)))
    sizes = [random.randint(1, 5) for _ in range(random.randint(1, 24))]
    of_cuts(rules, text, sizes)
    of_whole(rules, text, sizes)


def of_cuts(rules: Rules, text: str, sizes: list[int]) -> None:
    """One character at a time, any pieces, or all at once."""
    assert run(rules, text, sizes) == run(rules, text, [1]) == run(rules, text, [100])


def of_whole(rules: Rules, text: str, sizes: list[int]) -> None:
    """Same text as the whole with its spans masked; or, if something blocks, a beginning of it that ends before it."""
    spans = rules.check(text)
    left, blocked, found = run(rules, text, sizes)
    blocking = {_without_marks(span) for span in spans if span.action == "block"}
    assert _without_marks(blocked) in blocking if blocked is not None else not blocking
    if blocked is None:
        assert left == rules.redacted(text, spans)
        return
    certain = {_without_marks(span) for span in found}
    before = [span for span in spans if span.end <= blocked.start]
    assert certain.issuperset(_without_marks(span) for span in before)
    counted = [span for span in found if span.start < blocked.start]
    ends = [min(with_marks(text, span.end), blocked.start) for span in counted]
    masked = [replace(span, end=end) for span, end in zip(counted, ends, strict=True)]
    assert left == rules.redacted(text[: blocked.start], masked)


def _without_marks(span: Span) -> tuple[int, str, str]:
    """What is the same for a stream, which has not read the accents behind a match when it finds it."""
    return span.start, span.source, span.category


def make_rules(
    draw_actions: dict[str, tuple[Action, bool]], allow: list[str], mask: Mask, patterns: dict[str, Action]
) -> Rules:
    """Rules from words with an action and whether they are whole words."""
    entries = [
        (Entry(word, whole, group), Kind("list", action, False, word, group))
        for group, (word, (action, whole)) in enumerate(draw_actions.items())
    ]
    sets = [make_words(entries[1::2], Folds(), ("input",))]
    sets.append(make_words(entries[::2], Folds(repeat=0, traditional=False), ("input",)))
    words = (each.under({}) for each in sets)
    return Rules(
        tuple(each for each in words if each is not None),
        tuple(compile_rule(f"p{index}", pattern) for index, pattern in enumerate(patterns)),
        tuple(Meaning(f"p{index}", "personal", action) for index, action in enumerate(patterns.values())),
        Matcher([Entry(word) for word in allow]) if allow else None,
        mask,
    )


def run(rules: Rules, text: str, sizes: list[int]) -> tuple[str, Span | None, set[Span]]:
    """What leaves, what blocked, and what was found."""
    stream, out, place, turn = RuleStream(rules), [], 0, 0
    while place < len(text):
        size = sizes[turn % len(sizes)]
        out.append(stream.feed(text[place : place + size]))
        place, turn = place + size, turn + 1
    out.append(stream.finish())
    return "".join(out), stream.blocked, set(stream.spans)
