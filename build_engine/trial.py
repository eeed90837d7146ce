"""Ways of storing a decoder on trial: each is written, opened as it will be served, and compared with fp32.

It does not know what a graph is: :mod:`build_engine.proof` has the ONNX ones, :mod:`build_engine.openvino_proof`
OpenVINO's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from build_engine import work
from build_engine.accuracy import WINDOW_TOKENS, Candidate, Evidence, prove
from build_engine.backend.engine import Engine, EngineError
from build_engine.backend.engines import open_engine
from build_engine.decoder import DecoderConfig
from build_engine.errors import EngineBuildError
from build_engine.recipe import BLOCK_SIZE
from build_engine.source import Source
from build_engine.verify import PREFILL_TOKENS

JUDGED_AT_ONCE = 16


class Variant(Protocol):
    """One way of storing the decoder; ``kept`` are projections held back from int8."""

    @property
    def what(self) -> str:
        """For a person; different for each variant of a trial."""

    @property
    def precision(self) -> str:
        """Which gate it has to pass."""

    @property
    def kept(self) -> tuple[str, ...]:
        """Projections that are not int8."""

    def emit(self, config: DecoderConfig, sequence_length: int, folder: Path) -> None:
        """Write the graph, for caches of ``sequence_length`` tokens where they are static, into ``folder``."""

    def facts(self, config: DecoderConfig, sequence_length: int, sequences: int) -> dict[str, Any]:
        """Its ``engine.json``."""


AnyVariant = TypeVar("AnyVariant", bound=Variant)


@dataclass(frozen=True)
class Request:
    """What is to be proven, and by which texts."""

    source: Source
    precision: str
    held_out: Path
    calibration: Path | None
    strict: bool
    quiet: bool
    work_dir: Path


def judge(
    request: Request, evidence: Evidence, reference: Variant, variants: Iterable[AnyVariant]
) -> tuple[AnyVariant, dict[str, Any]]:
    """The first variant that passes its gate against ``reference``, and the content of ``accuracy.json``. Raises
    :class:`build_engine.errors.AccuracyError` when none does."""
    tried: dict[str, AnyVariant] = {}

    def candidates() -> Iterator[Candidate]:
        for variant in variants:
            tried[variant.what] = variant
            yield Candidate(variant.what, variant.precision, partial(_opened, request, variant), variant.kept)

    try:
        with _opened(request, reference) as engine:
            winner, accuracy = prove(
                candidates(), engine, evidence, asked=request.precision, strict=request.strict, quiet=request.quiet
            )
    except EngineError as error:  # a candidate's is on record
        raise EngineBuildError(f"the {reference.what} engine to compare with does not open here: {error}") from None
    return tried[winner.what], accuracy


@contextmanager
def _opened(request: Request, variant: Variant) -> Iterator[Engine]:
    """The variant as it will be served, in a folder that is gone afterwards. Raises :class:`EngineError`."""
    config = request.source.config
    with work.part(request.work_dir, "judged") as folder:
        (folder / "engine").mkdir()
        variant.emit(config, WINDOW_TOKENS, folder / "engine")
        facts = variant.facts(config, WINDOW_TOKENS, JUDGED_AT_ONCE)
        (folder / "engine" / "engine.json").write_text(json.dumps(facts))
        yield open_engine(
            folder,
            threads=os.cpu_count() or 1,
            cache_tokens=(WINDOW_TOKENS + BLOCK_SIZE) * JUDGED_AT_ONCE,  # a paged cache hands out whole blocks
            step_tokens=JUDGED_AT_ONCE * PREFILL_TOKENS,
            max_sequences=JUDGED_AT_ONCE,
        )
