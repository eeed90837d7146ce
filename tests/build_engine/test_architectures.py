"""What ``config.json`` may say, and what is refused by name before a tensor is read."""

from __future__ import annotations

from typing import Any

import pytest

from build_engine.decoder import DecoderConfig
from build_engine.errors import UnsupportedModel
from build_engine.hf_config import decoder_config

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def read(architecture: str, context_length: int | None = None, **settings: Any) -> DecoderConfig:
    """The configuration of an otherwise ordinary model."""
    raw = {**SIZES, "architectures": [f"{architecture}ForCausalLM"], **settings}
    return decoder_config(raw, tie_embeddings=False, context_length=context_length)


@pytest.mark.parametrize(
    ("architecture", "settings", "says"),
    [
        ("Mistral", {"sliding_window": 256}, "--context-length 256"),
        ("Mistral", {"max_position_embeddings": 32768}, "sliding_window 4096"),  # transformers' own default
        ("Llama", {"sliding_window": 256}, "sliding_window 256"),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 256, "max_window_layers": 3}, "sliding_window 256"),
        ("Qwen3", {"sliding_window": 9, "layer_types": ["full_attention", "sliding_attention"]}, "sliding_window 9"),
        ("Qwen3", {"layer_types": ["linear_attention"]}, "layer_types linear_attention"),
        ("Llama", {"attention_bias": True}, "attention_bias"),
        ("Mistral", {"attention_bias": True, "sliding_window": None}, "attention_bias"),
        ("Qwen3", {"attention_bias": True}, "attention_bias"),
        ("Llama", {"mlp_bias": True}, "mlp_bias"),
        ("Llama", {"num_local_experts": 8}, "num_local_experts"),
        ("Llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("Llama", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("Llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("Llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("Llama", {"logit_scale": 0.25}, "logit_scale"),
        ("Llama", {"hidden_act": "gelu"}, "hidden_act gelu"),
        ("Llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("Gemma2", {}, "Gemma2ForCausalLM"),
        ("MixtralFor", {}, "MixtralFor"),
        *(("Qwen2", {"rope_scaling": {"type": kind, "factor": 4.0}}, f"rope_type {kind}")
          for kind in ("yarn", "linear", "dynamic", "longrope", "mrope", "su")),
    ],
)  # fmt: skip
def test_what_cannot_be_emitted_is_refused_by_name(architecture: str, settings: dict[str, Any], says: str) -> None:
    """Each with the field, and what it would need."""
    with pytest.raises(UnsupportedModel, match=says) as refused:
        read(architecture, **settings)
    assert any(word in str(refused.value) for word in ("need", "give", "only", "description"))


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("Mistral", {"sliding_window": None}),
        ("Mistral", {"sliding_window": 512}),
        ("Mistral", {}),  # 4096 by default, and the context is shorter
        ("Qwen2", {"use_sliding_window": False, "sliding_window": 16}),
        ("Qwen2", {"sliding_window": 16}),  # switched off by default
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 4}),
        ("Qwen3", {"sliding_window": None, "layer_types": ["full_attention"] * 4}),
        ("Qwen2", {"attention_bias": False}),
        ("Llama", {"rope_scaling": None, "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}),
        ("Llama", {"partial_rotary_factor": 1.0, "logit_scale": 1.0}),
    ],
)
def test_what_changes_nothing_is_no_reason_to_refuse(architecture: str, settings: dict[str, Any]) -> None:
    """A window that is null, off, on no layer or never reached; a switch that is off; a factor of one."""
    assert read(architecture, **settings).context_length == 512


def test_a_shorter_context_makes_a_window_harmless() -> None:
    """The way out that the refusal names."""
    assert read("Mistral", 256, sliding_window=256).context_length == 256
    with pytest.raises(UnsupportedModel, match="sliding_window 256"):
        read("Mistral", 257, sliding_window=256)


def test_each_architecture_has_its_shape() -> None:
    """Where biases and norms sit, and how wide a head is when the configuration does not say so."""
    llama, mistral, qwen2, qwen3 = (read(name) for name in ("Llama", "Mistral", "Qwen2", "Qwen3"))
    assert [config.head_dim for config in (llama, mistral, qwen2, qwen3)] == [16, 16, 16, 128]
    assert [config.qkv_bias for config in (llama, mistral, qwen2, qwen3)] == [False, False, True, False]
    assert [config.qk_norm for config in (llama, mistral, qwen2, qwen3)] == [False, False, False, True]
    assert read("Mistral", head_dim=40).head_dim == 40
