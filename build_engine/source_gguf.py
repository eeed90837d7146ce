"""A GGUF file (llama.cpp's format): one file with configuration, tensors, tokenizer and chat template.

Tensors are dequantised one at a time by the ``gguf`` package. llama.cpp stores the q and k rows of the llama
architecture (Mistral included) with the two halves of each head interleaved; that is undone here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from build_engine.decoder import DecoderConfig, FloatArray, context_within
from build_engine.errors import CorruptSource, UnsupportedModel
from build_engine.gguf_header import check_header
from build_engine.gguf_tokenizer import tokenizer_files
from build_engine.source import Source, check

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
GLOBAL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def open_gguf(path: Path, context_length: int | None = None) -> Source:
    """Open and check a GGUF file; ``context_length`` replaces the model's own. Raises :class:`SourceError`."""
    check_header(path)
    try:
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise CorruptSource(f"{path} is not a readable GGUF file, or it is truncated: {error}") from None
    architecture = str(fields.get("general.architecture"))
    if architecture not in ARCHITECTURES:
        raise UnsupportedModel(
            f"{path}: architecture {architecture} cannot be emitted; supported: {', '.join(ARCHITECTURES)}; "
            "another one needs its layers described in the decoder"
        )
    tensors = {_hf_name(tensor.name): tensor for tensor in reader.tensors}
    shapes = {name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in tensors.items()}
    if "model.embed_tokens.weight" not in shapes:
        raise CorruptSource(f"{path}: tensor token_embd.weight is missing")
    config = _config(path, fields, architecture, shapes)
    config = replace(config, context_length=context_within(config.context_length, context_length))
    window = fields.get(f"{architecture}.attention.sliding_window")
    if window and window < config.context_length:
        raise UnsupportedModel(
            f"{path}: a sliding window of {window} in a context of {config.context_length} tokens; it would need a "
            f"windowed attention operator, or a build with --context-length {window} or less"
        )
    read = partial(_read, path, tensors, config)
    return check(Source(path, dict.fromkeys(shapes, path), config, tokenizer_files(path, fields), shapes, read))


def _hf_name(name: str) -> str:
    if name in GLOBAL_NAMES:
        return GLOBAL_NAMES[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in LAYER_NAMES:
        return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.{parts[3]}"
    return name


def _refuse_unsupported(
    path: Path, fields: dict[str, Any], architecture: str, shapes: dict[str, tuple[int, ...]]
) -> None:
    """Raise :class:`UnsupportedModel` for what the decoder description does not have, or GGUF says in its own way."""
    if fields.get(f"{architecture}.expert_count"):
        raise UnsupportedModel(f"{path}: a mixture of experts; it would need a routing operator")
    scaling = fields.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none":
        raise UnsupportedModel(f"{path}: rope scaling {scaling} in a GGUF file; build from the safetensors instead")
    if "rope_freqs.weight" in shapes:
        raise UnsupportedModel(
            f"{path}: rope_freqs (llama3 scaling) in a GGUF file; build from the safetensors instead"
        )
    head_counts = [fields.get(f"{architecture}.attention.head_count{each}") for each in ("", "_kv")]
    if any(isinstance(each, list) for each in head_counts):
        raise UnsupportedModel(f"{path}: head counts that differ by layer; the decoder description has one for all")


def _config(path: Path, fields: dict[str, Any], architecture: str, shapes: dict[str, tuple[int, ...]]) -> DecoderConfig:
    def count(name: str, default: int | None = None) -> int:
        value = fields.get(f"{architecture}.{name}", default)
        if type(value) is not int or value < 1:
            raise CorruptSource(f"{path}: metadata {architecture}.{name} must be a positive integer, not {value!r}")
        return value

    def number(name: str, default: float | None = None) -> float:
        value = fields.get(f"{architecture}.{name}", default)
        if type(value) is not float or not 0 < value < math.inf:
            raise CorruptSource(f"{path}: metadata {architecture}.{name} must be a positive number, not {value!r}")
        return value

    _refuse_unsupported(path, fields, architecture, shapes)
    heads, hidden = count("attention.head_count"), count("embedding_length")
    kv_heads, head_dim = count("attention.head_count_kv", heads), count("attention.key_length", hidden // heads)
    if heads % kv_heads or hidden % heads or head_dim % 2:
        raise CorruptSource(
            f"{path}: {heads} heads, {kv_heads} kv heads of {head_dim} and a width of {hidden} do not fit"
        )
    return DecoderConfig(
        architecture=ARCHITECTURES[architecture],
        vocab_size=shapes["model.embed_tokens.weight"][0],
        hidden_size=hidden,
        intermediate_size=count("feed_forward_length"),
        layers=count("block_count"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rms_eps=number("attention.layer_norm_rms_epsilon"),
        context_length=count("context_length"),
        tie_embeddings="lm_head.weight" not in shapes,
        rope_theta=number("rope.freq_base", 10000.0),
        qkv_bias=architecture == "qwen2",
        qk_norm=architecture == "qwen3",
    )


def _read(path: Path, tensors: dict[str, Any], config: DecoderConfig, name: str) -> FloatArray:
    tensor = tensors[name]
    try:
        values = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
    except NotImplementedError:
        raise UnsupportedModel(f"{path}: tensor {name} is {tensor.tensor_type.name}, which gguf cannot read") from None
    values = values.reshape([int(size) for size in reversed(tensor.shape)])
    for projection, heads in (("q_proj", config.heads), ("k_proj", config.kv_heads)):
        if config.architecture == "LlamaForCausalLM" and f".{projection}." in name:
            split = values.reshape(heads, config.head_dim // 2, 2, -1)
            return np.ascontiguousarray(split.swapaxes(1, 2).reshape(values.shape))
    return values
