"""What a moderator needs in production: a deadline, a limit, a breaker, and a decision for when it fails.

A failure is a verdict like any other: the configured action, and a word for what went wrong. The text is never logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import anyio

from gateway.policy.verdict import ACTIONS, Context, Direction, Moderator, Span, Verdict

LOGGER = logging.getLogger("tidegate")
OnError = Literal["block", "allow", "flag"]
Outcome = Literal["allow", "flag", "redact", "block", "deadline", "overloaded", "open", "failed"]


class VerdictError(Exception):
    """The moderator ended without a verdict, or with something that is none."""


class GuardObserver(Protocol):
    """Who counts."""

    def checked(self, moderator: str, outcome: Outcome, seconds: float) -> None:
        """A check ended: with an action, or with what went wrong."""

    def let_through(self, moderator: str, outcome: Outcome) -> None:
        """A check failed, and the text passes all the same, as configured."""

    def breaker(self, moderator: str, is_open: bool) -> None:
        """The breaker opened, or closed."""


@dataclass(frozen=True)
class Limits:
    """How long a check may take (waiting for its turn included), how many may run and how many may wait, and when the
    breaker opens: after ``failures`` in a row, for ``cool_down_seconds``; then one check is let through to see."""

    deadline_seconds: float = 1.0
    concurrency: int = 16
    waiting: int = 64
    failures: int = 5
    cool_down_seconds: float = 10.0
    on_error: OnError = "block"


class Guarded:
    """A moderator under limits. ``applies`` says to which direction; ``holds`` whether text waits for it. It is closed
    when its last user, a policy or a request, lets go of it."""

    def __init__(
        self,
        name: str,
        moderator: Moderator,
        limits: Limits,
        observer: GuardObserver,
        *,
        applies: tuple[Direction, ...] = ("input", "output"),
        holds: bool = True,
        made_from: object = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.applies, self.holds, self.made_from = name, applies, holds, made_from
        self._users = 0
        self._closing: asyncio.Task[None] | None = None
        self._moderator, self._limits, self._observer, self._clock = moderator, limits, observer, clock
        self._turns = asyncio.Semaphore(limits.concurrency)
        self._inside = 0
        self._failures = 0
        self._open_until = 0.0
        observer.breaker(name, is_open=False)

    def hold(self) -> None:
        """One more user."""
        self._users += 1

    def release(self) -> None:
        """One less. The last one has it closed."""
        self._users -= 1
        if not self._users:
            self._closing = asyncio.create_task(self.close())

    async def close(self) -> None:
        """Close the moderator, if it can be."""
        close = getattr(self._moderator, "close", None)
        if inspect.iscoroutinefunction(close):
            with contextlib.suppress(Exception):
                await close()

    def forget(self) -> None:
        """Nobody asks a moderator of this name any more: its breaker is no news."""
        self._observer.breaker(self.name, is_open=False)

    async def check(self, segment: str, context: Context) -> Verdict:
        """The moderator's verdict, or the configured one if it cannot be had. Only a cancellation passes through."""
        began = self._clock()
        try:
            verdict, outcome = await self._attempt(segment, context)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - a moderator is somebody else's code
            LOGGER.warning(
                "a moderator failed", extra={"fields": {"moderator": self.name, "error": type(error).__name__}}
            )
            verdict, outcome = self._failed("failed")
        self._observer.checked(self.name, outcome, self._clock() - began)
        if verdict.error and verdict.action != "block":
            self._observer.let_through(self.name, outcome)
        return verdict

    async def _attempt(self, segment: str, context: Context) -> tuple[Verdict, Outcome]:
        if self._failures >= self._limits.failures:
            if self._clock() < self._open_until:
                return self._without("open")
            self._open_until = self._clock() + self._limits.cool_down_seconds  # this one probes, the others wait
        if self._inside >= self._limits.concurrency + self._limits.waiting:
            return self._without("overloaded")
        left = context.deadline - time.monotonic()
        self._inside += 1
        try:
            # Not asyncio.wait_for: up to Python 3.11 it may swallow the cancellation of a client that leaves.
            with anyio.fail_after(min(self._limits.deadline_seconds, max(left, 0.0))):
                verdict = await self._in_turn(segment, context)
        except TimeoutError:
            # A request that was out of time anyway says nothing about the moderator.
            return self._failed("deadline") if left >= self._limits.deadline_seconds else self._without("deadline")
        finally:
            self._inside -= 1
        self._count(0)
        return verdict, verdict.action

    async def _in_turn(self, segment: str, context: Context) -> Verdict:
        """The check is a task of its own, so that a cancellation in the moderator's code is not taken for a client that
        leaves. Raises :class:`VerdictError`."""
        async with self._turns:
            task = asyncio.create_task(self._moderator.check(segment, context))
            try:
                await asyncio.wait([task])
            finally:
                task.cancel()
            if task.cancelled():
                raise VerdictError
            return sound(task.result())

    def _failed(self, outcome: Outcome) -> tuple[Verdict, Outcome]:
        self._count(self._failures + 1)
        if self._failures >= self._limits.failures:
            self._open_until = self._clock() + self._limits.cool_down_seconds
        return self._without(outcome)

    def _count(self, failures: int) -> None:
        was_open, self._failures = self._failures >= self._limits.failures, failures
        if was_open != (failures >= self._limits.failures):
            self._observer.breaker(self.name, not was_open)

    def _without(self, outcome: Outcome) -> tuple[Verdict, Outcome]:
        return Verdict(self._limits.on_error, error=outcome), outcome


def sound(verdict: object) -> Verdict:
    """The verdict, if it is one: types say nothing about somebody else's code. Raises :class:`VerdictError`."""
    if not isinstance(verdict, Verdict) or verdict.action not in ACTIONS or verdict.error:
        raise VerdictError
    try:
        score = None if verdict.score is None else float(verdict.score)
        spans, categories = tuple(verdict.spans), tuple(verdict.categories)
    except (TypeError, ValueError):
        raise VerdictError from None
    if score is not None and not math.isfinite(score):
        raise VerdictError
    if not all(isinstance(each, str) for each in categories) or isinstance(verdict.categories, str):
        raise VerdictError
    if not all(isinstance(each, Span) and isinstance(each.start, int) and isinstance(each.end, int) for each in spans):
        raise VerdictError
    return replace(verdict, score=score, spans=spans, categories=categories)
