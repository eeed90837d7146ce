"""Tiny random models, written the way others write them: Hugging Face directories and GGUF files.

Nothing here comes from the builder: names, shapes and layouts are those of transformers, of the safetensors format and
of llama.cpp, so that a wrong reading cannot be cancelled by an equally wrong writing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

Float32 = npt.NDArray[np.float32]
WORDS = np.random.default_rng(5)

SPECIAL_TOKENS = ("<|begin|>", "<|end|>", "<|user|>")
MERGES = [("t", "h"), ("th", "e")]
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENS = (*ALPHABET, "th", "the", *SPECIAL_TOKENS)
BEGIN, END = TOKENS.index("<|begin|>"), TOKENS.index("<|end|>")
CHAT_TEMPLATE = "{% for message in messages %}<|user|>{{ message['content'] }}{% endfor %}"
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Shape:
    """A model of two layers whose width of 64 makes int8 groups, and whose inner width of 96 makes none."""

    architecture: str = "LlamaForCausalLM"
    vocab: int = 264
    hidden: int = 64
    inner: int = 96
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    context: int = 256
    theta: float = 10000.0
    eps: float = 1e-5
    tied: bool = False
    rope: Mapping[str, Any] | None = None

    @property
    def qkv_bias(self) -> bool:
        """Qwen2 has biases on q, k and v, Llama none at all."""
        return self.architecture == "Qwen2ForCausalLM"


def weights(shape: Shape, seed: int = 0) -> dict[str, Float32]:
    """Every tensor by its name in transformers, ``[out, in]``."""
    rng = np.random.default_rng(seed)
    found: dict[str, Float32] = {}

    def matrix(name: str, rows: int, columns: int) -> None:
        found[name] = (rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    def vector(name: str, size: int, around: float) -> None:
        found[name] = (around + 0.3 * rng.standard_normal(size)).astype(np.float32)

    matrix("model.embed_tokens.weight", shape.vocab, shape.hidden)
    found["model.embed_tokens.weight"] *= 4
    vector("model.norm.weight", shape.hidden, 1.0)
    if not shape.tied:
        matrix("lm_head.weight", shape.vocab, shape.hidden)
    q_rows, kv_rows = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    for layer in range(shape.layers):
        base = f"model.layers.{layer}"
        for kind, rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
            matrix(f"{base}.self_attn.{kind}_proj.weight", rows, shape.hidden)
            if shape.qkv_bias:
                vector(f"{base}.self_attn.{kind}_proj.bias", rows, 0.0)
        matrix(f"{base}.self_attn.o_proj.weight", shape.hidden, q_rows)
        matrix(f"{base}.mlp.gate_proj.weight", shape.inner, shape.hidden)
        matrix(f"{base}.mlp.up_proj.weight", shape.inner, shape.hidden)
        matrix(f"{base}.mlp.down_proj.weight", shape.hidden, shape.inner)
        vector(f"{base}.input_layernorm.weight", shape.hidden, 1.0)
        vector(f"{base}.post_attention_layernorm.weight", shape.hidden, 1.0)
    return found


def rounded(values: Float32, dtype: str) -> Float32:
    """What remains of ``values`` in F32, F16 or BF16; bfloat16 is the upper half of a float32, cut off."""
    if dtype == "BF16":
        return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return values.astype(np.float16).astype(np.float32) if dtype == "F16" else values


def raw(values: Float32, dtype: str) -> bytes:
    """The little-endian bytes of a stored tensor."""
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def write_safetensors(file: Path, tensors: Mapping[str, Float32], dtype: str = "F32") -> Path:
    """Eight bytes of header length, the header, the data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, values in tensors.items():
        content = raw(values, dtype)
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": offsets}
        data += content
    return write_raw_safetensors(file, header, data)


def write_raw_safetensors(file: Path, header: object, data: bytes) -> Path:
    """A safetensors file of any header at all."""
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return file


