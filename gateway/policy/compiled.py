"""A policy made ready: the rules of each direction and tenant. All tenants share the lists; only what a match means is
a tenant's own.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from gateway.policy import lint, moderators, pinyin
from gateway.policy.benign import read_texts, shipped_texts
from gateway.policy.config import AllowPart, ListPart, PatternPart, PolicyFile, read_policy
from gateway.policy.errors import PolicyError
from gateway.policy.folds import Folds, folding
from gateway.policy.guard import Guarded
from gateway.policy.lists import MOST_CATEGORIES, Line, check_entry, read_list
from gateway.policy.matcher import Entry, Matcher
from gateway.policy.moderators import Services
from gateway.policy.patterns import PatternError, Rule, compile_rule
from gateway.policy.personal import shipped
from gateway.policy.rules import Mask, Meaning, Rules
from gateway.policy.verdict import Action, Direction
from gateway.policy.wordset import Kind, WordSet, make_words
from gateway.yaml_file import place


@dataclass(frozen=True)
class Listed:
    """A list with its entries, read and checked."""

    part: ListPart
    lines: tuple[Line, ...]
    where: str
    demoted: frozenset[int] = frozenset()
    """Numbers of lines that are too ordinary to block and only flag."""

    def acts(self, line: Line) -> Action:
        """What a match of ``line`` does, for those without an override."""
        action = line.action or self.part.action
        return "flag" if action == "block" and line.number in self.demoted else action


@dataclass
class Policy:
    """One version of a policy, ready for use. ``digest`` is the SHA-256 of everything it was made from; ``demoted``
    counts entries that are too ordinary to block and only flag."""

    file: PolicyFile
    digest: str
    words: tuple[WordSet, ...]
    demoted: int
    patterns: tuple[tuple[PatternPart, Rule], ...]
    allow: Matcher | None
    moderators: tuple[Guarded, ...] = ()
    _rules: dict[tuple[object, ...], Rules] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """The policy's own word, and the beginning of its digest."""
        return f"{self.file.version}@{self.digest[:12]}"

    @cached_property
    def categories(self) -> frozenset[str]:
        """Every reason that the policy names; a service or own code may give others."""
        listed = (kind.category or kind.source for each in self.words for kind in each.table)
        patterns = (part.category or part.called for part, _ in self.patterns)
        parts = (part for part in self.file.moderators if part.kind == "triton")
        labels = (label.category or name for part in parts for name, label in part.labels.items())
        services = (part for part in self.file.moderators if part.kind == "http")
        scored = (name for part in services for name in part.thresholds if name != "*")
        return frozenset([*listed, *patterns, *labels, *scored])

    def rules(self, direction: Direction, tenant: str) -> Rules:
        """What is looked for in what ``tenant`` asks or is answered."""
        actions = self._actions(tenant)
        key = (direction, *sorted(actions.items()))
        if key not in self._rules:
            self._rules[key] = self._make(direction, actions)
        return self._rules[key]

    def judges(self, direction: Direction, tenant: str) -> tuple[tuple[Guarded, Action | None], ...]:
        """The moderators for what ``tenant`` asks or is answered, each with the tenant's own action for it."""
        actions = self._actions(tenant)
        return tuple(
            (each, actions.get(each.name))
            for each in self.moderators
            if direction in each.applies and actions.get(each.name) != "allow"
        )

    def prepare(self) -> None:
        """Make every tenant's rules now rather than with the first request."""
        for tenant in ("", *self.file.tenants):
            self.rules("input", tenant)
            self.rules("output", tenant)

    def _actions(self, tenant: str) -> Mapping[str, Action]:
        part = self.file.tenants.get(tenant)
        return part.actions if part is not None else {}

    def _make(self, direction: Direction, actions: Mapping[str, Action]) -> Rules:
        words = (each.under(actions) for each in self.words if direction in each.apply)
        active = [
            (rule, Meaning(part.called, part.category, actions.get(part.called, part.action)))
            for part, rule in self.patterns
            if direction in part.apply and actions.get(part.called) != "allow"
        ]
        return Rules(
            tuple(each for each in words if each is not None),
            tuple(rule for rule, _ in active),
            tuple(meaning for _, meaning in active),
            self.allow,
            Mask(self.file.mask.character or "", self.file.mask.label),
        )


def load_policy(path: Path, services: Services | None = None) -> Policy:
    """Read, check, lint and make ready. Raises :class:`PolicyError`."""
    policy = compile_policy(read_policy(path), path.parent, str(path), services)
    policy.prepare()
    return policy


def compile_policy(file: PolicyFile, folder: Path, name: str, services: Services | None = None) -> Policy:
    """A policy from its file; ``folder`` is where relative files lie. Without ``services`` there are no moderators.
    Raises :class:`PolicyError`."""
    with _at(name, "allow"):
        allow, words = read_allow(file.allow, folder)
    listed_here = read_lists(file, folder, name)
    with _at(name, "lint", "benign"):
        texts = benign_texts(file, folder) if listed_here else ()
    lists = tuple(_linted(each, file, texts, allow) for each in listed_here)
    digest = hashlib.sha256(file.model_dump_json().encode())
    for listed in lists:
        for line in listed.lines:
            digest.update(f"{line.word}\t{listed.acts(line)}\t{line.category}\n".encode("utf-8", "surrogatepass"))
    categories = {line.category or listed.part.category for listed in lists for line in listed.lines}
    if len(categories) > MOST_CATEGORIES:
        raise PolicyError(f"{name}: {len(categories)} categories; at most {MOST_CATEGORIES}, they label metrics")
    digest.update("\n".join(words).encode())
    demoted = sum(len(each.demoted) for each in lists)
    policy = Policy(file, digest.hexdigest(), _word_sets(lists), demoted, _patterns(file, name), allow)
    return policy if services is None else with_moderators(policy, folder, services)


