"""Tiny random BERT classifiers, written the way transformers writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from .checkpoints import Float32, write_safetensors

TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij你好天气", *(f"##{each}" for each in "abcdefghij"))
HIDDEN, INNER, LAYERS, HEADS, POSITIONS, LABELS = 32, 64, 2, 4, 24, ("calm", "angry", "中")
CONFIG: dict[str, Any] = {
    "architectures": ["BertForSequenceClassification"],
    "vocab_size": len(TOKENS),
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "id2label": {str(number): label for number, label in enumerate(LABELS)},
}


def weights(seed: int = 0) -> dict[str, Float32]:
    """Every tensor by its name in transformers, ``[out, in]``."""
    draw = np.random.default_rng(seed)
    found: dict[str, Float32] = {}

    def matrix(name: str, rows: int, columns: int, spread: float = 1.5) -> None:
        found[f"{name}.weight"] = (spread * draw.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    def dense(name: str, rows: int, columns: int) -> None:
        matrix(name, rows, columns)
        found[f"{name}.bias"] = (0.2 * draw.standard_normal(rows)).astype(np.float32)

    def norm(name: str) -> None:
        found[f"{name}.weight"] = (1 + 0.2 * draw.standard_normal(HIDDEN)).astype(np.float32)
        found[f"{name}.bias"] = (0.2 * draw.standard_normal(HIDDEN)).astype(np.float32)

    for kind, rows in (("word", len(TOKENS)), ("position", POSITIONS), ("token_type", 2)):
        matrix(f"bert.embeddings.{kind}_embeddings", rows, HIDDEN, 4.0)
    norm("bert.embeddings.LayerNorm")
    for layer in range(LAYERS):
        base = f"bert.encoder.layer.{layer}"
        for kind in ("query", "key", "value"):
            dense(f"{base}.attention.self.{kind}", HIDDEN, HIDDEN)
        dense(f"{base}.attention.output.dense", HIDDEN, HIDDEN)
        norm(f"{base}.attention.output.LayerNorm")
        dense(f"{base}.intermediate.dense", INNER, HIDDEN)
        dense(f"{base}.output.dense", HIDDEN, INNER)
        norm(f"{base}.output.LayerNorm")
    dense("bert.pooler.dense", HIDDEN, HIDDEN)
    dense("classifier", len(LABELS), HIDDEN)
    return found


def tokenizer() -> Tokenizer:
    """Word pieces of one character."""
    made = Tokenizer(models.WordPiece({token: number for number, token in enumerate(TOKENS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def write_encoder(folder: Path, tensors: dict[str, Float32] | None = None, **changes: Any) -> Path:
    """A whole directory; ``changes`` replace keys of ``config.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    tokenizer().save(str(folder / "tokenizer.json"))
    write_safetensors(folder / "model.safetensors", weights() if tensors is None else tensors)
    return folder


def some_texts(count: int, seed: int) -> list[str]:
    """Random words of different lengths."""
    draw = np.random.default_rng(seed)
    letters = list("abcdefghij 你好天气")
    return ["".join(draw.choice(letters, draw.integers(1, 40))) + f" {number}" for number in range(count)]


def write_texts(file: Path, count: int, seed: int) -> Path:
    """Some of them as JSON lines."""
    file.write_text("\n".join(json.dumps({"text": text}) for text in some_texts(count, seed)), encoding="utf-8")
    return file