def config(shape: Shape) -> dict[str, Any]:
    """``config.json`` as transformers 4 writes it."""
    return {
        "architectures": [shape.architecture],
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.eps,
        "rope_theta": shape.theta,
        "rope_scaling": dict(shape.rope) if shape.rope else None,
        "tie_word_embeddings": shape.tied,
        "hidden_act": "silu",
        "bos_token_id": BEGIN,
        "eos_token_id": END,
    }


def tokenizer() -> Tokenizer:
    """Byte-level BPE with two merges and three special tokens."""
    vocabulary = {token: number for number, token in enumerate(TOKENS) if token not in SPECIAL_TOKENS}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=MERGES))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return made


def write_directory(
    folder: Path, shape: Shape | None = None, *, dtype: str = "F32", shards: int = 1, **changes: Any
) -> Path:
    """A whole model directory; ``changes`` replace keys of ``config.json``."""
    shape = shape or Shape()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(shape) | changes))
    tokenizer().save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<|begin|>", "eos_token": {"content": "<|end|>"}, "chat_template": CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tensors = weights(shape)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors, dtype)
        return folder
    weight_map = {}
    for number in range(shards):
        part = {name: tensors[name] for name in list(tensors)[number::shards]}
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        write_safetensors(folder / file, part, dtype)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor of transformers."""
    for ours, theirs in GGUF_NAMES.items():
        name = name.replace(ours, theirs)
    return name.replace("model.layers.", "blk.")


def interleaved(values: Float32, heads: int) -> Float32:
    """The row order that llama.cpp's converter gives q and k of a llama (``permute`` of convert_hf_to_gguf.py)."""
    return (
        values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    )


def write_gguf(file: Path, shape: Shape | None = None, *, quantised: bool = False, **metadata: Any) -> Path:
    """A GGUF file as llama.cpp's converter writes it; matrices in Q8_0 when ``quantised``. ``metadata`` replaces keys
    by their name with ``__`` for ``.``; None leaves one out."""
    shape = shape or Shape()
    kind = "qwen2" if shape.qkv_bias else "llama"
    writer = gguf.GGUFWriter(file, kind)
    changes = {key.replace("__", "."): value for key, value in metadata.items()}
    for key, value in (changes | gguf_metadata(shape, kind) | changes).items():
        if value is not None:
            _add(writer, key, value)
    for name, values in weights(shape).items():
        stored = values
        if kind == "llama" and ("q_proj" in name or "k_proj" in name):
            stored = interleaved(values, shape.heads if "q_proj" in name else shape.kv_heads)
        if quantised and values.ndim == 2:
            q8 = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(stored, q8), raw_dtype=q8)
        else:
            writer.add_tensor(gguf_name(name), stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def gguf_metadata(shape: Shape, kind: str) -> dict[str, Any]:
    """What llama.cpp's converter says about a model."""
    return {
        f"{kind}.context_length": shape.context,
        f"{kind}.embedding_length": shape.hidden,
        f"{kind}.block_count": shape.layers,
        f"{kind}.feed_forward_length": shape.inner,
        f"{kind}.attention.head_count": shape.heads,
        f"{kind}.attention.head_count_kv": shape.kv_heads,
        f"{kind}.attention.key_length": shape.head_dim,
        f"{kind}.attention.layer_norm_rms_epsilon": shape.eps,
        f"{kind}.rope.freq_base": shape.theta,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": list(TOKENS),
        "tokenizer.ggml.token_type": [3 if token in SPECIAL_TOKENS else 1 for token in TOKENS],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in MERGES],
        "tokenizer.ggml.bos_token_id": BEGIN,
        "tokenizer.ggml.eos_token_id": END,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)


def write_text(file: Path, lines: int = 30) -> Path:
    """JSON lines of random words, other ones each time."""
    words = ["".join(WORDS.choice(list("abcdeth"), WORDS.integers(1, 8))) for _ in range(400)]
    texts = (" ".join(WORDS.choice(words, 40)) for _ in range(lines))
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    return file
