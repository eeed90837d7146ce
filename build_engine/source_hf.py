"""A Hugging Face directory: ``config.json``, safetensors (one file or sharded) and ``tokenizer.json``.

Tensors are read one at a time out of a memory map; float16 and bfloat16 are widened to float32. The layout of a
safetensors file (eight bytes of header length, JSON header, data) is that of the safetensors format description.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from build_engine.decoder import FloatArray
from build_engine.errors import CorruptSource, SourceError, UnsupportedModel
from build_engine.hf_config import decoder_config
from build_engine.source import Source, TokenizerFiles, check

WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
HEADER_LIMIT_BYTES = 100_000_000


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: ``begin`` is its byte offset in ``file``."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int


def open_directory(path: Path, context_length: int | None = None) -> Source:
    """Open and check a model directory; ``context_length`` replaces the model's own. Raises :class:`SourceError`."""
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        raise UnsupportedModel(f"{path} is a LoRA adapter; give its base model as --source and this as --adapter")
    raw_config = read_json(path / "config.json")
    tensors = read_all_headers(path)
    # Without the setting, a model that brings no head is tied; with `false` the head is missing.
    tied = bool(raw_config.get("tie_word_embeddings", "lm_head.weight" not in tensors))
    source = Source(
        path=path,
        origins={name: tensor.file for name, tensor in tensors.items()},
        config=decoder_config(raw_config, tie_embeddings=tied, context_length=context_length),
        tokenizer=tokenizer_files(path, raw_config),
        shapes={name: tensor.shape for name, tensor in tensors.items()},
        read=lambda name: read_tensor(tensors[name]),
    )
    return check(source)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file that must exist."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(f"{path} does not exist; a Hugging Face directory has one") from None
    except (ValueError, RecursionError) as error:
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
        except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, a number of 5000 digits, nested too deep
            raise CorruptSource(f"{file} has no readable safetensors header: {error}") from None
    if not isinstance(header, dict):
        raise CorruptSource(f"{file} has no readable safetensors header: it is no JSON object")
    header.pop("__metadata__", None)
    stored = {name: _stored(file, name, entry, 8 + length, size) for name, entry in header.items()}
    tensors = {name: tensor for name, tensor in stored.items() if tensor is not None}
    _refuse_overlaps(file, tensors)
    return tensors


def _stored(file: Path, name: str, entry: dict[str, Any], base: int, size: int) -> StoredTensor | None:
    """Where the tensor lies; None for a buffer of another type, such as the ``position_ids`` of older checkpoints,
    which nobody reads. Weights and biases must have a type that can be read."""
    try:
        dtype, shape, (begin, end) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise CorruptSource(f"{file}: tensor {name} has a malformed header entry") from None
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise CorruptSource(f"{file}: tensor {name} has a malformed header entry")
    if base + end > size:
        raise CorruptSource(f"{file} is truncated: tensor {name} ends at byte {base + end} of {size}")
    if dtype not in WIDTHS and not name.endswith((".weight", ".bias")):
        return None
    if dtype not in WIDTHS:
        raise UnsupportedModel(f"{file}: tensor {name} is {dtype}; F32, F16 and BF16 can be read")
    if end - begin != math.prod(shape) * WIDTHS[dtype]:
        raise CorruptSource(f"{file}: tensor {name} takes {end - begin} bytes, its shape {list(shape)} needs others")
    return StoredTensor(file, dtype, shape, base + begin)


def _refuse_overlaps(file: Path, tensors: dict[str, StoredTensor]) -> None:
    ordered = sorted(tensors.items(), key=lambda item: item[1].begin)
    for (before, first), (name, second) in itertools.pairwise(ordered):
        if first.begin + math.prod(first.shape) * WIDTHS[first.dtype] > second.begin:
            raise CorruptSource(f"{file}: tensors {before} and {name} overlap")


