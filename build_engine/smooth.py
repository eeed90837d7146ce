"""SmoothQuant: outliers of the activations are moved into the weights before both become int8.

What enters a projection is divided by a scale per channel, the projection's columns are multiplied by it, and the
division is folded into whatever made the activation: an RMS norm's gamma, the rows of v_proj or of up_proj. The product
is the same in exact arithmetic; the largest activation is not. After Xiao et al., "SmoothQuant", ICML 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from build_engine.decoder import DecoderConfig, FloatArray, attention_weights

Read = Callable[[str], FloatArray]
LEVELS = 127  # int8, symmetric
LEAST = 1e-5  # of an activation's largest magnitude: what calibration saw no more of is not cut off at nothing


@dataclass(frozen=True)
class Site:
    """An activation ``[..., channels]`` that projections read. ``readers`` are their weights ``[out, channels]``;
    ``producers`` the tensors whose first axis makes the channels; ``repeats`` how many query heads read one v head."""

    name: str
    readers: tuple[str, ...]
    producers: tuple[str, ...]
    repeats: int = 1


def sites(config: DecoderConfig) -> list[Site]:
    """Every activation that enters a projection of the layers, in the decoder's order."""
    found = []
    for layer in range(config.layers):
        base = f"model.layers.{layer}"
        attention = attention_weights(config, layer)
        v = tuple(name for name in (attention.v.weight, attention.v.bias) if name is not None)
        qkv = (attention.q.weight, attention.k.weight, attention.v.weight)
        gate, up = f"{base}.mlp.gate_proj.weight", f"{base}.mlp.up_proj.weight"
        output, down = f"{base}.self_attn.o_proj.weight", f"{base}.mlp.down_proj.weight"
        found += [
            Site(f"{base}.attention", qkv, (f"{base}.input_layernorm.weight",)),
            Site(f"{base}.attention_output", (output,), v, config.heads // config.kv_heads),
            Site(f"{base}.mlp", (gate, up), (f"{base}.post_attention_layernorm.weight",)),
            Site(f"{base}.mlp_output", (down,), (up,)),
        ]
    return found


def scale_of(site: Site, head_dim: int, activation: FloatArray, weight: FloatArray, alpha: float) -> FloatArray:
    """The scale ``[channels]`` of a site. ``activation`` and ``weight`` ``[channels]`` are the largest magnitudes of
    the activation and of the readers' columns. Query heads that share a v head share its scale."""
    activation, weight = (_over_heads(each, head_dim, site.repeats) for each in (activation, weight))
    alive = (activation > 0) & (weight > 0)
    scale = np.ones_like(activation)
    scale[alive] = activation[alive] ** alpha / weight[alive] ** (1 - alpha)
    return np.maximum(scale, np.float32(1e-5))


def smoothed(config: DecoderConfig, read: Read, scales: Mapping[str, FloatArray]) -> Read:
    """``read`` with the scales (by site name) folded into the tensors. Sites without a scale stay as they are."""
    columns: dict[str, FloatArray] = {}
    rows: dict[str, FloatArray] = {}
    for site in sites(config):
        if site.name in scales:
            columns |= dict.fromkeys(site.readers, scales[site.name])
            made = _per_producer(scales[site.name], config.head_dim, site.repeats)
            rows |= dict.fromkeys(site.producers, made)

    def folded(name: str) -> FloatArray:
        values = read(name)
        if name in columns:
            values = values * columns[name]
        if name in rows:
            values = values / (rows[name] if values.ndim == 1 else rows[name][:, None])
        return values

    return folded


def int8_steps(largest: FloatArray, dtype: type[np.floating[Any]] = np.float32) -> npt.NDArray[np.floating[Any]]:
    """The int8 step of values up to ``largest``, as a graph of ``dtype`` stores it: a normal number there, never zero,
    which TensorRT refuses; infinite where ``largest`` is beyond what ``dtype`` can say."""
    with np.errstate(over="ignore"):
        return np.maximum(largest / np.float32(LEVELS), np.finfo(dtype).tiny).astype(dtype)


def int8_rows(
    weight: FloatArray, dtype: type[np.floating[Any]] = np.float32
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.floating[Any]]]:
    """Symmetric int8 of ``weight [out, in]`` and its scales ``[out]`` in ``dtype``, by which it was really divided."""
    step = int8_steps(np.abs(weight).max(axis=1), dtype)
    return np.rint(weight / step.astype(np.float32)[:, None]).astype(np.int8), step


def output_error(sample: FloatArray, largest: float, weight: FloatArray) -> float:
    """How wrong ``sample [n, in] @ weight.T`` becomes when both are int8, the sample by one scale, ``largest / 127``:
    the relative error of each line, averaged. A line is a token; one token's outlier must not hide the others."""
    exact = sample @ weight.T
    values, scale = int8_rows(weight)
    step = np.float32(max(largest, 1e-30) / LEVELS)
    rounded = np.clip(np.rint(sample / step), -LEVELS - 1, LEVELS) * step
    error = rounded @ (values * scale[:, None]).T - exact
    norms = np.maximum(np.linalg.norm(exact, axis=1), 1e-30)
    return float(np.mean(np.linalg.norm(error, axis=1) / norms))


def _over_heads(values: FloatArray, head_dim: int, repeats: int) -> FloatArray:
    """Channels that must share a scale take their largest value."""
    if repeats == 1:
        return values.astype(np.float32)
    heads = values.reshape(-1, repeats, head_dim).max(axis=1, keepdims=True)
    return np.broadcast_to(heads, (len(heads), repeats, head_dim)).reshape(-1).astype(np.float32)


def _per_producer(scale: FloatArray, head_dim: int, repeats: int) -> FloatArray:
    """The scale of each v row, from that of each query head's channel."""
    return scale if repeats == 1 else scale.reshape(-1, repeats, head_dim)[:, 0].reshape(-1)
