"""What a build reads, whatever it lies in: a configuration, tensors one at a time, a tokenizer.

Two formats fulfil it: a Hugging Face directory (:mod:`build_engine.source_hf`) and a GGUF file
(:mod:`build_engine.source_gguf`).

It does not know what becomes of a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from build_engine.decoder import DecoderConfig, FloatArray, expected_tensors
from build_engine.errors import CorruptSource, SourceError, TextError, UnsupportedModel


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
    """An opened model. ``read(name)`` returns float32 in the shape ``shapes[name]``; nothing of it is kept.
    ``origins`` says which file a tensor lies in."""

    path: Path
    origins: Mapping[str, Path]
    config: DecoderConfig
    tokenizer: TokenizerFiles
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], FloatArray]

    def finite(self, name: str) -> FloatArray:
        """``read(name)``, refused with :class:`CorruptSource` when a value is infinite or not a number: it would
        become silence or noise in int8, and nobody would know why."""
        values = self.read(name)
        if values.size and not np.isfinite([values.min(), values.max()]).all():
            raise CorruptSource(f"{self.origins[name]}: tensor {name} holds values that are infinite or not a number")
        return values


def named_files(path: Path, texts: Mapping[str, Path | None]) -> dict[str, Path]:
    """The files of a source and the user's ``texts`` by their use, under the names that they have in the manifest.
    Raises :class:`SourceError` or :class:`TextError` for what is not there."""
    for use, file in texts.items():
        if file is not None and not file.is_file():
            raise TextError(f"--{use} {file} is no file")
    return {file.name: file for file in source_files(path)} | {
        f"{use}/{file.name}": file for use, file in texts.items() if file is not None
    }


def source_files(path: Path) -> list[Path]:
    """The files whose content decides a build. Raises :class:`SourceError` when there is nothing at ``path``."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise SourceError(f"--source {path} does not exist")
    names = ("*.safetensors", "*.json", "*.jinja")
    files = sorted(file for pattern in names for file in path.glob(pattern))
    if not files:
        raise SourceError(f"--source {path} holds no model: no config.json, no *.safetensors")
    return files


def check(source: Source) -> Source:
    """The source, with tensors and tokenizer checked against its configuration. Raises :class:`CorruptSource`."""
    _check_tensors(source)
    _check_tokenizer(source)
    return source


def _check_tensors(source: Source) -> None:
    if source.config.layers > len(source.shapes):  # before anything is made for each layer
        raise CorruptSource(f"{source.path}: {source.config.layers} layers, but {len(source.shapes)} tensors")
    expected = expected_tensors(source.config)
    for name in sorted(source.shapes.keys() - expected.keys()):
        if name == "lm_head.bias" or (name.startswith("model.layers.") and name.endswith((".weight", ".bias"))):
            raise UnsupportedModel(
                f"{source.origins[name]}: tensor {name} has no place in {source.config.architecture} with "
                f"{source.config.layers} layers; leaving it out would change the model"
            )
    check_shapes(source.path, source.origins, source.shapes, expected)


def check_shapes(
    path: Path,
    origins: Mapping[str, Path],
    shapes: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
) -> None:
    """Every expected tensor is there, in its shape. Raises :class:`CorruptSource` naming file and tensor."""
    for name, wanted in expected.items():
        found = shapes.get(name)
        if found is None:
            raise CorruptSource(f"{path}: tensor {name} is missing")
        if tuple(found) != wanted:
            raise CorruptSource(
                f"{origins[name]}: tensor {name} has shape {list(found)}, the configuration says {list(wanted)}"
            )


def _check_tokenizer(source: Source) -> None:
    """The tokenizer can be loaded, and every token it can produce has a row in the embedding."""
    try:
        tokenizer = Tokenizer.from_str(source.tokenizer.json)
    except Exception as error:  # noqa: BLE001 - the package raises nothing narrower
        raise CorruptSource(f"{source.path}: its tokenizer cannot be loaded: {error}") from None
    if type(source.tokenizer.bos_token_id) not in (int, type(None)):
        raise CorruptSource(f"{source.path}: bos_token_id {source.tokenizer.bos_token_id!r} is no token id")
    rows = source.config.vocab_size
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}
    if beyond:
        token, number = min(beyond.items(), key=lambda pair: pair[1])
        raise CorruptSource(
            f"{source.path}: the tokenizer gives {token!r} the id {number}, but the embedding has {rows} rows; "
            "resize the embedding or remove the token"
        )
