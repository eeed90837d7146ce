"""A decoder's ONNX graph in the precision that was asked for, proven on the user's text before anything is published.

Every variant is emitted, run through the slot engine on ONNX Runtime and compared with fp32; the one that passes is
emitted again in its real size. A TensorRT engine is compiled from the very graph that was judged.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from build_engine.accuracy import ACCURACY, Evidence, read_evidence
from build_engine.calibrate import Smoothing, observe, sensitivities, smooth
from build_engine.decoder import DecoderConfig
from build_engine.emit_onnx import PRECISIONS, OnnxEmitter, write
from build_engine.emit_onnx_int8 import Int8Emitter, Int8Plan
from build_engine.precision import ladder
from build_engine.smooth import Read, sites, smoothed
from build_engine.trial import Request, judge
from build_engine.verify import GATES

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

    def facts(self, config: DecoderConfig, sequence_length: int, sequences: int) -> dict[str, Any]:
        """Of the slot engine on ONNX Runtime."""
        facts = slot_facts(config, self.base, sequence_length, sequences, prefill_tokens=sequence_length)
        return facts | {"kind": "onnxruntime"}


def emit_proven(request: Request, base: str, sequence_length: int, folder: Path) -> None:
    """Write the graph that passes, and ``accuracy.json``, into ``folder``. ``base`` is the type of what is not int8:
    fp32 for a CPU, fp16 for a GPU. Raises :class:`build_engine.errors.AccuracyError` when none passes."""
    source = request.source
    evidence = read_evidence(request.held_out, request.calibration, source.tokenizer)
    measured: dict[str, Any] = {}
    reference = unproven(source.config, "fp32", "fp32", source.finite)
    variant, accuracy = judge(request, evidence, reference, _variants(request, base, evidence, measured))
    variant.emit(source.config, sequence_length, folder)
    layers = _layers(measured.get("smoothing"), measured.get("sensitivity"), source.config, variant.kept)
    record = accuracy | {"layers": layers if variant.precision == "int8" else []}
    record |= {"calibration_seconds": measured.get("seconds")}
    (folder / ACCURACY).write_text(json.dumps(record, indent=1) + "\n")


def unproven(config: DecoderConfig, precision: str, base: str, read: Read) -> Variant:
    """A precision that needs no calibration, as it is."""
    if precision == "int8-weight-only":
        return Variant("int8 weights only", precision, base, _weights_only(config), read)
    return Variant(precision, precision, precision, Int8Plan(), read)


def _weights_only(config: DecoderConfig) -> Int8Plan:
    return Int8Plan(weight_only=frozenset(reader for site in sites(config) for reader in site.readers))


def _variants(request: Request, base: str, evidence: Evidence, measured: dict[str, Any]) -> Iterator[Variant]:
    """What is tried, in order. Calibration runs when the first int8 variant is asked for; what it measured is left in
    ``measured`` for the report."""
    source = request.source
    plain = partial(unproven, source.config, base=base, read=source.finite)
    if request.precision == "fp32":
        yield plain("fp32")
        return
    if request.precision == "int8":
        began = time.monotonic()
        smoothing, sensitivity = _calibrated(request, evidence)
        seconds = round(time.monotonic() - began, 3)
        measured |= {"smoothing": smoothing, "sensitivity": sensitivity, "seconds": seconds}
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
    with tqdm(total=len(windows), desc="calibrate", unit=" windows", disable=request.quiet) as bar:
        observed = observe(source.config, source.finite, windows, work_dir, bar.update)
    smoothing = smooth(source.config, source.finite, observed)
    read = smoothed(source.config, source.finite, smoothing.scales)
    few = windows[:: max(1, len(windows) // SENSITIVITY_WINDOWS)][:SENSITIVITY_WINDOWS, :-1]
    every = sites(source.config)
    with tqdm(total=len(every), desc="sensitivity", unit=" activations", disable=request.quiet) as bar:
        cost = sensitivities(source.config, read, smoothing.inputs, few, work_dir, on_site=bar.update)
    return smoothing, cost


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
