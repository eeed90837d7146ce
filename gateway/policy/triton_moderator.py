"""A classifier that is served by the same Triton, as a moderator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.policy.verdict import Action, Context, Verdict, strictest


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
        """Ask the model. Raises whatever the classifier raises, and KeyError for a label it does not know."""
        scores = await self._classifier.classify(self._model, segment)
        hits = [judged for label, judged in self._labels.items() if scores[label] >= judged.threshold]
        return Verdict(
            strictest(judged.action for judged in hits),
            (),
            tuple(sorted({judged.category for judged in hits})),
            max(scores[label] for label in self._labels),
        )
