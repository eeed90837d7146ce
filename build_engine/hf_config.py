"""``config.json`` of transformers -> :class:`DecoderConfig`; what cannot be emitted is refused by its name."""

from __future__ import annotations

import sys
from typing import Any

from build_engine.decoder import DecoderConfig, Llama3RopeScaling, context_within
from build_engine.errors import CorruptSource, UnsupportedModel

# What transformers assumes for a field that config.json leaves out, where it is not derived from other fields.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {},
    "MistralForCausalLM": {"num_key_value_heads": 8, "sliding_window": 4096},
    "Qwen2ForCausalLM": {"num_key_value_heads": 32, "use_sliding_window": False, "sliding_window": 4096},
    "Qwen3ForCausalLM": {
        "num_key_value_heads": 32,
        "head_dim": 128,
        "use_sliding_window": False,
        "sliding_window": 4096,
    },
}
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
SOFT_CAP = "soft-capped scores; it would need that operator after the product"
SCALE = "a scale that none of these architectures has; it would need its place in the decoder description"
REFUSED = {
    "quantization_config": "already quantised weights; give the original ones",
    "mlp_bias": "biases in the MLP; the decoder description has none",
    "attention_bias": "biases in attention, o_proj included; the decoder description has none there",
    "attn_logit_softcapping": SOFT_CAP,
    "final_logit_softcapping": SOFT_CAP,
    "query_pre_attn_scalar": SCALE,
    "no_rope_layers": "layers without RoPE; it would need a rotation that differs by layer",
}
REFUSED_UNLESS_ONE = {
    "partial_rotary_factor": "RoPE on a part of each head; it would need a split before the rotation",
    **dict.fromkeys(
        ("logit_scale", "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"), SCALE
    ),
}


def decoder_config(raw: dict[str, Any], *, tie_embeddings: bool, context_length: int | None = None) -> DecoderConfig:
    """The decoder's shape; a ``context_length`` replaces the model's own longer one. Raises :class:`UnsupportedModel`
    naming the field, :class:`CorruptSource` when one lacks."""
    _refuse_experts(raw)
    architecture = _architecture(raw)
    raw = ARCHITECTURES[architecture] | raw
    context = context_within(_positive(raw, "max_position_embeddings"), context_length)
    _refuse_unsupported(raw, architecture)
    _refuse_window(raw, context)
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
        context_length=context,
        tie_embeddings=tie_embeddings,
        rope_theta=theta,
        rope_scaling=scaling,
        qkv_bias=architecture == "Qwen2ForCausalLM",
        qk_norm=architecture == "Qwen3ForCausalLM",
    )
    if config.heads % config.kv_heads or config.head_dim % 2:
        raise CorruptSource("config.json: num_attention_heads must be a multiple of num_key_value_heads, head_dim even")
    return config


def _refuse_experts(raw: dict[str, Any]) -> None:
    """Before the architecture, which is another one then and says less."""
    for field in EXPERTS:
        if raw.get(field):
            raise UnsupportedModel(
                f"config.json: {field} says a mixture of experts; it would need a routing operator and the experts' "
                "weights in the decoder description"
            )


def _architecture(raw: dict[str, Any]) -> str:
    named = raw.get("architectures") or ["(none)"]
    if not isinstance(named, list) or named[0] not in ARCHITECTURES:
        raise UnsupportedModel(
            f"config.json: architecture {named[0] if isinstance(named, list) else named} cannot be emitted; "
            f"supported: {', '.join(ARCHITECTURES)}; another one needs its layers described in the decoder"
        )
    return str(named[0])


def _refuse_unsupported(raw: dict[str, Any], architecture: str) -> None:
    for field, reason in REFUSED.items():
        # Qwen2 always has its biases, and only on q, k and v, whatever this field says.
        if raw.get(field) and (field, architecture) != ("attention_bias", "Qwen2ForCausalLM"):
            raise UnsupportedModel(f"config.json: {field} says {reason}")
    for field, reason in REFUSED_UNLESS_ONE.items():
        if raw.get(field) not in (None, 1):
            raise UnsupportedModel(f"config.json: {field} says {reason}")
    activation = raw.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise UnsupportedModel(f"config.json: hidden_act {activation}; only silu can be emitted")


def _refuse_window(raw: dict[str, Any], context: int) -> None:
    """Refuse a sliding window that is in force. It is not when it is null or switched off, when no layer has it, or
    when it is as long as the context: then no token is ever far enough away to be cut off."""
    layers = _positive(raw, "num_hidden_layers")
    kinds = raw.get("layer_types")
    unknown = sorted(set(kinds or ()) - {"full_attention", "sliding_attention"})
    if unknown:
        raise UnsupportedModel(f"config.json: layer_types {unknown[0]}; it would need that layer described")
    if isinstance(kinds, list):
        windowed = "sliding_attention" in kinds[:layers]
    elif "use_sliding_window" in raw:
        windowed = bool(raw["use_sliding_window"]) and layers > (raw.get("max_window_layers", 28) or 0)
    else:
        windowed = True
    window = raw.get("sliding_window")
    if windowed and window is not None and window < context:
        raise UnsupportedModel(
            f"config.json: sliding_window {window} is in force in a context of {context} tokens; it would need a "
            f"windowed attention operator, or a build with --context-length {window} or less"
        )


def _rope(raw: dict[str, Any]) -> tuple[float, Llama3RopeScaling | None]:
    """Base and scaling. transformers 5 writes ``rope_parameters``, earlier ones ``rope_theta`` and ``rope_scaling``."""
    parameters = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(parameters, dict):
        raise CorruptSource("config.json: rope_parameters or rope_scaling is no object")
    if parameters.get("partial_rotary_factor") not in (None, 1):
        raise UnsupportedModel(f"config.json: partial_rotary_factor says {REFUSED_UNLESS_ONE['partial_rotary_factor']}")
    theta = _number(parameters, "rope_theta", _number(raw, "rope_theta", 10000.0))
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise UnsupportedModel(
            f"config.json: rope_type {kind}; supported: default, llama3; it would need its formula in the decoder's "
            "inverse_frequencies"
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
