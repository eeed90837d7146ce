"""What may be said of an answer's tokens: only of those whose text has left as the model wrote it.

A token beside a masked or blocked stretch would say what was taken out, and so would the likeliest tokens at its place.
"""

from __future__ import annotations

from dataclasses import replace

from gateway.policy.output import OutputGuard
from gateway.triton import Delta, TokenLogprob

REMEMBERED = 256
"""Characters of what has left, for the alternatives of tokens that were held back."""


class LogprobGate:
    """One answer's tokens, beside its text. The first masked character ends what is said of tokens, for good: from
    there on the text that leaves is no longer the model's, and places in it prove nothing."""

    def __init__(self, guard: OutputGuard) -> None:
        self._guard = guard
        self._written, self._left, self._place = "", "", 0
        self._waiting: list[TokenLogprob] = []
        self._open = True

    def passed(self, delta: Delta, text: str) -> tuple[TokenLogprob, ...]:
        """The tokens that may leave with ``text``, which is what the policy made of ``delta`` and all before it."""
        if not self._open:
            return ()
        self._waiting += delta.logprobs
        self._written += delta.text
        if not self._written.startswith(text):
            self._open, text = False, self._untouched(text)
        self._written = self._written[len(text) :]
        before, self._left, self._place = self._left, (self._left + text)[-REMEMBERED:], self._place + len(text)
        passed = [each for each in self._waiting if each.end <= self._place]
        self._waiting = self._waiting[len(passed) :]
        return tuple(self._with_fair_alternatives(passed, before + text))

    def _untouched(self, text: str) -> str:
        """What of ``text`` stands before the first masked character."""
        taken = [span.start for span in self._guard.spans if span.action != "flag"]
        pairs = enumerate(zip(self._written, text, strict=False))
        same = next((place for place, (written, left) in pairs if written != left), min(len(self._written), len(text)))
        return text[: max(min([self._place + same, *taken]) - self._place, 0)]

    def _with_fair_alternatives(self, tokens: list[TokenLogprob], text: str) -> list[TokenLogprob]:
        """Without alternatives that the policy would not let follow. ``text`` ends at the place of the answer that has
        left."""
        begins = self._place - len(text)
        fair = []
        for each in tokens:
            if each.alternatives:
                own = len(each.token.decode("utf-8", "ignore"))
                before = text[: max(each.end - own - begins, 0)]
                kept = tuple(pair for pair in each.alternatives if self._may_follow(before, pair[0]))
                each = replace(each, alternatives=kept)  # noqa: PLW2901 - the same token with less beside it
            fair.append(each)
        return fair

    def _may_follow(self, before: str, token: bytes) -> bool:
        return self._guard.may_follow(before, token.decode("utf-8", "ignore"))
