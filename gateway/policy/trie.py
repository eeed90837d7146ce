"""Entries as a trie in flat arrays: 100,000 words in a few megabytes, nothing for the garbage collector to walk, and
handed from process to process as bytes.

Nodes are numbered level by level, so that a node's children lie side by side, in the order of their characters. An
entry belongs to a group (its list, say) and is a whole word or not; each of both has a root of its own, so that
whoever reads can pass over a group.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Starts = Mapping[int, tuple[tuple[int, int], ...]]
"""By an entry's first character: the root and the node of each kind of entry that begins with it."""
WIDE = 8
"""Children from which a node's are searched by halving."""
BLANK = 0x20
"""In a folded entry: separators of its own."""
HAS_BLANK = 2


@dataclass
class Trie:
    """``children`` of a node is the first one's number, 0 for none, or minus a place in ``wide_first`` and
    ``wide_end``. ``labels`` is four times a node's character, plus :data:`HAS_BLANK` if one of its children is a blank,
    plus 1 if a brother follows. ``ends`` is 1 plus the first entry that ends at a node, or 0; ``lengths`` an entry's
    letters twice, plus one if the next entry ends there too.
    """

    children: array[int]
    labels: array[int]
    wide_first: array[int]
    wide_end: array[int]
    ends: array[int]
    lengths: array[int]
    roots: array[int]
    """Of each entry."""
    starts: Starts

    def child(self, node: int, character: int) -> int:
        """The node that ``character`` leads to; 0 for none."""
        place, wanted = self.children[node], 4 * character
        if place > 0:
            labels = self.labels
            label = labels[place]
            while label < wanted and label & 1:
                place += 1
                label = labels[place]
            return place if label ^ wanted < 4 else 0
        if place:
            first, end = self.wide_first[-place], self.wide_end[-place]
            found = bisect_left(self.labels, wanted, first, end)
            return found if found < end and self.labels[found] ^ wanted < 4 else 0
        return 0

    def entries(self, node: int) -> range:
        """The numbers of the entries that end at ``node``."""
        first = self.ends[node] - 1
        if first < 0:
            return range(0)
        last = first
        while self.lengths[last] & 1:
            last += 1
        return range(first, last + 1)

    def length(self, entry: int) -> int:
        """An entry's letters, separators not counted."""
        return self.lengths[entry] >> 1

    def is_whole(self, entry: int) -> bool:
        """Whether an entry must be a whole word."""
        return bool(self.roots[entry] & 1)


def root_of(group: int, whole_word: bool) -> int:
    """The root of a group's whole words, or of its others."""
    return 2 * group + whole_word


def build(folded: Sequence[str], roots: Sequence[int]) -> tuple[Trie, list[int]]:
    """A trie, and the place in ``folded`` of each of its entries, which it numbers in the order of root and word."""
    order = sorted(range(len(folded)), key=lambda place: (roots[place], folded[place]))
    words = [folded[place] for place in order]
    root = np.array([roots[place] for place in order], np.int64)
    codes = np.frombuffer("".join(words).encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64)
    length = np.array([len(word) for word in words], np.int64)
    levels = _Levels(codes, length, root)
    letters = np.array([len(word) - word.count(" ") for word in words], np.int64)
    children, wide_first, wide_end = levels.children()
    trie = Trie(
        children,
        _array(levels.all_labels()),
        wide_first,
        wide_end,
        _array(levels.ends()),
        _array(2 * letters + levels.shared()),
        _array(root),
        levels.starts(),
    )
    return trie, order


class _Levels:
    """The trie of sorted entries, level by level."""

    def __init__(self, codes: Ints, length: Ints, root: Ints) -> None:
        self._roots = int(root.max(initial=-1)) + 1
        self._length, self._first = length, np.cumsum(length) - length
        self._codes = codes
        self.nodes = max(1, self._roots)
        self.labels = [np.zeros(self.nodes, np.int64)]
        self._parents = [np.full(self.nodes, -1, np.int64)]
        self._blank: list[Ints] = []
        self.node = root.copy()
        depth = 0
        while self._grow(depth):
            depth += 1

    def _grow(self, depth: int) -> bool:
        """Add the nodes of one level; whether there are any."""
        alive = np.flatnonzero(self._length > depth)
        if not alive.size:
            return False
        parent, code = self.node[alive], self._codes[self._first[alive] + depth]
        new = np.append(True, (parent[1:] != parent[:-1]) | (code[1:] != code[:-1]))
        self.node[alive] = self.nodes - 1 + np.cumsum(new)
        parents, codes = parent[new], code[new]
        followed = np.append(parents[1:] == parents[:-1], False)
        self._parents.append(parents)
        self.labels.append(4 * codes + followed)
        self._blank.append(parents[codes == BLANK])
        self.nodes += len(parents)
        return True

    def all_labels(self) -> Ints:
        """As in :class:`Trie`."""
        labels = np.concatenate(self.labels)
        labels[np.concatenate([np.zeros(0, np.int64), *self._blank])] |= HAS_BLANK
        return labels

    def children(self) -> tuple[array[int], array[int], array[int]]:
        """As in :class:`Trie`."""
        parents = np.concatenate(self._parents)
        begins = np.flatnonzero(np.append(True, parents[1:] != parents[:-1]) & (parents >= 0))
        ends = np.append(begins[1:], self.nodes)
        children = np.zeros(self.nodes, np.int64)
        children[parents[begins]] = begins
        wide = ends - begins >= WIDE
        children[parents[begins[wide]]] = -np.arange(1, wide.sum() + 1)
        return _array(children), _array(np.append(0, begins[wide])), _array(np.append(0, ends[wide]))

    def ends(self) -> Ints:
        """As in :class:`Trie`."""
        ends = np.zeros(self.nodes, np.int64)
        ends[self.node[::-1]] = np.arange(len(self.node), 0, -1)
        return ends

    def shared(self) -> Ints:
        """1 for an entry that ends where the next one does."""
        return np.append(self.node[1:] == self.node[:-1], False)[: len(self.node)].astype(np.int64)

    def starts(self) -> dict[int, tuple[tuple[int, int], ...]]:
        """As in :class:`Trie`."""
        found: dict[int, tuple[tuple[int, int], ...]] = {}
        if len(self.labels) > 1:
            first = self.labels[0].size
            for place, (root, label) in enumerate(zip(self._parents[1].tolist(), self.labels[1].tolist(), strict=True)):
                found[label >> 2] = (*found.get(label >> 2, ()), (root, first + place))
        return found


def _array(values: Ints) -> array[int]:
    return array("i", values.astype(np.int32).tobytes())