@contextlib.contextmanager
def _at(name: str, *location: int | str) -> Iterator[None]:
    """Say of what goes wrong where in the policy's file it was asked for."""
    try:
        yield
    except (PolicyError, PatternError) as error:
        raise PolicyError(f"{place(Path(name), location)}: {error}") from None


def with_moderators(policy: Policy, folder: Path, services: Services, before: Iterable[Guarded] = ()) -> Policy:
    """The policy with the moderators that its file asks for; those of ``before`` that are the same stay. Raises
    :class:`PolicyError`."""
    before = tuple(before)
    judges = tuple(moderators.make(part, services, folder, before) for part in policy.file.moderators)
    return replace(policy, moderators=judges)


def _word_sets(lists: Iterable[Listed]) -> tuple[WordSet, ...]:
    """Lists with the same folds and directions together."""
    found: dict[tuple[Folds, tuple[Direction, ...]], list[tuple[Entry, Kind]]] = defaultdict(list)
    groups: dict[tuple[str, Action, bool], int] = {}
    for listed in lists:
        part = listed.part
        entries = found[part.folds.folds(), tuple(sorted(set(part.apply)))]
        for line in listed.lines:
            demoted = line.number in listed.demoted
            key = (part.name, line.action or part.action, demoted)
            kind = Kind(*key, line.category or part.category, groups.setdefault(key, len(groups)))
            entries.append((Entry(line.word, part.match == "word", kind.group), kind))
            if part.pinyin:
                others = pinyin.spellings(line.word)
                entries += [(Entry(each.text, each.whole_word, kind.group), kind) for each in others]
    return tuple(make_words(entries, folds, apply) for (folds, apply), entries in found.items())


def read_lists(file: PolicyFile, folder: Path, name: str) -> list[Listed]:
    """Every list with its entries, not linted. Raises :class:`PolicyError`."""
    found = []
    for position, part in enumerate(file.lists):
        if part.file is not None:
            with _at(name, "lists", position, "file"):
                listed = Listed(part, tuple(read_list(folder / part.file)), f"{folder / part.file}:")
        else:
            lines = tuple(Line(word, None, "", number) for number, word in enumerate(part.words, 1))
            listed = Listed(part, lines, f"{name}: list '{part.name}', word ")
            for line in lines:
                check_entry(f"{listed.where}{line.number}", line.word)
        _check_entries(listed)
        found.append(listed)
    return found


def benign_texts(file: PolicyFile, folder: Path) -> tuple[str, ...]:
    """What entries are scored on. Raises :class:`PolicyError`."""
    return read_texts(folder / file.lint.benign) if file.lint.benign is not None else shipped_texts()


def _linted(listed: Listed, file: PolicyFile, texts: Sequence[str], allow: Matcher | None) -> Listed:
    """The list, with entries that are too ordinary refused or demoted. Raises :class:`PolicyError`."""
    folds, pinyin = listed.part.folds.folds(), listed.part.pinyin
    for_a_tenant = any(tenant.actions.get(listed.part.name) == "block" for tenant in file.tenants.values())
    blocking = [line for line in listed.lines if for_a_tenant or listed.acts(line) == "block"]
    ordinary = {line.number: "a single letter" for line in lint.too_short(blocking, folds)}
    if blocking and file.lint.max_rate < 1:
        whole_words = listed.part.match == "word"
        for each in lint.score(blocking, folds, whole_words, texts, allow, pinyin=pinyin):
            if each.rate > file.lint.max_rate:
                spelled = ", spelled in pinyin or not" if pinyin else ""
                ordinary.setdefault(each.line.number, f"hits {each.rate:.1%} of ordinary texts{spelled}")
    if not ordinary:
        return listed
    if file.lint.on_fail == "flag":
        return replace(listed, demoted=frozenset(ordinary))
    number, reason = next(iter(ordinary.items()))
    raise PolicyError(
        f"{listed.where}{number}: too ordinary to block: {reason} ({len(ordinary)} such entries); use flag, remove "
        "them, allow what they are part of, or set lint.on_fail: flag"
    )


def _check_entries(listed: Listed) -> None:
    fold = folding(listed.part.folds.folds())
    for line in listed.lines:
        if not fold.entry(line.word):
            raise PolicyError(
                f"{listed.where}{line.number}: nothing is left of this entry once it is folded; remove it"
            )


def read_allow(part: AllowPart | None, folder: Path) -> tuple[Matcher | None, list[str]]:
    """The words that cancel hits, ready and as they are written. Raises :class:`PolicyError`."""
    if part is None:
        return None, []
    words = [*part.words, *([line.word for line in read_list(folder / part.file)] if part.file else [])]
    fold = folding(Folds())
    for number, word in enumerate(words, 1):
        check_entry(f"word {number}", word)
        if not fold.entry(word):
            raise PolicyError(f"word {number}: nothing is left of this entry once it is folded; remove it")
    entries = [Entry(word, part.match == "word") for word in words]
    return (Matcher(entries) if entries else None), words


def _patterns(file: PolicyFile, name: str) -> tuple[tuple[PatternPart, Rule], ...]:
    known = shipped() if file.patterns else {}
    found = []
    for number, part in enumerate(file.patterns):
        with _at(name, "patterns", number, "pattern" if part.use is None else "use"):
            if part.use is not None and part.use not in known:
                raise PolicyError(f"use must be one of {', '.join(known)}")
            rule = known[part.use] if part.use is not None else compile_rule(part.called, part.pattern or "")
        found.append((part, rule))
    return tuple(found)
