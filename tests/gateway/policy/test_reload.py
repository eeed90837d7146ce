"""A changed policy is taken up, and one that cannot be used ends nothing: the next change counts again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway import watch
from gateway.policy.compiled import load_policy
from gateway.policy.engine import PolicyEngine
from gateway.policy.moderators import Services
from gateway.policy.reload import watching
from gateway.policy.verdict import Context, Verdict
from gateway.telemetry import Telemetry
from gateway.triton import TritonClassifier

CONTEXT = Context("r", "t", "output")
HEAD = "version: first\nlists: [{name: fruit, file: fruit.txt}]\n"


class Reloads(Telemetry):
    """Also lists what was taken up; None for what could not be used."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str | None] = []

    def reloaded(self, version: str | None) -> None:
        """One more."""
        super().reloaded(version)
        self.seen.append(version)


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[tuple[Path, PolicyEngine, Reloads]]:
    """A policy that is looked at all the time."""
    path, reloads = tmp_path / "policy.yaml", Reloads()
    (tmp_path / "fruit.txt").write_text("kumquat\n", encoding="utf-8")
    path.write_text(HEAD, encoding="utf-8")
    engine = PolicyEngine(load_policy(path), reloads)
    services = Services(TritonClassifier("127.0.0.1:1"), reloads)
    async with watching(path, 0.02, engine, reloads, services):
        yield path, engine, reloads


async def until(holds: Callable[[], bool]) -> None:
    """Wait for it."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


def put(path: Path, text: str) -> None:
    """Another content, all at once."""
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


async def test_a_mended_list_of_a_refused_policy_is_taken_up(watched: tuple[Path, PolicyEngine, Reloads]) -> None:
    """Though the policy in force does not know that file: what counts is what the policy on disk names."""
    path, engine, reloads = watched
    put(path.with_name("nuts.txt"), "almond\texplode\n")
    put(path, HEAD.replace("first", "second").replace("fruit.txt", "nuts.txt"))
    await until(lambda: reloads.seen == [None])
    put(path.with_name("nuts.txt"), "almond\n")
    await until(lambda: len(reloads.seen) == 2)
    assert engine.policy.version.startswith("second@")
    assert engine.policy.rules("input", "").check("an almond")


async def test_a_changed_benign_text_is_looked_at(watched: tuple[Path, PolicyEngine, Reloads]) -> None:
    """What is ordinary decides which entries block."""
    path, engine, reloads = watched
    put(path.with_name("ours.txt"), "a nice day\n")
    put(path, HEAD + "lint: {benign: ours.txt, on_fail: flag}\n")
    await until(lambda: len(reloads.seen) == 1)
    assert engine.policy.demoted == 0
    put(path.with_name("ours.txt"), "a kumquat a day\n")
    await until(lambda: len(reloads.seen) == 2)
    assert engine.policy.demoted == 1


async def test_a_moderator_that_cannot_be_made_ends_no_reload(watched: tuple[Path, PolicyEngine, Reloads]) -> None:
    """It is refused, counted, and the next policy is taken up."""
    path, engine, reloads = watched
    put(path, HEAD + "moderators: [{name: a, kind: http, preset: openai, url: 'http://x:y'}]\n")
    await until(lambda: reloads.seen == [None])
    put(path, HEAD.replace("first", "third"))
    await until(lambda: len(reloads.seen) == 2)
    assert engine.policy.version.startswith("third@")


class Closing:
    """Own code that says when it is closed."""

    made: list[Closing]

    def __init__(self, options: dict[str, Any]) -> None:
        self.closed = False
        self.made.append(self)

    async def check(self, segment: str, context: Context) -> Verdict:
        """Allow."""
        return Verdict()

    async def close(self) -> None:
        """It was."""
        self.closed = True


async def test_what_is_the_same_stays_and_what_is_replaced_is_closed(
    watched: tuple[Path, PolicyEngine, Reloads],
) -> None:
    """A moderator outlives a reload that does not change it, breaker and all; one that is gone is closed with the last
    request that may ask it."""
    path, engine, reloads = watched
    Closing.made = []
    own = "moderators: [{name: a, kind: python, entry_point: '%s:Closing', options: {level: %d}}]\n"
    for number, level in enumerate((1, 1, 2), 1):
        put(path, HEAD.replace("first", f"v{number}") + own % (__name__, level))
        await until(lambda number=number: len(reloads.seen) == number)  # type: ignore[misc]
        if number == 2:
            guard = engine.output(CONTEXT)
    assert None not in reloads.seen
    first, second = Closing.made
    assert await guard.feed("Well! And") == "Well!"
    assert not first.closed
    guard.close()
    await until(lambda: first.closed)
    assert not second.closed
    await engine.close()
    assert second.closed


async def test_a_new_secret_is_taken_up(watched: tuple[Path, PolicyEngine, Reloads]) -> None:
    """Though the policy is the same, and says so."""
    path, engine, reloads = watched
    put(path.with_name("key"), "old")
    header = "headers: {k: {file: key}}"
    put(path, HEAD + f"moderators: [{{name: a, kind: http, preset: openai, url: 'http://x', {header}}}]\n")
    await until(lambda: len(reloads.seen) == 1)
    (old,) = engine.policy.moderators
    put(path.with_name("key"), "new")
    await until(lambda: len(reloads.seen) == 2)
    assert reloads.seen[0] == reloads.seen[1]
    (new,) = engine.policy.moderators
    assert (old.made_from[1], new.made_from[1]) == ({"k": "old"}, {"k": "new"})  # type: ignore[index]


async def test_nothing_ends_a_watch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A reload that raises is logged, and the next change is looked at as ever."""
    path, calls = tmp_path / "file", [0]

    async def failing() -> None:
        calls[0] += 1
        raise RuntimeError

    with caplog.at_level(logging.ERROR, "tidegate"):
        async with watch.watching(0.01, lambda: watch.stamps([path]), failing):
            for text in ("one", "and another"):
                seen = calls[0]
                path.write_text(text, encoding="utf-8")
                await until(lambda seen=seen: calls[0] > seen)  # type: ignore[misc]
    assert "a changed file could not be taken up" in caplog.text
