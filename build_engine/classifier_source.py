"""A classifier's checkpoint: a Hugging Face directory of a BERT-type encoder, opened and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from build_engine.decoder import FloatArray
from build_engine.encoder import LAYER, EncoderConfig, encoder_config, expected_tensors
from build_engine.errors import CorruptSource, UnsupportedModel
from build_engine.source import TokenizerFiles, check_shapes
from build_engine.source_hf import StoredTensor, read_all_headers, read_json, read_tensor, tokenizer_files


@dataclass(frozen=True)
class ClassifierSource:
    """An opened checkpoint."""

    config: EncoderConfig
    tokenizer: TokenizerFiles
    tensors: dict[str, StoredTensor]

    def read(self, name: str) -> FloatArray:
        """A tensor as float32. Raises :class:`CorruptSource` when a value is infinite or not a number."""
        values = read_tensor(self.tensors[name])
        if not np.isfinite(values).all():
            raise CorruptSource(f"{self.tensors[name].file}: tensor {name} holds values that are not finite")
        return values


def open_classifier(path: Path) -> ClassifierSource:
    """Open and check a Hugging Face directory. Raises :class:`build_engine.errors.SourceError`."""
    raw = read_json(path / "config.json")
    config, tensors = encoder_config(raw), read_all_headers(path)
    expected = expected_tensors(config)
    origins = {name: tensor.file for name, tensor in tensors.items()}
    check_shapes(path, origins, {name: tensor.shape for name, tensor in tensors.items()}, expected)
    for name in sorted(tensors.keys() - expected.keys()):
        if name.startswith((f"{LAYER}.", "classifier.")):
            raise UnsupportedModel(
                f"{origins[name]}: tensor {name} has no place in {config.architecture} with {config.layers} layers; "
                "leaving it out would change the model"
            )
    return ClassifierSource(config, tokenizer_files(path, raw), tensors)


def ready_tokenizer(source: ClassifierSource, path: Path, max_tokens: int) -> Tokenizer:
    """The tokenizer, cutting at ``max_tokens`` and padding a batch. Raises :class:`CorruptSource`."""
    try:
        tokenizer = Tokenizer.from_str(source.tokenizer.json)
    except Exception as error:  # noqa: BLE001 - the package raises nothing narrower
        raise CorruptSource(f"{path}: its tokenizer cannot be loaded: {error}") from None
    beyond = max(tokenizer.get_vocab().values(), default=0)
    if beyond >= source.config.vocab_size:
        raise CorruptSource(
            f"{path}: the tokenizer gives the id {beyond}, the embedding has {source.config.vocab_size}"
        )
    tokenizer.enable_truncation(max_tokens)
    pad = next((token for token in ("[PAD]", "<pad>") if tokenizer.token_to_id(token) is not None), None)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(pad) if pad else 0, pad_token=pad or "[PAD]")
    return tokenizer
