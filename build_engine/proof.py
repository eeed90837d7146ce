"""A decoder's ONNX graph in the precision that was asked for, proven on the user's text before anything is published.

Every variant is emitted, run through the slot engine on ONNX Runtime and compared with fp32; the one that passes is
emitted again in its real size. A TensorRT engine is compiled from the very graph that was judged.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from build_engine.accuracy import ACCURACY, WINDOW_TOKENS, Candidate, Evidence, prove, read_evidence
from build_engine.backend.engine import Engine
from build_engine.backend.engines import open_engine
from build_engine.calibrate import Smoothing, observe, sensitivities, smooth
from build_engine.decoder import DecoderConfig
from build_engine.emit_onnx import PRECISIONS, OnnxEmitter, write
from build_engine.emit_onnx_int8 import Int8Emitter, Int8Plan
from build_engine.precision import ladder
from build_engine.smooth import Read, sites, smoothed
from build_engine.source import Source
from build_engine.verify import GATES

JUDGED_AT_ONCE = 16
SENSITIVITY_WINDOWS = 4


@dataclass(frozen=True)
class Variant:
    """One way of storing the decoder. ``base`` is the type of everything that is not int8."""

    what: str
    precision: str
    base: str
    plan: Int8Plan
    read: Read
    kept: tuple[str, ...] = ()

    def emit(self, config: DecoderConfig, sequence_length: int, folder: Path) -> None:
        """Write the graph for slots of ``sequence_length`` tokens into ``folder``."""
        shape = (config, self.read, PRECISIONS[self.base], sequence_length)
        quantised = self.precision.startswith("int8")
        write(config, partial(Int8Emitter, self.plan, *shape) if quantised else partial(OnnxEmitter, *shape), folder)


@dataclass(frozen=True)
class Request:
    """What is to be proven. ``base`` is fp32 for a CPU, fp16 for a GPU."""

    source: Source
    precision: str
    base: str
    held_out: Path
    calibration: Path | None
    strict: bool
    quiet: bool
    work_dir: Path


def emit_proven(request: Request, sequence_length: int, folder: Path) -> None:
    """Write the graph that passes, and ``accuracy.json``, into ``folder``. Raises
    :class:`build_engine.errors.AccuracyError` when none does."""
    source = request.source
    evidence = read_evidence(request.held_out, request.calibration, source.tokenizer)
    tried: dict[str, Variant] = {}
    measured: dict[str, Any] = {}

    def candidates() -> Iterator[Candidate]:
        for variant in _variants(request, evidence, measured):
            tried[variant.what] = variant
            yield Candidate(variant.what, variant.precision, partial(_opened, request, variant), variant.kept)

    reference = unproven(source.config, "fp32", "fp32", source.finite)
    with _opened(request, reference) as engine:
        winner, accuracy = prove(
            candidates(), engine, evidence, asked=request.precision, strict=request.strict, quiet=request.quiet
        )
    variant = tried[winner.what]
    variant.emit(source.config, sequence_length, folder)
    layers = _layers(measured.get("smoothing"), measured.get("sensitivity"), source.config, winner.kept)
    record = accuracy | {"layers": layers if winner.precision == "int8" else []}
    (folder / ACCURACY).write_text(json.dumps(record, indent=1) + "\n")


def unproven(config: DecoderConfig, precision: str, base: str, read: Read) -> Variant:
    """A precision that needs no calibration, as it is."""
    if precision == "int8-weight-only":
        return Variant("int8 weights only", precision, base, _weights_only(config), read)
    return Variant(precision, precision, precision, Int8Plan(), read)


def _weights_only(config: DecoderConfig) -> Int8Plan:
    return Int8Plan(weight_only=frozenset(reader for site in sites(config) for reader in site.readers))


def _variants(request: Request, evidence: Evidence, measured: dict[str, Any]) -> Iterator[Variant]:
    """What is tried, in order. Calibration runs when the first int8 variant is asked for; what it measured is left in
    ``measured`` for the report."""
    source, base = request.source, request.base
    plain = partial(unproven, source.config, base=base, read=source.finite)
    if request.precision == "fp32":
        yield plain("fp32")
        return
    if request.precision == "int8":
        smoothing, sensitivity = _calibrated(request, evidence)
        measured |= {"smoothing": smoothing, "sensitivity": sensitivity}
        read = smoothed(source.config, source.finite, smoothing.scales)
        for rung in ladder(source.config, smoothing, sensitivity, GATES["int8"].kl):
            yield Variant(rung.what, rung.precision, base, rung.plan, read, rung.kept)
    if request.precision.startswith("int8"):
        yield plain("int8-weight-only")
    yield plain("fp16")


def _calibrated(request: Request, evidence: Evidence) -> tuple[Smoothing, dict[str, float]]:
    """The smoothing of every activation, and what rounding each of them costs."""
    source, windows = request.source, evidence.calibration
    assert windows is not None, "int8 comes with calibration text"  # noqa: S101 - checked with the recipe
    work_dir = request.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(windows), desc="calibrate", unit=" windows", disable=request.quiet) as bar:
        observed = observe(source.config, source.finite, windows, work_dir, bar.update)
    smoothing = smooth(source.config, source.finite, observed)
    read = smoothed(source.config, source.finite, smoothing.scales)
    few = windows[:: max(1, len(windows) // SENSITIVITY_WINDOWS)][:SENSITIVITY_WINDOWS, :-1]
    every = sites(source.config)
    with tqdm(total=len(every), desc="sensitivity", unit=" activations", disable=request.quiet) as bar:
        cost = sensitivities(source.config, read, smoothing.inputs, few, work_dir, on_site=bar.update)
    return smoothing, cost


@contextmanager
def _opened(request: Request, variant: Variant) -> Iterator[Engine]:
    """The variant in the slot engine, in a folder that is gone afterwards."""
    config = request.source.config
    request.work_dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="judged-", suffix=f".{os.getpid()}.part", dir=request.work_dir))
    try:
        (folder / "engine").mkdir()
        variant.emit(config, WINDOW_TOKENS, folder / "engine")
        facts = slot_facts(config, variant.base, WINDOW_TOKENS, JUDGED_AT_ONCE, prefill_tokens=WINDOW_TOKENS)
        (folder / "engine" / "engine.json").write_text(json.dumps(facts | {"kind": "onnxruntime"}))
        yield open_engine(
            folder,
            threads=os.cpu_count() or 1,
            cache_tokens=WINDOW_TOKENS * JUDGED_AT_ONCE,
            step_tokens=WINDOW_TOKENS,
            max_sequences=JUDGED_AT_ONCE,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def slot_facts(
    config: DecoderConfig, base: str, sequence_length: int, slots: int, *, prefill_tokens: int, prefill_batch: int = 4
) -> dict[str, Any]:
    """What the slot engine has to know about a graph (``engine.json``), all but its kind."""
    return {
        "layers": config.layers,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "context_length": sequence_length,
        "kv_cache_precision": base,
        "slots": slots,
        "prefill_tokens": min(prefill_tokens, sequence_length),
        "prefill_batch": min(prefill_batch, slots),
        "builder": {},
    }


def _layers(
    smoothing: Smoothing | None, sensitivity: dict[str, float] | None, config: DecoderConfig, kept: tuple[str, ...]
) -> list[dict[str, Any]]:
    """For the report: each projection's own error in int8, and the divergence its activation costs the model."""
    if smoothing is None or sensitivity is None:
        return []
    return [
        {
            "name": name,
            "error": smoothing.errors[name],
            "kl": sensitivity[site.name],
            "alpha": smoothing.alphas[site.name],
            "kept": name in kept,
        }
        for site in sites(config)
        for name in site.readers
    ]
