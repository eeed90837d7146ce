"""``config.json`` of transformers -> :class:`DecoderConfig`; what cannot be emitted is refused by its name."""

from __future__ import annotations

import sys
from typing import Any

from build_engine.decoder import DecoderConfig, Llama3RopeScaling
from build_engine.errors import CorruptSource, UnsupportedModel

ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM")


def decoder_config(raw: dict[str, Any], *, tie_embeddings: bool) -> DecoderConfig:
    """The decoder's shape. Raises :class:`UnsupportedModel` naming the field, :class:`CorruptSource` when one lacks."""
    architecture = _architecture(raw)
    _refuse_unsupported(raw, architecture)
    heads, hidden = _positive(raw, "num_attention_heads"), _positive(raw, "hidden_size")
    theta, scaling = _rope(raw)
    config = DecoderConfig(
        architecture=architecture,
        vocab_size=_positive(raw, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=_positive(raw, "intermediate_size"),
        layers=_positive(raw, "num_hidden_layers"),
        heads=heads,
        kv_heads=_positive(raw, "num_key_value_heads", heads),
        head_dim=_positive(raw, "head_dim", hidden // heads),
        rms_eps=_number(raw, "rms_norm_eps", 1e-6),
        context_length=_positive(raw, "max_position_embeddings"),
        tie_embeddings=tie_embeddings,
        rope_theta=theta,
        rope_scaling=scaling,
        qkv_bias=architecture == "Qwen2ForCausalLM",
    )
    if config.heads % config.kv_heads or config.head_dim % 2:
        raise CorruptSource("config.json: num_attention_heads must be a multiple of num_key_value_heads, head_dim even")
    return config


def _architecture(raw: dict[str, Any]) -> str:
    named = raw.get("architectures") or ["(none)"]
    if not isinstance(named, list) or named[0] not in ARCHITECTURES:
        raise UnsupportedModel(
            f"config.json: architecture {named[0] if isinstance(named, list) else named} cannot be emitted; "
            f"supported: {', '.join(ARCHITECTURES)}; another one needs its layers described in the decoder"
        )
    return str(named[0])


def _refuse_unsupported(raw: dict[str, Any], architecture: str) -> None:
    refusals = {
        "quantization_config": "already quantised weights; give the original ones",
        "num_local_experts": "a mixture of experts; it would need a routing operator",
        "num_experts": "a mixture of experts; it would need a routing operator",
        "mlp_bias": "biases in the MLP; the decoder description has none",
    }
    if architecture == "LlamaForCausalLM":
        refusals["attention_bias"] = (
            "biases in Llama attention, o_proj included; the decoder description has none there"
        )
    for field, reason in refusals.items():
        if raw.get(field):
            raise UnsupportedModel(f"config.json: {field} says {reason}")
    sliding = raw.get("sliding_window") if raw.get("use_sliding_window", architecture != "Qwen2ForCausalLM") else None
    if sliding:
        raise UnsupportedModel("config.json: sliding_window attention; it would need a windowed attention operator")
    activation = raw.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise UnsupportedModel(f"config.json: hidden_act {activation}; only silu can be emitted")


def _rope(raw: dict[str, Any]) -> tuple[float, Llama3RopeScaling | None]:
    """Base and scaling. transformers 5 writes ``rope_parameters``, earlier ones ``rope_theta`` and ``rope_scaling``."""
    parameters = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(parameters, dict):
        raise CorruptSource("config.json: rope_parameters or rope_scaling is no object")
    theta = _number(parameters, "rope_theta", _number(raw, "rope_theta", 10000.0))
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise UnsupportedModel(
            f"config.json: rope_type {kind}; supported: default, llama3; it would need its formula in the decoder"
        )
    low, high = _number(parameters, "low_freq_factor"), _number(parameters, "high_freq_factor")
    if high <= low:
        raise CorruptSource("config.json: high_freq_factor must be greater than low_freq_factor")
    return theta, Llama3RopeScaling(
        factor=_number(parameters, "factor"),
        low_freq_factor=low,
        high_freq_factor=high,
        original_context_length=_positive(parameters, "original_max_position_embeddings"),
    )


def _positive(raw: dict[str, Any], field: str, default: int | None = None) -> int:
    """A count; ``default`` stands for a field that is absent or null."""
    value = default if raw.get(field) is None else raw[field]
    if type(value) is not int or value < 1:
        raise CorruptSource(f"config.json: {field} must be a positive integer, not {value!r}")
    return value


def _number(raw: dict[str, Any], field: str, default: float | None = None) -> float:
    """A positive number; ``default`` stands for a field that is absent or null."""
    value = default if raw.get(field) is None else raw[field]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= sys.float_info.max:
        raise CorruptSource(f"config.json: {field} must be a positive number, not {value!r}")
    return float(value)
