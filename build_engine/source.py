"""What a build reads, whatever it lies in: a configuration, tensors one at a time, a tokenizer.

Two formats fulfil it: a Hugging Face directory (:mod:`build_engine.source_hf`) and a GGUF file
(:mod:`build_engine.source_gguf`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from build_engine.decoder import DecoderConfig, FloatArray, expected_tensors
from build_engine.errors import CorruptSource


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer as the backend wants it. ``json`` is the text of a ``tokenizers`` ``tokenizer.json``."""

    json: str
    bos_token_id: int | None
    bos_token: str
    eos_token_ids: tuple[int, ...]
    eos_token: str
    special_tokens: tuple[str, ...]
    chat_template: str


@dataclass(frozen=True)
class Source:
    """An opened model. ``read(name)`` returns float32 in the shape ``shapes[name]``; nothing of it is kept."""

    path: Path
    files: tuple[Path, ...]
    config: DecoderConfig
    tokenizer: TokenizerFiles
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], FloatArray]


def check_tensors(source: Source) -> Source:
    """Every tensor the decoder reads is there in its shape. Raises :class:`CorruptSource` with file and tensor."""
    for name, wanted in expected_tensors(source.config).items():
        found = source.shapes.get(name)
        if found is None:
            raise CorruptSource(f"{source.path}: tensor {name} is missing")
        if tuple(found) != wanted:
            raise CorruptSource(f"{source.path}: tensor {name} has shape {list(found)}, config says {list(wanted)}")
    return source
