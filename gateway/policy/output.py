"""What may leave of one answer: first the rules, character by character, then the moderators, sentence by sentence.

A moderator that holds sees a sentence before anything of it leaves. One that does not is asked while the sentence is
already on its way; what it blocks ends the answer as soon as it has said so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from gateway.errors import RecordUnavailable
from gateway.policy.guard import Guarded
from gateway.policy.json_text import JsonRuleStream, unescaped
from gateway.policy.judging import Judge, Judged, Outcome
from gateway.policy.rules import Rules, RuleStream
from gateway.policy.segments import Segmenter
from gateway.policy.verdict import Action, Context, Span, strictest

BEFORE_CHARACTERS = 400


class OutputGuard:
    """Feed it as the answer comes; ``blocked`` says that nothing more may leave. ``ended`` is called once, and says
    whether the decision is recorded, or need not be. ``remembers`` characters of the model's text are kept."""

    def __init__(
        self,
        context: Context,
        rules: Rules,
        judges: Sequence[tuple[Guarded, Action | None]],
        ended: Callable[[OutputGuard], bool],
        *,
        json: bool = False,
        remembers: int = 0,
    ) -> None:
        """``json``: the answer is JSON, and judged by what its strings say."""
        self._context, self._rules, self._ended, self._over = context, rules, ended, False
        self._stream = JsonRuleStream(rules) if json else RuleStream(rules)
        self._said: Callable[[str], str] = unescaped if json else str
        holding = [each for each in judges if each[0].holds]
        later = [each for each in judges if not each[0].holds]
        self._holding = Judge(holding, rules.mask) if holding else None
        self._later = Judge(later, rules.mask) if later else None
        self._held, self._sent = Segmenter(), Segmenter()
        self._running: list[asyncio.Task[Outcome]] = []
        self._refused, self._recorded = False, False
        self.most_held = 0
        """Characters that were held back at once, at most."""
        self.judged: list[Judged] = []
        self.written, self._remembers = "", remembers
        """What the model wrote, as far as it is remembered."""

    @property
    def blocked(self) -> bool:
        """Whether the answer has to end here."""
        return self._refused or self._stream.blocked is not None

    @property
    def spans(self) -> list[Span]:
        """What lists and patterns found; places are in the model's own text."""
        return self._stream.spans

    @property
    def action(self) -> Action:
        """The strictest that was found so far."""
        return strictest([*(span.action for span in self.spans), *(each.action for each in self.judged)])

    def report(self) -> dict[str, object]:
        """For the response, when asked for: what was found and where, never the text."""
        matches = [span.public() for span in self.spans]
        return {"action": self.action, "matches": matches, "moderators": [each.public() for each in self.judged]}

    def may_follow(self, before: str, text: str) -> bool:
        """Whether ``text`` could be shown behind ``before``, the end of what has left: lists and patterns find nothing
        in it that would not leave."""
        spans, length = self._rules.check(self._said(before + text)), len(self._said(before))
        return not any(span.action != "flag" and span.end > length for span in spans)

    async def feed(self, piece: str, *, last: bool = False) -> str:
        """What may leave now; with ``last``, at the end. Raises :class:`~gateway.errors.RecordUnavailable`."""
        if len(self.written) < self._remembers:
            self.written = (self.written + piece)[: self._remembers]
        text = self._stream.feed(piece)
        text = await self._judge(text, last=self._stream.blocked is not None)
        held = self._stream.held + len(self._held.pending)
        self.most_held = max(self.most_held, held)
        if last and not self.blocked:
            text += await self._judge(self._stream.finish(), last=True)
            if self._running:
                await asyncio.wait(self._running)
        if self._cut_meanwhile():
            text = ""
        if (last or self.blocked) and not self.close():
            raise RecordUnavailable
        return text

    async def finish(self) -> str:
        """What may leave at the end. Raises :class:`~gateway.errors.RecordUnavailable`."""
        return await self.feed("", last=True)

    def close(self) -> bool:
        """The answer is over, however it ended; whether that is recorded, or need not be. Safe to call again."""
        for task in self._running:
            task.cancel()
        self._running = []
        if not self._over:
            self._over = True
            self._recorded = self._ended(self)
        return self._recorded

    async def _judge(self, text: str, *, last: bool) -> str:
        """What of ``text`` may leave, once those that hold have seen it."""
        if self._refused:
            return ""
        if self._holding is None:
            self._tell_later(text, last=last)
            return text
        segments = self._held.feed(text) + (self._held.finish() if last else [])
        out = ""
        for segment in segments:
            outcome = await self._holding.judge(segment, self._context)
            self.judged += outcome.judged
            if outcome.action == "block":
                self._refused = True
                break
            out += outcome.text
            self._remember(segment)
        self._tell_later(out, last=last)
        return out

    def _tell_later(self, text: str, *, last: bool) -> None:
        """Ask those that do not hold about what is leaving."""
        if self._later is not None:
            for segment in self._sent.feed(text) + (self._sent.finish() if last else []):
                self._running.append(asyncio.create_task(self._later.judge(segment, self._context)))
                if self._holding is None:
                    self._remember(segment)

    def _remember(self, segment: str) -> None:
        before = (self._context.before + segment)[-BEFORE_CHARACTERS:]
        self._context = replace(self._context, before=before)

    def _cut_meanwhile(self) -> bool:
        """Take what those that do not hold have said: whether the answer ends before what has not left yet."""
        cut = False
        for task in [each for each in self._running if each.done()]:
            self._running.remove(task)
            if not task.cancelled():
                outcome = task.result()
                self.judged += outcome.judged
                cut = cut or outcome.action == "block"
        self._refused = self._refused or cut
        return cut
