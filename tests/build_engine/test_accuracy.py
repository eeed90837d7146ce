"""The gate's order: chosen on one text, judged on another, recorded, and refused where nothing is good enough."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from build_engine.accuracy import Candidate, Evidence, prove
from build_engine.errors import AccuracyError, UnsupportedModel

from .test_verify import VOCABULARY, TableEngine

REFERENCE = TableEngine(0.0)


def evidence(tmp_path: Path) -> Evidence:
    """Two files and windows of them."""
    files = [tmp_path / name for name in ("held_out.jsonl", "calibration.jsonl")]
    for file in files:
        file.write_text(file.name)
    held_out, calibration = (np.random.default_rng(seed).integers(0, VOCABULARY, (8, 9)) for seed in (1, 2))
    return Evidence(files[0], held_out, files[1], calibration)


class Tried:
    """Candidates that differ by noise, and which of them were opened and closed."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.closed: list[str] = []

    def candidate(self, what: str, precision: str, noise: float) -> Candidate:
        @contextlib.contextmanager
        def opened() -> Iterator[TableEngine]:
            self.opened.append(what)
            yield TableEngine(noise)
            self.closed.append(what)

        return Candidate(what, precision, opened, kept=("some.weight",))


def test_the_first_that_passes_is_taken_and_the_others_are_recorded(tmp_path: Path) -> None:
    """What fails on the calibration text never sees the held-out one; nothing behind the winner is tried."""
    tried = Tried()
    noises = [("a", 3.0), ("b", 1.0), ("c", 0.001), ("d", 0.0)]
    winner, record = prove(
        [tried.candidate(what, "int8", noise) for what, noise in noises],
        REFERENCE, evidence(tmp_path), asked="int8", quiet=True,
    )  # fmt: skip
    assert winner.what == "c"
    assert tried.opened == tried.closed == ["a", "b", "c"]
    assert [(each["what"], each["text"], bool(each["failures"])) for each in record["attempts"]] == [
        ("a", "calibration", True), ("b", "calibration", True), ("c", "held-out", False),
    ]  # fmt: skip
    assert record["passed"]
    assert record["held_out"]["file"] == "held_out.jsonl"
    assert len(record["calibration"]["sha256"]) == 64
    assert record["agreement"] == record["attempts"][-1]["agreement"]


def test_another_precision_is_a_recorded_fall_back(tmp_path: Path) -> None:
    """Unless --strict, which refuses and says what was tried and by how much it missed."""
    tried = Tried()
    candidates = [tried.candidate("int8 throughout", "int8", 3.0), tried.candidate("fp16", "fp16", 0.0)]
    winner, record = prove(candidates, REFERENCE, evidence(tmp_path), asked="int8", quiet=True)
    assert (winner.precision, record["asked"], record["precision"]) == ("fp16", "int8", "fp16")
    with pytest.raises(AccuracyError, match=r"int8 throughout: perplexity .*at most 1\.01x") as refused:
        prove(candidates, REFERENCE, evidence(tmp_path), asked="int8", strict=True, quiet=True)
    assert "held_out.jsonl" in str(refused.value)
    assert tried.opened.count("fp16") == 1


def test_a_candidate_that_fails_is_recorded_and_the_next_is_tried(tmp_path: Path) -> None:
    """One that says what is no number, and one that cannot be written at all."""
    tried = Tried()

    @contextlib.contextmanager
    def unwritable() -> Iterator[TableEngine]:
        raise UnsupportedModel("tensor x reaches 7e+04")
        yield REFERENCE

    candidates = [
        tried.candidate("nan", "int8", float("nan")),
        Candidate("too large", "int8-weight-only", unwritable),
        tried.candidate("fp16", "fp16", 0.0),
    ]
    winner, record = prove(candidates, REFERENCE, evidence(tmp_path), asked="int8", quiet=True)
    assert winner.what == "fp16"
    assert [(each["agreement"] is None, each["failures"]) for each in record["attempts"]] == [
        (True, ["the engine's logits are infinite or not a number"]),
        (True, ["tensor x reaches 7e+04"]),
        (False, []),
    ]
    assert not REFERENCE.open_sequences
    with pytest.raises(AccuracyError, match="nan: the engine's logits are infinite"):
        prove(candidates, REFERENCE, evidence(tmp_path), asked="int8", strict=True, quiet=True)


def test_nothing_good_enough_is_refused(tmp_path: Path) -> None:
    """Also when every precision was tried."""
    with pytest.raises(AccuracyError, match="no engine passes"):
        prove([Tried().candidate("fp16", "fp16", 2.0)], REFERENCE, evidence(tmp_path), asked="fp16", quiet=True)
