"""The accuracy gate: what is tried, in which order, and what is written down about it (``accuracy.json``).

A plan is chosen on the calibration text and judged on the held-out text, which chose nothing. What misses the gate is
recorded and the next rung is tried, also when it cannot be written or says what is no number, down to another
precision; ``--strict`` refuses to leave the precision that was asked for.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from build_engine import manifest as manifests
from build_engine import texts
from build_engine.backend.engine import Engine, EngineError
from build_engine.errors import AccuracyError, UnsupportedModel
from build_engine.source import TokenizerFiles
from build_engine.verify import GATES, Agreement, Gate, TokenIds, compare

WINDOW_TOKENS = 129  # 69 predictions each: a chunk is measured where it ends
HELD_OUT_WINDOWS, CALIBRATION_WINDOWS = 64, 32
ACCURACY = "accuracy.json"


@dataclass(frozen=True)
class Evidence:
    """The user's text, as token windows int64 ``[n, WINDOW_TOKENS]``. ``calibration`` is there when something is to be
    calibrated."""

    held_out_file: Path
    held_out: TokenIds
    calibration_file: Path | None
    calibration: TokenIds | None


@dataclass(frozen=True)
class Candidate:
    """Something to try: ``open`` opens an engine of ``precision``; ``kept`` are projections held back from int8."""

    what: str
    precision: str
    open: Callable[[], AbstractContextManager[Engine]]
    kept: tuple[str, ...] = ()


def read_evidence(held_out: Path, calibration: Path | None, tokenizer: TokenizerFiles) -> Evidence:
    """Read both files. Raises :class:`build_engine.errors.TextError`."""
    judging = texts.read_texts(held_out, tokenizer)
    windows = texts.windows(held_out, judging, tokenizer, WINDOW_TOKENS, HELD_OUT_WINDOWS)
    if calibration is None:
        return Evidence(held_out, windows, None, None)
    choosing = texts.read_texts(calibration, tokenizer)
    texts.refuse_overlap(choosing, judging)
    fitting = texts.windows(calibration, choosing, tokenizer, WINDOW_TOKENS, CALIBRATION_WINDOWS)
    return Evidence(held_out, windows, calibration, fitting)


def prove(
    candidates: Iterable[Candidate],
    reference: Engine,
    evidence: Evidence,
    *,
    asked: str,
    strict: bool = False,
    quiet: bool = False,
) -> tuple[Candidate, dict[str, Any]]:
    """The first candidate that passes its gate, and the content of ``accuracy.json``. Raises :class:`AccuracyError`
    when none does; with ``strict`` also rather than take another precision than ``asked``."""
    attempts: list[dict[str, Any]] = []
    for candidate in candidates:
        if strict and candidate.precision != asked:
            break
        gate, began = GATES[candidate.precision], time.monotonic()
        try:
            with candidate.open() as engine:
                agreement, on = _chosen(candidate, engine, reference, evidence, quiet)
            failures = agreement.failures(gate)
        except (EngineError, UnsupportedModel) as error:
            agreement, on, failures = None, "no", [" ".join(str(error).split())]
        attempts.append({
            "what": candidate.what,
            "precision": candidate.precision,
            "kept": list(candidate.kept),
            "text": on,
            "gate": vars(gate),
            "agreement": agreement and agreement.as_json(),
            "failures": failures,
            "seconds": round(time.monotonic() - began, 3),
        })  # fmt: skip
        if not failures and on == "held-out":
            return candidate, _record(asked, candidate, attempts, evidence, gate)
        if not quiet:
            sys.stderr.write(f"{candidate.what}: {'; '.join(failures)}\n")
    tried = "; ".join(f"{each['what']}: {', '.join(each['failures'])}" for each in attempts)
    tried = tried or f"in {asked} nothing could be left that would pass"
    raise AccuracyError(f"no engine passes its gate on {evidence.held_out_file}: {tried}")


def _chosen(
    candidate: Candidate, engine: Engine, reference: Engine, evidence: Evidence, quiet: bool
) -> tuple[Agreement, str]:
    """How the candidate does on the calibration text if it fails there already, else on the held-out text."""
    if candidate.precision == "int8" and evidence.calibration is not None:
        first = _compared(candidate, engine, reference, evidence.calibration, quiet)
        if first.failures(GATES["int8"]):
            return first, "calibration"
    return _compared(candidate, engine, reference, evidence.held_out, quiet), "held-out"


def _compared(candidate: Candidate, engine: Engine, reference: Engine, windows: TokenIds, quiet: bool) -> Agreement:
    with tqdm(desc=f"verify {candidate.what}", unit=" steps", disable=quiet) as bar:
        return compare(reference, engine, windows, bar.update)


def _record(
    asked: str, candidate: Candidate, attempts: list[dict[str, Any]], evidence: Evidence, gate: Gate
) -> dict[str, Any]:
    agreement = attempts[-1]["agreement"]
    calibration = evidence.calibration_file
    return {
        "asked": asked,
        "precision": candidate.precision,
        "kept": list(candidate.kept),
        "passed": True,
        "gate": vars(gate),
        "agreement": agreement,
        "attempts": attempts,
        "held_out": _file(evidence.held_out_file) | {"positions": agreement["positions"]},
        "calibration": None if calibration is None else _file(calibration),
    }


def _file(path: Path) -> dict[str, Any]:
    return {"file": path.name, "sha256": manifests.sha256_of(path)}
