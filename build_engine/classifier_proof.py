"""A classifier's precision, fitted and judged: how often its label is that of fp32, on text that fitted nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from build_engine import manifest as manifests
from build_engine import texts
from build_engine.classifier_recipe import PRECISIONS
from build_engine.emit_encoder import MODEL, EncoderPlan, Read, emit
from build_engine.encoder import EncoderConfig, projections
from build_engine.errors import AccuracyError, TextError, UnsupportedModel
from build_engine.source import TokenizerFiles

AGREEMENT = 0.99
LEAST_TEXTS, MOST_TEXTS, BATCH = 100, 2000, 16
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Evidence:
    """The user's texts. ``calibration`` is there when something is to be fitted."""

    held_out: list[str]
    held_out_file: Path
    calibration: list[str]
    calibration_file: Path | None


@dataclass(frozen=True)
class Bench:
    """A classifier on trial: its tensors, a tokenizer that truncates and pads, the type of what is not int8, and where
    to find an empty folder."""

    config: EncoderConfig
    read: Read
    tokenizer: Tokenizer
    base: type[np.floating[Any]]
    folder: Callable[[], Path]

    @property
    def projections(self) -> list[str]:
        """The weight of every matrix product of the layers."""
        return [name for layer in range(self.config.layers) for name in projections(self.config, layer).values()]


def read_evidence(held_out: Path, calibration: Path | None, tokenizer: TokenizerFiles) -> Evidence:
    """Read both files. Raises :class:`TextError`."""
    judging = texts.read_texts(held_out, tokenizer)[:MOST_TEXTS]
    if len(judging) < LEAST_TEXTS:
        raise TextError(f"{held_out} has {len(judging)} texts; at least {LEAST_TEXTS} are needed to measure agreement")
    fitting = texts.read_texts(calibration, tokenizer)[:MOST_TEXTS] if calibration is not None else []
    texts.refuse_overlap(fitting, judging)
    return Evidence(judging, held_out, fitting, calibration)


def prove(bench: Bench, evidence: Evidence, asked: str, *, strict: bool) -> tuple[EncoderPlan, dict[str, Any]]:
    """The first plan from ``asked`` on down whose labels agree, and the content of ``accuracy.json``. Raises
    :class:`AccuracyError` when none does; with ``strict`` also rather than take another precision."""
    reference, reference_milliseconds = scores_of(bench, EncoderPlan(), evidence.held_out)
    attempts: list[dict[str, Any]] = []
    began = time.monotonic()
    for precision, plan in plans(bench, evidence.calibration, asked):
        found = _compared(bench, plan, evidence.held_out, reference)
        attempts.append({
            "precision": precision,
            "gate": {"label_agreement": AGREEMENT},
            **found,
            "reference_batch_ms": reference_milliseconds,
            "seconds": round(time.monotonic() - began, 3),
            "passed": not found["failure"],
        })  # fmt: skip
        began = time.monotonic()
        if not found["failure"]:
            return plan, _record(asked, precision, attempts, evidence)
        if strict:
            break
    tried = "; ".join(f"{each['precision']}: {each['failure']}" for each in attempts)
    raise AccuracyError(f"no classifier agrees with fp32 on {AGREEMENT:.0%} of {evidence.held_out_file}: {tried}")


def _compared(bench: Bench, plan: EncoderPlan, held_out: list[str], reference: Scores) -> dict[str, Any]:
    """What an attempt found: ``failure`` says why it does not pass, also when it cannot be written or says what is no
    number; the figures are None then."""
    try:
        scores, milliseconds = scores_of(bench, plan, held_out)
    except (AccuracyError, UnsupportedModel) as error:
        figures = dict.fromkeys(("label_agreement", "largest_score_difference", "batch_ms"))
        return {**figures, "failure": str(error)}
    agreement = float((scores.argmax(axis=1) == reference.argmax(axis=1)).mean())
    return {
        "label_agreement": agreement,
        "largest_score_difference": float(np.abs(scores - reference).max()),
        "batch_ms": milliseconds,
        "failure": "" if agreement >= AGREEMENT else f"{agreement:.2%} of the labels agree, at least {AGREEMENT:.0%}",
    }


def plans(bench: Bench, calibration: list[str], asked: str) -> Iterator[tuple[str, EncoderPlan]]:
    """What is tried, in order, from ``asked`` on. int8 is fitted to the texts of ``calibration``."""
    for precision in PRECISIONS[PRECISIONS.index(asked) :]:
        if precision == "int8":
            yield precision, EncoderPlan(bench.base, activations=observed(bench, calibration))
        elif precision == "int8-weight-only":
            yield precision, EncoderPlan(bench.base, weight_only=frozenset(bench.projections))
        else:
            yield precision, EncoderPlan(np.float16 if precision == "fp16" else np.float32)


def observed(bench: Bench, content: list[str]) -> dict[str, float]:
    """The largest magnitude that enters each projection over the texts."""
    folder = bench.folder()
    emit(bench.config, bench.read, EncoderPlan(observe=True), folder)
    session = open_session(folder)
    names = bench.projections
    largest = np.zeros(len(names))
    for feed in batches(bench.tokenizer, content):
        largest = np.maximum(largest, np.array(session.run([f"largest:{name}" for name in names], feed)))
    return dict(zip(names, largest.tolist(), strict=True))


def scores_of(bench: Bench, plan: EncoderPlan, content: list[str]) -> tuple[Scores, float]:
    """``[texts, labels]`` float32 by the graph of ``plan`` on ONNX Runtime, and the median milliseconds of a batch of
    :data:`BATCH`. Raises :class:`AccuracyError` when a score is not a number."""
    folder = bench.folder()
    emit(bench.config, bench.read, plan, folder)
    session = open_session(folder)
    rows, seconds = [], []
    for feed in batches(bench.tokenizer, content):
        began = time.perf_counter()
        rows.append(session.run(["scores"], feed)[0])
        seconds.append(time.perf_counter() - began)
    scores: Scores = np.concatenate(rows)
    if not np.isfinite(scores).all():
        raise AccuracyError("the classifier's scores are infinite or not a number")
    return scores, 1000 * statistics.median(seconds)


def open_session(folder: Path) -> onnxruntime.InferenceSession:
    """The graph in ``folder`` on the CPU."""
    return onnxruntime.InferenceSession(str(folder / MODEL), providers=["CPUExecutionProvider"])


def batches(tokenizer: Tokenizer, content: list[str]) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Feeds of :data:`BATCH` texts; ``tokenizer`` truncates and pads."""
    for first in range(0, len(content), BATCH):
        encoded = tokenizer.encode_batch(content[first : first + BATCH])
        yield {
            "input_ids": np.array([each.ids for each in encoded], np.int64),
            "mask": np.array([each.attention_mask for each in encoded], bool),
        }


def _record(asked: str, precision: str, attempts: list[dict[str, Any]], evidence: Evidence) -> dict[str, Any]:
    fitted = evidence.calibration_file
    return {
        "asked": asked,
        "precision": precision,
        "passed": True,
        "gate": {"label_agreement": AGREEMENT},
        "attempts": attempts,
        "held_out": _file(evidence.held_out_file) | {"texts": len(evidence.held_out)},
        "calibration": None if fitted is None else _file(fitted) | {"texts": len(evidence.calibration)},
    }


def _file(path: Path) -> dict[str, Any]:
    return {"file": path.name, "sha256": manifests.sha256_of(path)}
