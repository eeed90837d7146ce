"""A PEFT LoRA adapter, merged into its base model tensor by tensor while that is read.

A merged weight is ``W + scale * B @ A`` with ``scale = alpha / r`` (``alpha / sqrt(r)`` for rsLoRA); what is in
``modules_to_save`` takes the place of its weight. The meaning of every setting is peft's. In particular an adapter on
one end of a tied embedding changes that end only, as it did in training, so the merged model is no longer tied.

What peft can do beyond that is refused by the setting's name (:mod:`build_engine.adapter_config`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from build_engine.adapter_config import AdapterConfig, read_config
from build_engine.decoder import FloatArray, expected_tensors
from build_engine.errors import CorruptSource, SourceError, UnsupportedModel
from build_engine.source import Source, TokenizerFiles, check
from build_engine.source_hf import StoredTensor, read_header, read_tensor, tokenizer_files

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
PREFIX = "base_model.model."
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
LORA = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?(embedding)|\.weight)")
WHOLE = re.compile(r"(?P<module>.+?)(?:\.base_layer)?\.(?P<kind>weight|bias)")


@dataclass(frozen=True)
class Change:
    """What the adapter does to one tensor: ``whole`` stands in for the base's, ``a [r, in]`` and ``b [out, r]`` are
    added to it. Those of an embedding give its transpose."""

    whole: StoredTensor | None = None
    a: StoredTensor | None = None
    b: StoredTensor | None = None
    scale: float = 0.0
    transposed: bool = False

    def apply(self, base: FloatArray) -> FloatArray:
        """The merged tensor; ``base`` may be overwritten."""
        if self.a is None or self.b is None:
            return base
        delta = read_tensor(self.b) @ read_tensor(self.a)
        delta *= np.float32(self.scale)
        base += delta.T if self.transposed else delta
        return base


def adapter_files(directory: Path) -> list[Path]:
    """The files that decide what the adapter does. Raises :class:`SourceError` naming one that is missing."""
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            pickled = (directory / "adapter_model.bin").exists() and name == WEIGHTS
            hint = "; adapter_model.bin is a pickle: save the adapter with safe_serialization=True" if pickled else ""
            raise SourceError(f"--adapter {directory} has no {name}{hint}")
    return [directory / name for name in (CONFIG, WEIGHTS, *TOKENIZER) if (directory / name).is_file()]


def merge(source: Source, directory: Path, base_name: str | None = None) -> Source:
    """The source with the adapter in it. ``base_name`` says which model the source is, when its own name does not.
    Raises :class:`UnsupportedModel` naming a setting, :class:`CorruptSource` naming file and tensor."""
    adapter_files(directory)
    config = read_config(directory / CONFIG)
    _check_base(source, config, directory / CONFIG, base_name)
    changes = _changes(source, config, directory / WEIGHTS)
    tied = source.config.tie_embeddings
    if tied:
        tied, changes = _ends(changes, config)
    embedding, head = f"{EMBEDDING}.weight", f"{HEAD}.weight"
    shapes, origins = dict(source.shapes), dict(source.origins)
    if source.config.tie_embeddings and not tied:
        shapes[head], origins[head] = shapes[embedding], origins[embedding]
    origins |= dict.fromkeys(changes, directory / WEIGHTS)
    shared = source.config.tie_embeddings

    def read(name: str) -> FloatArray:
        change = changes.get(name, Change())
        if change.whole is not None:
            return change.apply(read_tensor(change.whole))
        return change.apply(source.read(embedding if shared and name == head else name))

    return check(
        replace(
            source,
            origins=origins,
            shapes=shapes,
            config=replace(source.config, tie_embeddings=tied),
            tokenizer=_tokenizer(source.tokenizer, directory),
            read=read,
        )
    )


def _check_base(source: Source, config: AdapterConfig, file: Path, base_name: str | None) -> None:
    """The last part of the adapter's ``base_model_name_or_path`` is the source's name: that of its folder or file, or
    of the Hugging Face cache folder around it. An adapter that names no base is held to shapes only."""
    if not config.base_model:
        return
    path = source.path.resolve()
    cached = [each.name.rpartition("--")[2] for each in path.parents if each.name.startswith("models--")]
    names = [base_name] if base_name else [source.path.name, path.name, path.stem, *cached]
    wanted = Path(config.base_model).name
    if wanted.lower() not in {Path(name).name.lower() for name in names}:
        raise CorruptSource(
            f"{file}: base_model_name_or_path is {config.base_model}, but the source is {names[0]}; if it is that "
            f"model under another name, say so with --adapter-base {wanted}"
        )


def _changes(source: Source, config: AdapterConfig, file: Path) -> dict[str, Change]:
    """What happens to which tensor, in a model with two ends. Everything in the file has a place, everything that the
    configuration names is in the file."""
    shapes = expected_tensors(replace(source.config, tie_embeddings=False))
    found: dict[str, Change] = {}
    for name, tensor in read_header(file).items():
        inner = name.removeprefix(PREFIX)
        lora, whole = LORA.fullmatch(inner), WHOLE.fullmatch(inner)
        if lora is not None and inner != name:
            weight = f"{lora['module']}.weight"
            if not config.targets(lora["module"]) or len(shapes.get(weight, ())) != 2:
                raise CorruptSource(f"{file}: tensor {name} matches no module that target_modules names in the source")
            if bool(lora["embedding"]) != (lora["module"] == EMBEDDING):
                raise CorruptSource(f"{file}: tensor {name} is of the wrong kind for its module")
            change = replace(found.get(weight, Change()), transposed=bool(lora["embedding"]))
            change = replace(change, a=tensor) if lora["side"] == "A" else replace(change, b=tensor)
            _check_rank(name, change, shapes[weight], config.rank(lora["module"]))
            found[weight] = replace(change, scale=config.scale(lora["module"]))
        elif whole is not None and inner != name:
            weight = f"{whole['module']}.{whole['kind']}"
            ends = (EMBEDDING, HEAD)
            if weight not in shapes or not (config.saves(whole["module"]) or whole["module"] in ends):
                raise CorruptSource(f"{file}: tensor {name} matches no module that modules_to_save names in the source")
            if tensor.shape != shapes[weight]:
                raise _shape_error(name, tensor, shapes[weight])
            found[weight] = replace(found.get(weight, Change()), whole=tensor)
        else:
            raise UnsupportedModel(f"{file}: tensor {name} is no LoRA pair and no saved module")
    _check_complete(config, shapes, found, file)
    return found


def _check_rank(name: str, change: Change, shape: tuple[int, ...], rank: int) -> None:
    """Both sides fit the weight, whose inputs and outputs an embedding swaps, and have the configured rank."""
    out, into = reversed(shape) if change.transposed else shape
    for tensor, wanted in ((change.a, (rank, into)), (change.b, (out, rank))):
        if tensor is not None and tensor.shape != wanted:
            raise _shape_error(name, tensor, wanted)


def _shape_error(name: str, tensor: StoredTensor, wanted: tuple[int, ...]) -> CorruptSource:
    return CorruptSource(
        f"{tensor.file}: tensor {name} has shape {list(tensor.shape)}; the base model and the adapter's rank need "
        f"{list(wanted)}: this adapter belongs to another base model"
    )


def _check_complete(
    config: AdapterConfig, shapes: Mapping[str, tuple[int, ...]], found: Mapping[str, Change], file: Path
) -> None:
    modules = {name.rpartition(".")[0] for name, shape in shapes.items() if len(shape) == 2}
    for module in sorted(module for module in modules if config.targets(module)):
        change = found.get(f"{module}.weight", Change())
        for side, tensor in (("A", change.a), ("B", change.b)):
            if tensor is None:
                kind = f"embedding_{side}" if module == EMBEDDING else f"{side}.weight"
                raise CorruptSource(f"{file}: tensor {PREFIX}{module}.lora_{kind} is missing; target_modules names it")
    for name in shapes:
        if config.saves(name.rpartition(".")[0]) and found.get(name, Change()).whole is None:
            raise CorruptSource(f"{file}: tensor {PREFIX}{name} is missing, but modules_to_save names it")
    if not found:
        raise CorruptSource(f"{file}: nothing in it matches the base model")


def _ends(changes: dict[str, Change], config: AdapterConfig) -> tuple[bool, dict[str, Change]]:
    """Whether a tied model stays tied, and the changes with what the two ends share given to both.

    A saved module and a LoRA pair belong to one end. An embedding that is merely stored along (it was resized, or it is
    the base of a LoRA pair) is the shared one; stored for both ends it must be the same."""
    names = [f"{module}.weight" for module in (EMBEDDING, HEAD)]
    ends = [changes.get(name, Change()) for name in names]
    shared = [
        each.whole if not config.saves(module) else None for each, module in zip(ends, (EMBEDDING, HEAD), strict=True)
    ]
    first, second = shared
    if first is not None and second is not None and not np.array_equal(read_tensor(first), read_tensor(second)):
        raise CorruptSource(f"{first.file}: the tied ends {names[0]} and {names[1]} are stored with different values")
    both = first or second
    own = [each.a is not None or config.saves(module) for each, module in zip(ends, (EMBEDDING, HEAD), strict=True)]
    if not any(own):
        rest = {name: change for name, change in changes.items() if name not in names}
        return True, rest | ({names[0]: Change(whole=both)} if both else {})
    if both is not None:
        ends = [
            each if config.saves(module) else replace(each, whole=both)
            for each, module in zip(ends, (EMBEDDING, HEAD), strict=True)
        ]
    return False, changes | dict(zip(names, ends, strict=True))


def _tokenizer(base: TokenizerFiles, directory: Path) -> TokenizerFiles:
    """The adapter's own tokenizer and chat template where it brings them; what it leaves open is the base's."""
    template = directory / "chat_template.jinja"
    if not (directory / "tokenizer.json").is_file():
        return replace(base, chat_template=template.read_text(encoding="utf-8")) if template.is_file() else base
    ids = {"eos_token_id": list(base.eos_token_ids), "bos_token_id": base.bos_token_id}
    own = tokenizer_files(directory, ids)
    return replace(own, chat_template=own.chat_template or base.chat_template)
