"""The decoder, described once.

One description of a Llama-shaped decoder serves every target: an emitter (OpenVINO with a paged cache, ONNX with
static slots) supplies the operators, this module says in which order they are applied. It does not know what a graph,
a quantised weight or a cache layout is.

Architecture names and ``config.json`` keys are those of Hugging Face transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Tensor = TypeVar("Tensor")


@dataclass(frozen=True)
class Llama3RopeScaling:
    """Frequency-dependent RoPE scaling of Llama 3.1 (transformers' ``rope_type: llama3``)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_length: int


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of one decoder. Counts are plain counts, ``head_dim`` is per head, ``context_length`` is in tokens."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rms_eps: float
    context_length: int
    tie_embeddings: bool
    rope_theta: float
    rope_scaling: Llama3RopeScaling | None = None
    qkv_bias: bool = False
    qk_norm: bool = False

    def inverse_frequencies(self) -> FloatArray:
        """RoPE's inverse frequencies, float32 ``[head_dim / 2]``, scaling applied."""
        exponent = np.arange(0, self.head_dim, 2, dtype=np.float64) / self.head_dim
        inverse = 1.0 / self.rope_theta**exponent
        scaling = self.rope_scaling
        if scaling is None:
            return inverse.astype(np.float32)
        wavelength = 2 * np.pi / inverse
        original = scaling.original_context_length
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        blend = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
        scaled: FloatArray = ((1 - blend) * inverse / scaling.factor + blend * inverse).astype(np.float32)
        return scaled


@dataclass(frozen=True)
class Linear:
    """A projection by tensor name: weight ``[out, in]``, bias ``[out]`` or none."""

    weight: str
    bias: str | None = None


@dataclass(frozen=True)
class AttentionWeights:
    """One layer's attention inputs. ``q_norm``/``k_norm`` name RMS gammas ``[head_dim]``, the same for every head: an
    emitter applies its ``rms_norm`` to q and k as ``[..., heads, head_dim]`` after the projection, before RoPE."""

    q: Linear
    k: Linear
    v: Linear
    q_norm: str | None
    k_norm: str | None


class Emitter(Protocol[Tensor]):
    """The operators of one target. A tensor is ``[..., features]``; the leading axes belong to the emitter."""

    def embed(self, weight: str) -> Tensor:
        """Rows of ``weight [vocab, hidden]`` picked by the graph's token ids."""

    def rms_norm(self, x: Tensor, weight: str) -> Tensor:
        """``x / sqrt(mean(x^2) + rms_eps) * weight`` over the last axis: the features, or ``head_dim`` of each head."""

    def linear(self, x: Tensor, projection: Linear) -> Tensor:
        """``x @ weight.T + bias``."""

    def attention(self, x: Tensor, layer: int, weights: AttentionWeights) -> Tensor:
        """Project, (norm), rotate, update the layer's cache, attend: ``[..., heads * head_dim]`` before the output
        projection. Causal over everything the cache holds for the same sequence."""

    def swiglu(self, x: Tensor, gate: Linear, up: Linear) -> Tensor:
        """``silu(gate(x)) * up(x)``."""

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """Residual sum."""

    def sampled_rows(self, x: Tensor) -> Tensor:
        """Only the rows whose next token is wanted, so the head never sees the others."""

    def logits(self, x: Tensor, weight: str) -> None:
        """The head ``[vocab, hidden]``; names the graph's output."""


def head_weight(config: DecoderConfig) -> str:
    """Name of the output head's tensor; the embedding itself when tied."""
    return "model.embed_tokens.weight" if config.tie_embeddings else "lm_head.weight"


def attention_weights(config: DecoderConfig, layer: int) -> AttentionWeights:
    """Tensor names of one layer's q, k, v projections and norms."""
    base = f"model.layers.{layer}.self_attn"

    def projection(kind: str) -> Linear:
        bias = f"{base}.{kind}_proj.bias" if config.qkv_bias else None
        return Linear(f"{base}.{kind}_proj.weight", bias)

    return AttentionWeights(
        q=projection("q"),
        k=projection("k"),
        v=projection("v"),
        q_norm=f"{base}.q_norm.weight" if config.qk_norm else None,
        k_norm=f"{base}.k_norm.weight" if config.qk_norm else None,
    )


def describe(config: DecoderConfig, ops: Emitter[Tensor]) -> None:
    """Apply ``ops`` in the decoder's order."""
    x = ops.embed("model.embed_tokens.weight")
    for layer in range(config.layers):
        base = f"model.layers.{layer}"
        h = ops.rms_norm(x, f"{base}.input_layernorm.weight")
        h = ops.attention(h, layer, attention_weights(config, layer))
        x = ops.add(x, ops.linear(h, Linear(f"{base}.self_attn.o_proj.weight")))
        h = ops.rms_norm(x, f"{base}.post_attention_layernorm.weight")
        h = ops.swiglu(h, Linear(f"{base}.mlp.gate_proj.weight"), Linear(f"{base}.mlp.up_proj.weight"))
        x = ops.add(x, ops.linear(h, Linear(f"{base}.mlp.down_proj.weight")))
    x = ops.rms_norm(ops.sampled_rows(x), "model.norm.weight")
    ops.logits(x, head_weight(config))


def expected_tensors(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor the decoder reads, with the shape it must have."""
    hidden, inner = config.hidden_size, config.intermediate_size
    q_rows, kv_rows = config.heads * config.head_dim, config.kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, hidden),
        "model.norm.weight": (hidden,),
        head_weight(config): (config.vocab_size, hidden),
    }
    for layer in range(config.layers):
        base = f"model.layers.{layer}"
        attention = attention_weights(config, layer)
        for projection, rows in ((attention.q, q_rows), (attention.k, kv_rows), (attention.v, kv_rows)):
            shapes[projection.weight] = (rows, hidden)
            if projection.bias is not None:
                shapes[projection.bias] = (rows,)
        for gamma in (attention.q_norm, attention.k_norm):
            if gamma is not None:
                shapes[gamma] = (config.head_dim,)
        shapes[f"{base}.self_attn.o_proj.weight"] = (hidden, q_rows)
        shapes[f"{base}.mlp.gate_proj.weight"] = (inner, hidden)
        shapes[f"{base}.mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"{base}.mlp.down_proj.weight"] = (hidden, inner)
        shapes[f"{base}.input_layernorm.weight"] = (hidden,)
        shapes[f"{base}.post_attention_layernorm.weight"] = (hidden,)
    return shapes
