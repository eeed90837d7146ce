"""OpenVINO's graph in the precision that was asked for, proven on the user's text before anything is published.

int8 weights multiply activations that the CPU plug-in quantises at run time, or leaves alone (``int8-weight-only``):
the same graph, and a number in ``engine.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openvino

from build_engine.accuracy import ACCURACY, read_evidence
from build_engine.decoder import DecoderConfig, FloatArray
from build_engine.emit_openvino import emit
from build_engine.errors import BuildError
from build_engine.recipe import BLOCK_SIZE
from build_engine.trial import Request, judge

ORDER = ("int8", "int8-weight-only", "fp32")
# Features that share a scale. 64 is a tenth faster in prefill and no faster in decode, and misses the gate of int8 on
# SmolLM2 (top-1 93.8 % against 95.2 %).
ACTIVATION_GROUP = 32


@dataclass(frozen=True)
class OpenVinoVariant:
    """One way of storing and running the decoder."""

    precision: str
    read: Callable[[str], FloatArray]
    kept: tuple[str, ...] = ()

    @property
    def what(self) -> str:
        """For a person."""
        return "int8 weights only" if self.precision == "int8-weight-only" else self.precision

    def emit(self, config: DecoderConfig, sequence_length: int, folder: Path) -> None:
        """Write the graph into ``folder``; its paged cache knows no ``sequence_length``."""
        model = emit(config, self.read, "fp32" if self.precision == "fp32" else "int8")
        try:
            openvino.save_model(model, folder / "openvino.xml", compress_to_fp16=False)
        except RuntimeError as error:  # OpenVINO's word for a full disk
            raise BuildError(f"cannot write the engine into {folder}, is the disk full? {error}") from None

    def facts(self, config: DecoderConfig, sequence_length: int, sequences: int) -> dict[str, Any]:
        """Of the paged engine, which takes as many ``sequences`` as there is room for."""
        return facts(config, sequence_length, self.precision)


def facts(config: DecoderConfig, context_length: int, precision: str) -> dict[str, Any]:
    """What the paged engine has to know about a graph (``engine.json``)."""
    return {
        "kind": "openvino",
        "layers": config.layers,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "context_length": context_length,
        "precision": precision,
        "kv_cache_precision": "f32" if precision == "fp32" else "u8",
        "block_size": BLOCK_SIZE,
        "activation_group": ACTIVATION_GROUP if precision == "int8" else 0,
    }


def emit_proven(request: Request, folder: Path) -> None:
    """Write the graph that passes, and ``accuracy.json``, into ``folder``. Raises
    :class:`build_engine.errors.AccuracyError` when none does."""
    source = request.source
    evidence = read_evidence(request.held_out, request.calibration, source.tokenizer)
    variant, accuracy = judge(request, evidence, OpenVinoVariant("fp32", source.finite), _variants(request))
    variant.emit(source.config, source.config.context_length, folder)
    (folder / ACCURACY).write_text(json.dumps(accuracy, indent=1) + "\n")


def _variants(request: Request) -> Iterator[OpenVinoVariant]:
    for precision in ORDER[ORDER.index(request.precision) :]:
        yield OpenVinoVariant(precision, request.source.finite)
