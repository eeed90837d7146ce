"""Lists with the same folds in one matcher, shared by all tenants: what a match means is looked up afterwards."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gateway.policy.folds import Folds
from gateway.policy.matcher import Entry, Matcher
from gateway.policy.rules import Meaning, Words
from gateway.policy.verdict import Action, Direction


class Kind(NamedTuple):
    """Entries that mean the same, whoever asks: their list, their action there, whether they are too ordinary to block,
    their category; and the matcher's group of those that differ by category only."""

    source: str
    action: Action
    demoted: bool
    category: str
    group: int

    def meaning(self, override: Action | None) -> Meaning | None:
        """What a match means under a tenant's own action for the list; None for nothing."""
        action = override or self.action
        if action == "allow":
            return None
        return Meaning(self.source, self.category, "flag" if action == "block" and self.demoted else action)


@dataclass(frozen=True)
class WordSet:
    """Entries with the same folds for the same directions. ``kinds`` by entry number are places in ``table``."""

    matcher: Matcher
    apply: tuple[Direction, ...]
    kinds: array[int]
    table: tuple[Kind, ...]

    def under(self, actions: Mapping[str, Action]) -> Words | None:
        """The words for a tenant with these actions by list; None if nothing is left to look for."""
        meanings = [kind.meaning(actions.get(kind.source)) for kind in self.table]
        pairs = zip(self.table, meanings, strict=True)
        holds = {kind.group: meaning.action != "flag" for kind, meaning in pairs if meaning is not None}
        return Words(self.matcher, self.matcher.select(holds), self.kinds, meanings) if holds else None


def make_words(pairs: Sequence[tuple[Entry, Kind]], folds: Folds, apply: tuple[Direction, ...]) -> WordSet:
    """Entries made ready."""
    matcher = Matcher([entry for entry, _ in pairs], folds)
    places: dict[Kind, int] = {}
    kinds = [places.setdefault(kind, len(places)) for _, kind in pairs]
    return WordSet(matcher, apply, array("H", [kinds[place] for place in matcher.entries]), tuple(places))
