"""A policy built in another process is the same policy; what goes wrong there is said here."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from gateway.policy.aside import load_aside
from gateway.policy.compiled import load_policy
from gateway.policy.errors import PolicyError
from gateway.policy.moderators import Services
from gateway.policy.rules import RuleStream
from gateway.telemetry import Telemetry
from gateway.triton import TritonClassifier

POLICY = """
version: aside
lists:
  - {name: fruit, file: fruit.txt, action: redact, category: food}
  - {name: loud, words: [bad word, 词语], action: block, match: substring, folds: {repeat: 0}}
allow: {words: [durian street]}
patterns: [{use: bank_card, action: redact}, {name: ticket, pattern: 'TCK-[0-9]{6}', action: flag}]
moderators: [{name: own, kind: python, entry_point: "tests.gateway.policy.judges:lenient"}]
tenants: {lab: {actions: {fruit: flag, loud: allow}}}
"""
TEXTS = (
    "a k u m q u a t",
    "ＤＵＲＩＡＮ, not Durian Street",
    "bad  word",
    "词*语",
    "TCK-123456",
    "4111 1111 1111 1111",
    "fine",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The policy above."""
    (tmp_path / "fruit.txt").write_text("kumquat\ndurian\tflag\n", encoding="utf-8")
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY, encoding="utf-8")
    return file


async def test_it_is_the_same_policy(path: Path) -> None:
    """Version, verdicts of everybody, streams, moderators."""
    here = load_policy(path)
    there = await load_aside(path, Services(TritonClassifier("127.0.0.1:1"), Telemetry()))
    assert (there.version, there.demoted, [each.name for each in there.moderators]) == (here.version, 0, ["own"])
    for tenant in ("", "lab"):
        for text in TEXTS:
            one, other = (each.rules("output", tenant) for each in (here, there))
            assert one.check(text) == other.check(text)
            first, second = RuleStream(one), RuleStream(other)
            assert [first.feed(each) for each in text] == [second.feed(each) for each in text]
            assert first.finish() == second.finish()
    assert here.rules("output", "").check(TEXTS[0])


async def test_the_first_check_makes_nothing(path: Path) -> None:
    """However its lists fold: what takes long has been made in the other process."""
    path.write_text(POLICY.replace("repeat: 0", "repeat: 7, accents: false, width: false"), encoding="utf-8")
    policy = await load_aside(path)
    rules = policy.rules("output", "")
    began = time.thread_time()
    assert [each.source for each in rules.check("a bad  word, 词*语")] == ["loud", "loud"]
    assert time.thread_time() - began < 0.1


async def test_what_is_wrong_is_said_here(path: Path) -> None:
    """The same message as from :func:`load_policy`."""
    path.write_text(POLICY.replace("action: block", "action: explode"), encoding="utf-8")
    with pytest.raises(PolicyError) as here:
        load_policy(path)
    with pytest.raises(PolicyError) as there:
        await load_aside(path)
    assert str(here.value) == str(there.value)


def reader_of(pipe: Path) -> int | None:
    """A way to write to whoever reads the pipe; None if nobody does."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


async def test_the_process_ends_with_the_gateway(tmp_path: Path) -> None:
    """A reload that is given up leaves nobody behind, however long its files take to read."""
    pipe = tmp_path / "policy.yaml"
    os.mkfifo(pipe)
    task = asyncio.create_task(load_aside(pipe))
    async with asyncio.timeout(30):
        while (descriptor := reader_of(pipe)) is None:
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    os.close(descriptor)
    assert reader_of(pipe) is None
