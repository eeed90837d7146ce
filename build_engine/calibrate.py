"""What the projections of a decoder are really fed with, measured on the user's own text, and the int8 plan from it.

The fp32 graph runs on ONNX Runtime over the calibration windows. Two things are remembered of each activation: the
largest magnitude of every channel, and a few tokens of it. From them the smoothing of each activation is chosen by its
measured output error. What rounding it then costs the whole model is measured too, an activation at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from build_engine import work
from build_engine.decoder import DecoderConfig, FloatArray
from build_engine.emit_onnx import MODEL, OnnxEmitter, write
from build_engine.emit_onnx_int8 import Int8Plan, ObservingEmitter, SwitchingEmitter
from build_engine.errors import AccuracyError
from build_engine.onnx_weights import ExternalWeights
from build_engine.smooth import Read, Site, output_error, scale_of, sites
from build_engine.verify import log_softmax

Feed = dict[str, npt.NDArray[Any]]
ALPHAS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)
SAMPLES_PER_WINDOW, SAMPLED_WINDOWS = 8, 16


@dataclass(frozen=True)
class Observation:
    """An activation over the calibration text: ``largest [channels]``; some of its tokens, ``sample [n, channels]``."""

    largest: FloatArray
    sample: FloatArray


@dataclass(frozen=True)
class Smoothing:
    """What was chosen. ``scales`` by site; ``inputs``: the largest magnitude entering each projection afterwards;
    ``errors``: the relative output error of each projection in int8 (:func:`build_engine.smooth.output_error`)."""

    scales: dict[str, FloatArray]
    alphas: dict[str, float]
    inputs: dict[str, float]
    errors: dict[str, float]


def observe(
    config: DecoderConfig,
    read: Read,
    windows: npt.NDArray[np.int64],
    work_dir: Path,
    on_window: Callable[[], object] = lambda: None,
) -> dict[str, Observation]:
    """Run ``windows`` int64 ``[n, length]`` through the fp32 decoder; what every site saw, by the site's name. Raises
    :class:`AccuracyError` naming the projection that is fed with what is no number."""
    length = windows.shape[1]
    step = max(1, length // SAMPLES_PER_WINDOW)
    with _session(config, work_dir, partial(ObservingEmitter, step, config, read, np.float32, length)) as session:
        return _observed(session, config, windows, on_window)


def sensitivities(
    config: DecoderConfig,
    read: Read,
    inputs: dict[str, float],
    windows: npt.NDArray[np.int64],
    work_dir: Path,
    *,
    on_site: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """What it costs to round the activation of one site alone: the mean KL divergence, in nats, of the next-token
    distributions over ``windows`` int64 ``[n, length]``. ``read`` gives the smoothed tensors, ``inputs`` the largest
    magnitude entering each projection. Small divergences add up, so a sum of these predicts a whole plan."""
    names = [site.name for site in sites(config)]
    length = windows.shape[1]
    build = partial(SwitchingEmitter, Int8Plan(inputs), config, read, np.float32, length)
    with _session(config, work_dir, build) as session:
        feed = _empty(session, config, length)

        def logits(enabled: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
            rows = [_ask(session, feed, window, enabled) for window in windows]
            return np.concatenate(rows)

        exact = log_softmax(logits(np.zeros(len(names), bool)))
        found = {}
        for number, name in enumerate(names):
            rounded = log_softmax(logits(np.arange(len(names)) == number))
            found[name] = float((np.exp(exact) * (exact - rounded)).sum(axis=1).mean())
            on_site()
    return found


def _ask(
    session: onnxruntime.InferenceSession, feed: Feed, window: npt.NDArray[np.int64], enabled: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = session.run(["logits"], {**feed, "input_ids": window[None], "enabled": enabled})[
        0
    ]
    return values


@contextmanager
def _session(
    config: DecoderConfig, work_dir: Path, build: Callable[[ExternalWeights], OnnxEmitter]
) -> Iterator[onnxruntime.InferenceSession]:
    """A session of the decoder that ``build`` emits; its files are gone afterwards."""
    with work.part(work_dir, "calibrated") as folder:
        write(config, build, folder)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # it warns of every cache that is not updated in place; here none need be
        yield onnxruntime.InferenceSession(str(folder / MODEL), options, ["CPUExecutionProvider"])


def _empty(session: onnxruntime.InferenceSession, config: DecoderConfig, length: int) -> Feed:
    """Inputs of one sequence that begins, all but its tokens."""
    cache = np.zeros((1, config.kv_heads, length, config.head_dim), np.float32)
    feed: Feed = {each.name: cache for each in session.get_inputs() if each.name.startswith("past_")}
    first = np.zeros(1, np.int64)
    wanted = {each.name for each in session.get_inputs()} & {"start_pos", "last_idx"}
    return feed | dict.fromkeys(wanted, first)


def _observed(
    session: onnxruntime.InferenceSession,
    config: DecoderConfig,
    windows: npt.NDArray[np.int64],
    on_window: Callable[[], object],
) -> dict[str, Observation]:
    names = {site.readers[0]: site.name for site in sites(config)}
    outputs = [f"{kind}:{reader}" for reader in names for kind in ("largest", "sample")]
    feed = _empty(session, config, windows.shape[1])
    largest: dict[str, FloatArray] = {}
    samples: dict[str, list[FloatArray]] = {name: [] for name in names.values()}
    for number, window in enumerate(windows):
        values = dict(zip(outputs, session.run(outputs, {**feed, "input_ids": window[None]}), strict=True))
        for reader, name in names.items():
            seen = values[f"largest:{reader}"]
            if not np.isfinite(seen).all():
                raise AccuracyError(f"what enters {reader} is not finite, in fp32 on the calibration text")
            largest[name] = np.maximum(largest.get(name, seen), seen)
            if number < SAMPLED_WINDOWS:
                samples[name].append(values[f"sample:{reader}"][0])
        on_window()
    return {name: Observation(largest[name], np.concatenate(samples[name])) for name in names.values()}


def smooth(config: DecoderConfig, read: Read, observed: dict[str, Observation]) -> Smoothing:
    """The best of ``ALPHAS`` for each site, by the mean output error of the projections that read it. Weights are read
    tensor by tensor."""
    chosen = Smoothing({}, {}, {}, {})
    for site in sites(config):
        weights = {reader: read(reader) for reader in site.readers}
        trials = [_trial(site, config.head_dim, observed[site.name], weights, alpha) for alpha in ALPHAS]
        best = min(trials, key=lambda trial: float(np.mean(list(trial.errors.values()))))
        chosen.scales.update(best.scales)
        chosen.alphas.update(best.alphas)
        chosen.inputs.update(best.inputs)
        chosen.errors.update(best.errors)
    return chosen


def _trial(site: Site, head_dim: int, seen: Observation, weights: dict[str, FloatArray], alpha: float) -> Smoothing:
    """One site with one alpha."""
    columns: FloatArray = np.max([np.abs(weight).max(axis=0) for weight in weights.values()], axis=0)
    scale = scale_of(site, head_dim, seen.largest, columns, alpha)
    largest = float((seen.largest / scale).max())
    return Smoothing(
        scales={site.name: scale},
        alphas={site.name: alpha},
        inputs=dict.fromkeys(weights, largest),
        errors={name: output_error(seen.sample / scale, largest, weight * scale) for name, weight in weights.items()},
    )