def read_tensor(tensor: StoredTensor) -> FloatArray:
    """Its values, widened to float32, in memory of their own."""
    kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[tensor.dtype]
    mapped = np.memmap(tensor.file, kind, "r", tensor.begin, tensor.shape)
    if tensor.dtype == "BF16":
        return (mapped.astype(np.uint32) << 16).view(np.float32)
    return np.array(mapped, np.float32)


def read_all_headers(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of the directory; of the shards that the index names, when there is one."""
    index = path / "model.safetensors.index.json"
    if index.exists():
        return _sharded(path, index)
    single = path / "model.safetensors"
    files = [single] if single.exists() else sorted(path.glob("*.safetensors"))
    if not files:
        old = next(iter(sorted(path.glob("*.bin"))), None)
        hint = f"; {old.name} is a pickle: save the model with safe_serialization=True" if old else ""
        raise SourceError(f"{path} has no *.safetensors file{hint}")
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        found = read_header(file)
        twice = sorted(tensors.keys() & found.keys())
        if twice:
            raise CorruptSource(
                f"{file}: tensor {twice[0]} lies in {tensors[twice[0]].file.name} too, without an index"
            )
        tensors.update(found)
    return tensors


def _sharded(path: Path, index: Path) -> dict[str, StoredTensor]:
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise CorruptSource(f"{index} has no weight_map")
    headers = {shard: read_header(path / Path(shard).name) for shard in sorted(set(shards.values()))}
    for name, shard in shards.items():
        if name not in headers[shard]:
            raise CorruptSource(f"{path / shard}: tensor {name} is missing, but {index.name} says it is there")
    return {name: headers[shard][name] for name, shard in shards.items()}


def tokenizer_files(path: Path, config: dict[str, Any]) -> TokenizerFiles:
    """The tokenizer in ``path``; ``config`` supplies the special ids that its own files leave open."""
    file = path / "tokenizer.json"
    if not file.exists():
        raise SourceError(f"{file} does not exist; save the tokenizer as a fast one (tokenizer.json)")
    content = read_json(file)
    settings = _optional_json(path / "tokenizer_config.json")
    generation = _optional_json(path / "generation_config.json")
    try:
        added = {str(each["content"]): int(each["id"]) for each in content.get("added_tokens", [])}
        special = tuple(str(each["content"]) for each in content.get("added_tokens", []) if each.get("special"))
        vocabulary = content["model"]["vocab"]
    except (KeyError, TypeError, AttributeError, ValueError):
        raise CorruptSource(f"{file} is no tokenizer of the tokenizers package") from None
    ids = {**(vocabulary if isinstance(vocabulary, dict) else {}), **added}
    bos, eos = _token_text(settings.get("bos_token")), _token_text(settings.get("eos_token"))
    stops = generation.get("eos_token_id", config.get("eos_token_id"))
    ends = {each for each in (stops if isinstance(stops, list) else [stops]) if isinstance(each, int)}
    return TokenizerFiles(
        json=file.read_text(encoding="utf-8"),
        bos_token_id=ids.get(bos, config.get("bos_token_id")),
        bos_token=bos,
        eos_token_ids=tuple(sorted(ends | ({ids[eos]} if eos in ids else set()))),
        eos_token=eos,
        special_tokens=special,
        chat_template=_chat_template(path / "chat_template.jinja", settings),
    )


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _chat_template(file: Path, settings: dict[str, Any]) -> str:
    """The file of newer models, else the setting: one text, or several named ones of which ``default`` is taken."""
    if file.exists():
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise CorruptSource(f"{file}: the chat_template is not UTF-8: {error}") from None
    found = settings.get("chat_template") or ""
    if isinstance(found, list) and all(isinstance(each, dict) for each in found):
        found = next((each.get("template") for each in found if each.get("name") == "default"), "")
    if not isinstance(found, str):
        raise CorruptSource(f"{file.parent}: chat_template is neither a text nor a list of named ones")
    return found


def _token_text(value: object) -> str:
    """A token setting is a string, an object with ``content``, or absent."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""
