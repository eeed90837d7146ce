"""A classifier that is served by the same Triton, as a moderator.

A classifier reads so many tokens and cuts off the rest (``--max-tokens`` of ``build_engine``, 256 by default), so a
long text is asked about in windows, whole sentences where possible: nothing hides behind padding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.policy.segments import BREAKS, ENDS
from gateway.policy.verdict import Action, Context, Span, Verdict, strictest

WINDOW = 250
"""Characters. WordPiece makes at most one token of each, so that with the two around them they fit into 256."""
OVERLAP = 50
AT_ONCE = 16
"""Windows of one text that Triton is asked about at once; it batches them."""


class Classifier(Protocol):
    """Who asks Triton."""

    async def classify(self, model: str, text: str) -> dict[str, float]:
        """The score (0 to 1) of every label of ``model`` for ``text``."""


@dataclass(frozen=True)
class Judgement:
    """From which score on a label means what."""

    threshold: float
    action: Action
    category: str


class TritonModerator:
    """A :class:`~gateway.policy.verdict.Moderator`. ``labels`` says what labels mean; others mean nothing."""

    def __init__(self, classifier: Classifier, model: str, labels: Mapping[str, Judgement]) -> None:
        self._classifier, self._model, self._labels = classifier, model, labels

    async def check(self, segment: str, context: Context) -> Verdict:
        """Ask the model about every window; the strictest counts, and a window that is found is what may be masked.
        Raises whatever the classifier raises, and KeyError for a label it does not know."""
        turns = asyncio.Semaphore(AT_ONCE)
        asked = [(start, end) for start, end in windows(segment) if not segment[start:end].isspace()]
        answers = await asyncio.gather(*(self._scores(segment[start:end], turns) for start, end in asked))
        hits: list[Judgement] = []
        spans: list[Span] = []
        for (start, end), scores in zip(asked, answers, strict=True):
            found = [judged for label, judged in self._labels.items() if scores[label] >= judged.threshold]
            hits += found
            spans += [Span(start, end, self._model, judged.category, judged.action) for judged in found[:1]]
        return Verdict(
            strictest(judged.action for judged in hits),
            tuple(spans),
            tuple(sorted({judged.category for judged in hits})),
            max((scores[label] for scores in answers for label in self._labels), default=0.0),
        )

    async def _scores(self, text: str, turns: asyncio.Semaphore) -> dict[str, float]:
        async with turns:
            return await self._classifier.classify(self._model, text)


def windows(text: str) -> Iterator[tuple[int, int]]:
    """Where the windows of a text begin and end: at the last end of a sentence within reach, else at the last comma or
    blank, else anywhere, and then they overlap."""
    start = 0
    while len(text) - start > WINDOW:
        reach = start + WINDOW
        sentence = max(text.rfind(". ", start, reach), *(text.rfind(each, start, reach) for each in ENDS))
        end = sentence if sentence >= 0 else max(text.rfind(each, start, reach) for each in BREAKS)
        yield (start, end + 1) if end >= 0 else (start, reach)
        start = end + 1 if end >= 0 else reach - OVERLAP
    yield start, len(text)
