"""A decoder from its definition: numpy, float64, one sequence at a time, no cache. Slow, and easy to believe."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from .checkpoints import Float32, Shape

Float64 = npt.NDArray[np.float64]


def logits(shape: Shape, weights: Mapping[str, Float32], tokens: list[int]) -> Float64:
    """What the model says behind every token, ``[tokens, vocab]``."""
    w = {name: values.astype(np.float64) for name, values in weights.items()}
    x = w["model.embed_tokens.weight"][tokens]
    for layer in range(shape.layers):
        base = f"model.layers.{layer}."
        here = {name.removeprefix(base): values for name, values in w.items() if name.startswith(base)}
        x = x + _attention(shape, here, _norm(shape, x, here["input_layernorm.weight"]))
        h = _norm(shape, x, here["post_attention_layernorm.weight"])
        gate, up = h @ here["mlp.gate_proj.weight"].T, h @ here["mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ here["mlp.down_proj.weight"].T
    head = w["model.embed_tokens.weight" if shape.tied else "lm_head.weight"]
    return _norm(shape, x, w["model.norm.weight"]) @ head.T


def _norm(shape: Shape, x: Float64, gamma: Float64) -> Float64:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + shape.eps) * gamma


def _attention(shape: Shape, w: Mapping[str, Float64], x: Float64) -> Float64:
    size = len(x)
    q, k, v = (
        x @ w[f"self_attn.{kind}_proj.weight"].T + w.get(f"self_attn.{kind}_proj.bias", np.float64(0)) for kind in "qkv"
    )
    mixed = np.zeros((size, shape.heads * shape.head_dim))
    for head in range(shape.heads):
        shared = head // (shape.heads // shape.kv_heads)
        own = slice(head * shape.head_dim, (head + 1) * shape.head_dim)
        other = slice(shared * shape.head_dim, (shared + 1) * shape.head_dim)
        scores = _rope(shape, q[:, own]) @ _rope(shape, k[:, other]).T / np.sqrt(shape.head_dim)
        scores = np.where(np.tril(np.ones((size, size), bool)), scores, -np.inf)
        share = np.exp(scores - scores.max(axis=1, keepdims=True))
        mixed[:, own] = share / share.sum(axis=1, keepdims=True) @ v[:, other]
    return mixed @ w["self_attn.o_proj.weight"].T


def _rope(shape: Shape, x: Float64) -> Float64:
    """Feature ``i`` of the first half and of the second half are the plane that position turns by its angle."""
    half = shape.head_dim // 2
    angle = np.arange(len(x))[:, None] * np.array([_frequency(shape, i) for i in range(half)])
    first, second = x[:, :half], x[:, half:]
    return np.hstack([first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)])


def _frequency(shape: Shape, plane: int) -> float:
    """Turns in radians a token; Llama 3.1 slows the slow ones down by a factor and blends in between."""
    frequency = float(shape.theta ** (-2 * plane / shape.head_dim))
    if shape.rope is None:
        return frequency
    original, factor = shape.rope["original_max_position_embeddings"], shape.rope["factor"]
    low, high = shape.rope["low_freq_factor"], shape.rope["high_freq_factor"]
    wavelength = 2 * np.pi / frequency
    if wavelength < original / high:
        return frequency
    if wavelength > original / low:
        return frequency / factor
    smooth = (original / wavelength - low) / (high - low)
    return float((1 - smooth) * frequency / factor + smooth * frequency)
