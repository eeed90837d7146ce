"""A Hugging Face directory: ``config.json``, safetensors (one file or sharded) and ``tokenizer.json``.

Tensors are read one at a time out of a memory map; float16 and bfloat16 are widened to float32. The layout of a
safetensors file (eight bytes of header length, JSON header, data) is that of the safetensors format description.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from build_engine.decoder import FloatArray
from build_engine.errors import CorruptSource, SourceError, UnsupportedModel
from build_engine.hf_config import decoder_config
from build_engine.source import Source, TokenizerFiles, check_tensors

WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
HEADER_LIMIT_BYTES = 100_000_000


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: ``begin`` is its byte offset in ``file``."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int


def open_directory(path: Path) -> Source:
    """Open and check a model directory. Raises :class:`SourceError` and its kin."""
    raw_config = read_json(path / "config.json")
    files = _weight_files(path)
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        tensors.update(read_header(file))
    tied = bool(raw_config.get("tie_word_embeddings", False)) or "lm_head.weight" not in tensors
    config = decoder_config(raw_config, tie_embeddings=tied)
    named = [
        path / name for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
    ]
    named += [path / "chat_template.jinja"]
    source = Source(
        path=path,
        files=(*(file for file in named if file.exists()), *files),
        config=config,
        tokenizer=_tokenizer(path, raw_config),
        shapes={name: tensor.shape for name, tensor in tensors.items()},
        read=partial(_read, tensors),
    )
    return check_tensors(source)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file that must exist."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(f"{path} does not exist; a Hugging Face directory has one") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptSource(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise CorruptSource(f"{path} holds no JSON object")
    return content


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file; checks types, offsets and the file's length."""
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        raise CorruptSource(f"{file} does not exist, but the index names it") from None
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(HEADER_LIMIT_BYTES, size - 8):
            raise CorruptSource(f"{file} is truncated: its header does not fit into {size} bytes")
        try:
            header = json.loads(stream.read(length))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CorruptSource(f"{file} has no readable safetensors header: {error}") from None
    header.pop("__metadata__", None)
    return {name: _stored(file, name, entry, 8 + length, size) for name, entry in header.items()}


def _stored(file: Path, name: str, entry: dict[str, Any], base: int, size: int) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise CorruptSource(f"{file}: tensor {name} has a malformed header entry") from None
    if dtype not in WIDTHS:
        raise UnsupportedModel(f"{file}: tensor {name} is {dtype}; F32, F16 and BF16 can be read")
    if end - begin != int(np.prod(shape, dtype=np.int64)) * WIDTHS[dtype] or begin < 0:
        raise CorruptSource(f"{file}: tensor {name} takes {end - begin} bytes, its shape {list(shape)} needs others")
    if base + end > size:
        raise CorruptSource(f"{file} is truncated: tensor {name} ends at byte {base + end} of {size}")
    return StoredTensor(file, dtype, shape, base + begin)


def _read(tensors: dict[str, StoredTensor], name: str) -> FloatArray:
    tensor = tensors[name]
    kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[tensor.dtype]
    mapped = np.memmap(tensor.file, kind, "r", tensor.begin, tensor.shape)
    if tensor.dtype == "BF16":
        return (mapped.astype(np.uint32) << 16).view(np.float32)
    return np.array(mapped, np.float32)


def _weight_files(path: Path) -> list[Path]:
    if not path.is_dir():
        raise SourceError(f"{path} does not exist")
    index = path / "model.safetensors.index.json"
    if index.exists():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise CorruptSource(f"{index} has no weight_map")
        return [path / Path(name).name for name in sorted(set(shards.values()))]
    files = sorted(path.glob("*.safetensors"))
    if not files:
        old = next(iter(sorted(path.glob("*.bin"))), None)
        hint = f"; {old.name} is a pickle: save the model with safe_serialization=True" if old else ""
        raise SourceError(f"{path} has no *.safetensors file{hint}")
    return files


def _tokenizer(path: Path, config: dict[str, Any]) -> TokenizerFiles:
    file = path / "tokenizer.json"
    if not file.exists():
        raise SourceError(f"{file} does not exist; save the tokenizer as a fast one (tokenizer.json)")
    content = read_json(file)
    settings_file = path / "tokenizer_config.json"
    settings = read_json(settings_file) if settings_file.exists() else {}
    generation_file = path / "generation_config.json"
    generation = read_json(generation_file) if generation_file.exists() else {}
    added = {each["content"]: each["id"] for each in content.get("added_tokens", [])}
    special = tuple(each["content"] for each in content.get("added_tokens", []) if each.get("special"))
    bos, eos = _token_text(settings.get("bos_token")), _token_text(settings.get("eos_token"))
    stops = generation.get("eos_token_id", config.get("eos_token_id"))
    ends = {stops} if isinstance(stops, int) else set(stops or ())
    ends |= {added[eos]} if eos in added else set()
    template_file = path / "chat_template.jinja"
    template = template_file.read_text() if template_file.exists() else settings.get("chat_template") or ""
    return TokenizerFiles(
        json=file.read_text(encoding="utf-8"),
        bos_token_id=added.get(bos, config.get("bos_token_id")),
        bos_token=bos,
        eos_token_ids=tuple(sorted(ends)),
        eos_token=eos,
        special_tokens=special,
        chat_template=template if isinstance(template, str) else _default_template(template),
    )


def _token_text(value: object) -> str:
    """A token setting is a string, an object with ``content``, or absent."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def _default_template(named: list[dict[str, str]]) -> str:
    """Several named templates: the one called ``default``."""
    return next((each["template"] for each in named if each.get("name") == "default"), "")
