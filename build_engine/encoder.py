"""A BERT-type encoder with a classification head: its shape, its tensors, and what is refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from build_engine.errors import CorruptSource, UnsupportedModel

ARCHITECTURE = "BertForSequenceClassification"
ACTIVATIONS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
"""The names of transformers, and what ONNX calls the approximation."""
PREFIX, LAYER = "bert.embeddings", "bert.encoder.layer"


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes in channels, ``positions`` in tokens, ``labels`` in the order of the head's outputs."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    positions: int
    token_types: int
    norm_eps: float
    activation: str
    labels: tuple[str, ...]

    @property
    def head_dim(self) -> int:
        """Channels of an attention head."""
        return self.hidden_size // self.heads


def encoder_config(raw: dict[str, Any]) -> EncoderConfig:
    """From the content of ``config.json``. Raises :class:`UnsupportedModel` or :class:`CorruptSource` naming the
    field."""
    named = raw.get("architectures") or ["(none)"]
    if named[0] != ARCHITECTURE:
        raise UnsupportedModel(
            f"config.json: architecture {named[0]} cannot be a classifier here; supported: {ARCHITECTURE}; another one "
            "needs its embeddings and head described"
        )
    position = raw.get("position_embedding_type", "absolute")
    if position != "absolute":
        raise UnsupportedModel(f"config.json: position_embedding_type {position}; only absolute can be emitted")
    activation = raw.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise UnsupportedModel(f"config.json: hidden_act {activation}; supported: {', '.join(ACTIVATIONS)}")
    if raw.get("problem_type") not in (None, "single_label_classification"):
        raise UnsupportedModel(f"config.json: problem_type {raw['problem_type']}; only one label a text can be served")
    config = EncoderConfig(
        architecture=ARCHITECTURE,
        vocab_size=_positive(raw, "vocab_size"),
        hidden_size=_positive(raw, "hidden_size"),
        intermediate_size=_positive(raw, "intermediate_size"),
        layers=_positive(raw, "num_hidden_layers"),
        heads=_positive(raw, "num_attention_heads"),
        positions=_positive(raw, "max_position_embeddings"),
        token_types=_positive(raw, "type_vocab_size"),
        norm_eps=float(raw.get("layer_norm_eps", 1e-12)),
        activation=ACTIVATIONS[activation],
        labels=_labels(raw),
    )
    if config.hidden_size % config.heads:
        raise CorruptSource("config.json: hidden_size must be a multiple of num_attention_heads")
    return config


def _labels(raw: dict[str, Any]) -> tuple[str, ...]:
    names = raw.get("id2label")
    if not isinstance(names, dict) or {str(number) for number in range(len(names))} != set(names):
        raise CorruptSource("config.json: id2label must name the labels 0, 1, ...")
    labels = tuple(str(names[str(number)]) for number in range(len(names)))
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise UnsupportedModel("config.json: id2label must have two different labels or more; a regression has none")
    return labels


def _positive(raw: dict[str, Any], field: str) -> int:
    value = raw.get(field)
    if type(value) is not int or value < 1:
        raise CorruptSource(f"config.json: {field} must be a positive integer, not {value!r}")
    return value


def projections(config: EncoderConfig, layer: int) -> dict[str, str]:
    """The weight of every matrix product of a layer, by what it does."""
    base = f"{LAYER}.{layer}"
    found = {kind: f"{base}.attention.self.{kind}.weight" for kind in ("query", "key", "value")}
    found["output"] = f"{base}.attention.output.dense.weight"
    return found | {"up": f"{base}.intermediate.dense.weight", "down": f"{base}.output.dense.weight"}


def expected_tensors(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor by its name in transformers; matrices are ``[out, in]``."""
    hidden, inner = config.hidden_size, config.intermediate_size
    found: dict[str, tuple[int, ...]] = {
        f"{PREFIX}.word_embeddings.weight": (config.vocab_size, hidden),
        f"{PREFIX}.position_embeddings.weight": (config.positions, hidden),
        f"{PREFIX}.token_type_embeddings.weight": (config.token_types, hidden),
        "bert.pooler.dense.weight": (hidden, hidden),
        "bert.pooler.dense.bias": (hidden,),
        "classifier.weight": (len(config.labels), hidden),
        "classifier.bias": (len(config.labels),),
    }
    norms = [f"{PREFIX}.LayerNorm"]
    for layer in range(config.layers):
        for kind, weight in projections(config, layer).items():
            rows, columns = {"up": (inner, hidden), "down": (hidden, inner)}.get(kind, (hidden, hidden))
            found[weight] = (rows, columns)
            found[weight.replace(".weight", ".bias")] = (rows,)
        norms += [f"{LAYER}.{layer}.attention.output.LayerNorm", f"{LAYER}.{layer}.output.LayerNorm"]
    for norm in norms:
        found[f"{norm}.weight"] = found[f"{norm}.bias"] = (hidden,)
    return found
