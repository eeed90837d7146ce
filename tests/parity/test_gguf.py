"""A GGUF file of each architecture says what transformers says of the checkpoint that it was made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from checkpoints import VOCABULARY, load
from compare import built, engine_logits, torch_logits

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("llama-2", "llama"), ("mistral-nemo", "llama"), ("qwen2.5-tied", "qwen2"), ("qwen3", "qwen3")],
)
def test_logits_equal_transformers(
    checkpoint: Callable[[str], Path], tmp_path: Path, name: str, architecture: str
) -> None:
    """Names, permuted heads, biases and norms of the format, in float32 tensors."""
    model = load(checkpoint(name))
    file = tmp_path / "model.gguf"
    write(file, model, architecture)
    np.testing.assert_allclose(engine_logits(built(file, tmp_path)), torch_logits(model), rtol=0, atol=1e-4)


def write(file: Path, model: Any, architecture: str) -> None:
    """The model as llama.cpp's converter writes it: q and k of the llama architecture with each head's halves
    interleaved."""
    config = model.config
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(["a", "b", "ab", *(f"w{number}" for number in range(3, VOCABULARY))])
    writer.add_token_types([gguf.TokenType.NORMAL] * VOCABULARY)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(3)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        module, _, kind = name.rpartition(".")
        values = tensor.numpy()
        for projection, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if architecture == "llama" and module.endswith(projection):
                split = values.reshape(heads, 2, values.shape[0] // heads // 2, -1)
                values = np.ascontiguousarray(split.swapaxes(1, 2).reshape(values.shape))
        if module.startswith("model.layers."):
            _, _, layer, inner = module.split(".", 3)
            module = f"blk.{layer}.{NAMES[inner]}"
        else:
            module = NAMES[module]
        writer.add_tensor(f"{module}.{kind}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
