"""W8A8 of a large model up to the proof: ``python -m benchmarks.scale_fit SOURCE FOLDER``, for :mod:`benchmarks.scale`.

Observe, smooth, emit and compile as the builder does, over a few windows of random tokens. Not judged: the weights are
random, and the hours that judging takes on two cores are worked out from the seconds of a window. The last line on
stdout is JSON.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from build_engine import calibrate
from build_engine.emit_onnx_int8 import Int8Plan
from build_engine.manifest import Clock
from build_engine.pipeline import open_source
from build_engine.proof import Variant, slot_facts
from build_engine.recipe import RTX_DEFAULT
from build_engine.smooth import smoothed
from build_engine.tensorrt_api import Settings
from build_engine.tensorrt_build import build_plan, quantised_layers

WINDOWS, WINDOW_TOKENS, LENGTH, SLOTS = 4, 129, 512, 4


def fit(path: Path, folder: Path) -> dict[str, Any]:
    """Seconds by stage (``observe`` is the fp32 graph and ``WINDOWS`` windows through it), and those of one window."""
    clock, source = Clock(), open_source(path)
    config = source.config
    windows = np.random.default_rng(0).integers(0, config.vocab_size, (WINDOWS, WINDOW_TOKENS))
    with clock.stage("observe"):
        ends: list[float] = []
        observed = calibrate.observe(config, source.finite, windows, folder, lambda: ends.append(time.monotonic()))
    with clock.stage("smooth"):
        smoothing = calibrate.smooth(config, source.finite, observed)
    read = smoothed(config, source.finite, smoothing.scales)
    graph, plan = folder / "graph", folder / "plan"
    graph.mkdir()
    plan.mkdir()
    with clock.stage("emit"):
        Variant("int8", "int8", "fp16", Int8Plan(smoothing.inputs), read).emit(config, LENGTH, graph)
    facts = slot_facts(config, "fp16", LENGTH, SLOTS, prefill_tokens=256)
    facts |= dict(zip(("quantize_nodes", "dequantize_nodes"), quantised_layers(graph), strict=True))
    with clock.stage("compile"):
        build_plan(graph, Settings("tensorrt-rtx", RTX_DEFAULT, None, False, "none", folder), facts, plan)
    size = sum(file.stat().st_size for file in plan.iterdir())
    window = statistics.median(after - before for before, after in itertools.pairwise(ends))
    return {"build_seconds": clock.seconds, "total_bytes": size, "window_seconds": window}


if __name__ == "__main__":
    print(json.dumps(fit(Path(sys.argv[1]), Path(sys.argv[2]))))
