"""A moderator that is slow, many, or broken: a verdict comes all the same, in time, as configured."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from gateway.policy.guard import Guarded, Limits
from gateway.policy.verdict import Context, Span, Verdict

CONTEXT = Context("r", "t", "input")


class Scripted:
    """Does what the segment says: ``fail``, ``hang``, ``wait`` until released, or allows."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.released = asyncio.Event()

    async def check(self, segment: str, context: Context) -> Verdict:
        """As it says."""
        self.asked.append(segment)
        if segment.startswith("fail"):
            raise ValueError("MARKER inside")
        if segment == "hang":
            await asyncio.sleep(600)
        if segment == "wait":
            await self.released.wait()
        return Verdict("flag" if segment == "flag" else "allow")


class Odd:
    """Says whatever it was made with; raises it, if it is an exception."""

    def __init__(self, says: Any) -> None:
        self._says = says

    async def check(self, segment: str, context: Context) -> Verdict:
        """As it was made."""
        if isinstance(self._says, BaseException):
            raise self._says
        verdict: Verdict = self._says
        return verdict


class Counted:
    """Collects outcomes."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self.passed: list[str] = []
        self.is_open = [False]

    def checked(self, moderator: str, outcome: str, seconds: float) -> None:
        """One more."""
        self.outcomes.append(outcome)

    def let_through(self, moderator: str, outcome: str) -> None:
        """One more that passed unchecked."""
        self.passed.append(outcome)

    def breaker(self, moderator: str, is_open: bool) -> None:
        """It changed."""
        self.is_open.append(is_open)


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def guarded(**limits: object) -> tuple[Guarded, Scripted, Counted, Clock]:
    """A guard and all that it works with."""
    scripted, counted, clock = Scripted(), Counted(), Clock()
    return Guarded("m", scripted, Limits(**limits), counted, clock=clock), scripted, counted, clock  # type: ignore[arg-type]


async def test_a_verdict_passes_through() -> None:
    """And is counted by its action."""
    guard, _, counted, _ = guarded()
    assert (await guard.check("flag", CONTEXT)).action == "flag"
    assert (await guard.check("fine", CONTEXT)).action == "allow"
    assert counted.outcomes == ["flag", "allow"]


@pytest.mark.parametrize("on_error", ["block", "allow", "flag"])
async def test_a_failure_is_the_configured_verdict(on_error: str, caplog: pytest.LogCaptureFixture) -> None:
    """Blocked unless configured otherwise; the log names the moderator and the kind of error, never the text."""
    guard, _, counted, _ = guarded(on_error=on_error, deadline_seconds=0.05)
    with caplog.at_level(logging.DEBUG):
        assert await guard.check("fail MARKER", CONTEXT) == Verdict(on_error, error="failed")  # type: ignore[arg-type]
    assert await guard.check("hang", CONTEXT) == Verdict(on_error, error="deadline")  # type: ignore[arg-type]
    assert counted.outcomes == ["failed", "deadline"]
    assert counted.passed == ([] if on_error == "block" else ["failed", "deadline"])
    assert "MARKER" not in caplog.text + str([vars(record) for record in caplog.records])
    assert Limits().on_error == "block"


@pytest.mark.parametrize(
    "says",
    [
        None,
        "allow",
        Verdict("deny"),  # type: ignore[arg-type]
        Verdict([]),  # type: ignore[arg-type]
        Verdict("allow", score="high"),  # type: ignore[arg-type]
        Verdict("allow", score=float("nan")),
        Verdict("redact", spans=({"start": 0},)),  # type: ignore[arg-type]
        Verdict("redact", spans=(Span("0", 1, "a", "b", "redact"),)),  # type: ignore[arg-type]
        Verdict("redact", spans=3),  # type: ignore[arg-type]
        Verdict("block", categories="violence"),  # type: ignore[arg-type]
        Verdict("block", categories=(1,)),  # type: ignore[arg-type]
        Verdict("allow", error="mine"),
        asyncio.CancelledError(),
    ],
)
async def test_what_is_no_verdict_is_a_failure(says: Any) -> None:
    """So is a cancellation that nobody asked for."""
    counted = Counted()
    guard = Guarded("m", Odd(says), Limits(failures=2), counted)
    assert await guard.check("x", CONTEXT) == Verdict("block", error="failed")
    await guard.check("x", CONTEXT)
    assert (counted.outcomes, counted.is_open) == (["failed", "failed"], [False, False, True])


async def test_a_verdict_may_hold_lists() -> None:
    """As own code writes them; what goes on holds tuples."""
    span = Span(0, 1, "a", "b", "redact")
    guard = Guarded("m", Odd(Verdict("redact", [span], ["b"], 1)), Limits(), Counted())  # type: ignore[arg-type]
    assert await guard.check("x", CONTEXT) == Verdict("redact", (span,), ("b",), 1.0)


async def test_too_many_at_once() -> None:
    """Those that neither run nor may wait are answered at once; those that wait get their turn."""
    guard, scripted, counted, _ = guarded(concurrency=1, waiting=1)
    tasks = [asyncio.create_task(guard.check("wait", CONTEXT)) for _ in range(3)]
    while not (counted.outcomes and scripted.asked):
        await asyncio.sleep(0)
    assert counted.outcomes == ["overloaded"]
    assert scripted.asked == ["wait"]
    scripted.released.set()
    assert sorted(each.action for each in await asyncio.gather(*tasks)) == ["allow", "allow", "block"]


async def test_the_breaker() -> None:
    """Opens after failures in a row, is asked nothing while it is open, lets one through afterwards."""
    guard, scripted, counted, clock = guarded(failures=2, cool_down_seconds=10)
    for segment in ("fail", "fine", "fail", "fail", "fine"):
        await guard.check(segment, CONTEXT)
    assert counted.outcomes == ["failed", "allow", "failed", "failed", "open"]
    clock.now = 10.5
    await guard.check("fail", CONTEXT)
    await guard.check("fine", CONTEXT)
    assert counted.outcomes[5:] == ["failed", "open"]
    clock.now = 21.0
    await guard.check("fine", CONTEXT)
    await guard.check("fine", CONTEXT)
    assert counted.outcomes[7:] == ["allow", "allow"]
    assert len(scripted.asked) == 7
    assert counted.is_open == [False, False, True, False]


async def test_a_cancellation_is_no_failure() -> None:
    """A client that leaves cancels the check and opens no breaker."""
    guard, _, counted, _ = guarded(failures=1)
    task = asyncio.create_task(guard.check("wait", CONTEXT))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await guard.check("fine", CONTEXT)).action == "allow"
    assert counted.outcomes == ["allow"]
