"""A GGUF file (llama.cpp's format): one file with configuration, tensors, tokenizer and chat template.

Tensors are dequantised one at a time by the ``gguf`` package. llama.cpp stores the q and k rows of the llama
architecture with the two halves of each head interleaved; that is undone here.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from build_engine.decoder import DecoderConfig, FloatArray, Llama3RopeScaling
from build_engine.errors import CorruptSource, UnsupportedModel
from build_engine.source import Source, TokenizerFiles, check_tensors

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
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
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN = 3
# The split patterns of the models' own tokenizers, by llama.cpp's name for them.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


def open_gguf(path: Path) -> Source:
    """Open and check a GGUF file. Raises :class:`SourceError` and its kin."""
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, OverflowError, UnicodeDecodeError) as error:
        raise CorruptSource(f"{path} is not a readable GGUF file: {error}") from None
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
    architecture = str(fields.get("general.architecture"))
    if architecture not in ARCHITECTURES:
        raise UnsupportedModel(f"{path}: architecture {architecture}; supported: {', '.join(ARCHITECTURES)}")
    tensors = {_hf_name(tensor.name): tensor for tensor in reader.tensors}
    shapes = {name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in tensors.items()}
    if "model.embed_tokens.weight" not in shapes:
        raise CorruptSource(f"{path}: tensor token_embd.weight is missing")
    config = _config(path, fields, architecture, shapes)
    tokenizer = _tokenizer(path, reader)
    return check_tensors(Source(path, (path,), config, tokenizer, shapes, partial(_read, tensors, config)))


def _hf_name(name: str) -> str:
    if name in GLOBAL_NAMES:
        return GLOBAL_NAMES[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in LAYER_NAMES:
        return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.{parts[3]}"
    return name


def _config(path: Path, fields: dict[str, Any], architecture: str, shapes: dict[str, tuple[int, ...]]) -> DecoderConfig:
    def field(name: str) -> Any:
        if f"{architecture}.{name}" not in fields:
            raise CorruptSource(f"{path}: metadata {architecture}.{name} is missing")
        return fields[f"{architecture}.{name}"]

    if fields.get(f"{architecture}.expert_count"):
        raise UnsupportedModel(f"{path}: a mixture of experts; it would need a routing operator")
    scaling = fields.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none":
        raise UnsupportedModel(f"{path}: rope scaling {scaling} in a GGUF file; build from the safetensors instead")
    if "rope_freqs.weight" in shapes:
        raise UnsupportedModel(
            f"{path}: rope_freqs (llama3 scaling) in a GGUF file; build from the safetensors instead"
        )
    heads, hidden = int(field("attention.head_count")), int(field("embedding_length"))
    no_scaling: Llama3RopeScaling | None = None
    return DecoderConfig(
        architecture=ARCHITECTURES[architecture],
        vocab_size=shapes["model.embed_tokens.weight"][0],
        hidden_size=hidden,
        intermediate_size=int(field("feed_forward_length")),
        layers=int(field("block_count")),
        heads=heads,
        kv_heads=int(fields.get(f"{architecture}.attention.head_count_kv", heads)),
        head_dim=int(fields.get(f"{architecture}.attention.key_length", hidden // heads)),
        rms_eps=float(field("attention.layer_norm_rms_epsilon")),
        context_length=int(field("context_length")),
        tie_embeddings="lm_head.weight" not in shapes,
        rope_theta=float(fields.get(f"{architecture}.rope.freq_base", 10000.0)),
        rope_scaling=no_scaling,
        qkv_bias=architecture == "qwen2",
    )


def _read(tensors: dict[str, Any], config: DecoderConfig, name: str) -> FloatArray:
    tensor = tensors[name]
    values = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
    values = values.reshape([int(size) for size in reversed(tensor.shape)])
    for projection, heads in (("q_proj", config.heads), ("k_proj", config.kv_heads)):
        if config.architecture == "LlamaForCausalLM" and f".{projection}." in name:
            split = values.reshape(heads, config.head_dim // 2, 2, -1)
            return np.ascontiguousarray(split.swapaxes(1, 2).reshape(values.shape))
    return values


def _tokenizer(path: Path, reader: gguf.GGUFReader) -> TokenizerFiles:
    def field(name: str, default: Any = None) -> Any:
        found = reader.get_field(f"tokenizer.{name}")
        return default if found is None else found.contents()

    if field("ggml.model") != "gpt2":
        raise UnsupportedModel(f"{path}: tokenizer model {field('ggml.model')}; only byte-level BPE (gpt2) can be read")
    tokens: list[str] = field("ggml.tokens")
    special = tuple(
        token for token, kind in zip(tokens, field("ggml.token_type"), strict=True) if kind == CONTROL_TOKEN
    )
    merges = [tuple(merge.split(" ", 1)) for merge in field("ggml.merges")]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    pre = field("ggml.pre", "")
    model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre == "llama-bpe")
    tokenizer = Tokenizer(model)
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(path, pre)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    bos, eos = field("ggml.bos_token_id"), field("ggml.eos_token_id")
    if bos is not None and field("ggml.add_bos_token", False):
        text = tokens[bos]
        tokenizer.post_processor = processors.TemplateProcessing(f"{text} $A", f"{text} $A $B", [(text, bos)])
    return TokenizerFiles(
        json=json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False),
        bos_token_id=bos,
        bos_token="" if bos is None else tokens[bos],
        eos_token_ids=() if eos is None else (int(eos),),
        eos_token="" if eos is None else tokens[eos],
        special_tokens=special,
        chat_template=field("chat_template", ""),
    )


def _pre_tokenizer(path: Path, pre: str) -> pre_tokenizers.PreTokenizer:
    if pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    pattern = {"llama-bpe": LLAMA3_SPLIT, "qwen2": QWEN2_SPLIT}.get(pre)
    if pattern is None:
        raise UnsupportedModel(f"{path}: pre-tokenizer {pre or '(none)'}; supported: smollm, llama-bpe, qwen2")
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
