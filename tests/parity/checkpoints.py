"""Tiny random checkpoints with the configurations of real models, saved by transformers itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

transformers.utils.logging.disable_progress_bar()
VOCABULARY = 160
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,  # so short that all three of its ranges take part
}


@dataclass(frozen=True)
class Configuration:
    """``settings`` over what all share; ``dtype`` and ``shards`` say how it is saved."""

    kind: type[transformers.PreTrainedConfig]
    settings: dict[str, Any]
    dtype: torch.dtype = torch.float32
    shards: bool = False
    shared: dict[str, Any] = field(
        default_factory=lambda: {
            "vocab_size": VOCABULARY,
            "hidden_size": 128,
            "intermediate_size": 192,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.1,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
    )


CONFIGURATIONS = {
    "llama-2": Configuration(
        transformers.LlamaConfig, {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}, dtype=torch.float16
    ),
    "llama-3.1": Configuration(
        transformers.LlamaConfig, {"rope_parameters": LLAMA3_ROPE, "rms_norm_eps": 1e-5}, torch.bfloat16, shards=True
    ),
    "llama-3.2": Configuration(
        transformers.LlamaConfig,
        {"rope_parameters": LLAMA3_ROPE | {"factor": 32.0}, "head_dim": 32, "tie_word_embeddings": True},
    ),
    "mistral": Configuration(
        transformers.MistralConfig,
        {"sliding_window": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
        torch.bfloat16,
    ),
    "mistral-window-as-long-as-the-context": Configuration(transformers.MistralConfig, {"sliding_window": 512}),
    "mistral-nemo": Configuration(
        transformers.MistralConfig, {"sliding_window": None, "hidden_size": 160, "head_dim": 32}, torch.bfloat16
    ),
    "qwen2": Configuration(transformers.Qwen2Config, {"use_sliding_window": False, "sliding_window": 64}),
    "qwen2.5-tied": Configuration(
        transformers.Qwen2Config,
        {
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "sliding_window": 32768,
            "max_window_layers": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        torch.bfloat16,
    ),
    "qwen2-no-layer-has-the-window": Configuration(
        transformers.Qwen2Config, {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 3}
    ),
    "qwen3": Configuration(
        transformers.Qwen3Config,
        {"head_dim": 64, "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
        torch.bfloat16,
        shards=True,
    ),
    "qwen3-tied": Configuration(transformers.Qwen3Config, {"head_dim": 32, "tie_word_embeddings": True}),
    "deepseek-llm": Configuration(
        transformers.LlamaConfig, {"num_key_value_heads": 4, "num_attention_heads": 4}, torch.bfloat16
    ),
    "deepseek-r1-distill-qwen": Configuration(
        transformers.Qwen2Config,
        {
            "num_attention_heads": 6,
            "num_key_value_heads": 1,
            "hidden_size": 192,
            "use_sliding_window": False,
            "sliding_window": 4096,
            "max_window_layers": 21,
            "use_mrope": False,
        },
        torch.bfloat16,
    ),
    "deepseek-r1-distill-llama": Configuration(
        transformers.LlamaConfig, {"rope_parameters": LLAMA3_ROPE, "pretraining_tp": 1}, torch.bfloat16
    ),
}


def save(configuration: Configuration, folder: Path, *, seed: int = 0) -> None:
    """Save the model and a tokenizer. Every parameter is random, those too that transformers starts at 0 or 1: a norm
    or a bias that is forgotten shows."""
    torch.manual_seed(seed)
    config = configuration.kind(**configuration.shared | configuration.settings)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    size = "200KB" if configuration.shards else "5GB"
    model.to(configuration.dtype).save_pretrained(folder, max_shard_size=size)
    assert (folder / "model.safetensors.index.json").exists() == configuration.shards
    tokenizer(folder)


def tokenizer(folder: Path) -> None:
    """A word-level tokenizer as transformers saves one."""
    words = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(3, VOCABULARY))]
    vocabulary = {word: number for number, word in enumerate(words)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)


def load(folder: Path) -> transformers.PreTrainedModel:
    """The checkpoint as transformers itself reads it, computing in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
