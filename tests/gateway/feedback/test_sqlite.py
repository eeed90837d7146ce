"""Answers in a SQLite file: bounded, exactly once, in several processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.feedback import FeedbackError, open_rated
from gateway.feedback.rated import Given, Remembered
from gateway.feedback.sqlite_answers import SWEPT_EVERY, SqliteAnswers
from gateway.telemetry import Telemetry

ROOT = Path(__file__).resolve().parents[3]
CLAIMER = """
import sys
from pathlib import Path
from gateway.feedback.sqlite_answers import SqliteAnswers

store = SqliteAnswers(Path(sys.argv[1]), 600, 10_000)
print("ready", flush=True)
sys.stdin.readline()
print(sum(store.claim(number.to_bytes(16, "little")) not in ("claimed", "unknown") for number in range(200)))
"""


def key(number: int) -> bytes:
    """Of an answer."""
    return number.to_bytes(16, "little")


def answers(*numbers: int, version: str = "1") -> list[Remembered]:
    """To be written."""
    return [Remembered(key(number), "m", version) for number in numbers]


def test_processes_claim_each_answer_once(tmp_path: Path) -> None:
    """Three race for the same two hundred; together they get exactly two hundred."""
    store = SqliteAnswers(tmp_path, 600, 10_000)
    store.write(answers(*range(200)))
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, str(tmp_path)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    for each in racers:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in racers:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    assert sum(int(each.communicate(timeout=60)[0]) for each in racers) == 200
    store.close()


Step = tuple[str, int, float]
STEPS = st.lists(st.tuples(st.sampled_from(["write", "claim"]), st.integers(0, 3), st.sampled_from([0.0, 4.0])))


@given(STEPS)
@settings(max_examples=200, deadline=None)
def test_an_answer_is_claimed_once_whatever_happens(steps: list[Step]) -> None:
    """Against a model in five lines: written, written again, claimed, forgotten in any order."""
    now = 0.0
    model: dict[int, tuple[float, bool]] = {}
    store = SqliteAnswers(None, 10, 100, lambda: now)
    for action, number, wait in steps:
        now += wait
        ends, rated = model.get(number, (0.0, False))
        if action == "write":
            store.write(answers(number))
            model[number] = (now + 10, False) if ends <= now or not rated else (ends, True)
        else:
            wanted = "unknown" if ends <= now else "claimed" if rated else Given("m", "1")
            assert store.claim(key(number)) == wanted
            if wanted == Given("m", "1"):
                model[number] = (ends, True)
    store.close()


def test_there_is_a_bound_and_the_oldest_go(tmp_path: Path) -> None:
    """Swept as it is written; what came last is there."""
    now = 0.0
    store = SqliteAnswers(tmp_path, 600, 100, lambda: now)
    for number in range(SWEPT_EVERY * 4 + 1):
        now += 1
        store.write(answers(number))
    kept = [number for number in range(SWEPT_EVERY * 4 + 1) if store.claim(key(number)) != "unknown"]
    assert kept == list(range(SWEPT_EVERY * 4 + 1 - 100, SWEPT_EVERY * 4 + 1))
    store.close()


def test_the_file_outlives_a_restart_and_is_nobody_elses(tmp_path: Path) -> None:
    """What was remembered before can be rated after, with the version of then."""
    folder = tmp_path / "feedback"
    before = SqliteAnswers(folder, 600, 100)
    before.write(answers(1, version="3"))
    before.close()
    after = SqliteAnswers(folder, 600, 100)
    assert after.claim(key(1)) == Given("m", "3")
    after.close()
    assert folder.stat().st_mode & 0o077 == 0
    assert all(each.stat().st_mode & 0o077 == 0 for each in folder.iterdir())


def test_a_folder_that_cannot_be_used_ends_the_start(tmp_path: Path) -> None:
    """By the setting's name; and so does a file there that is no database."""
    (tmp_path / "file").touch()
    with pytest.raises(FeedbackError, match="TIDEGATE_FEEDBACK_DIRECTORY"):
        open_rated(Telemetry(), seconds=60, most=10, directory=tmp_path / "file")
    (tmp_path / "answers.sqlite").write_bytes(b"no database" * 99)
    with pytest.raises(FeedbackError, match="TIDEGATE_FEEDBACK_DIRECTORY"):
        open_rated(Telemetry(), seconds=60, most=10, directory=tmp_path)
