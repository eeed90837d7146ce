"""The offline line: source -> emit -> assemble -> publish, each resumed by the hash of what goes in."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from build_engine import goldens, publish, report
from build_engine import manifest as manifests
from build_engine.adapter import adapter_files, merge
from build_engine.errors import BuildError, SourceError, refusing
from build_engine.manifest import Clock
from build_engine.recipe import Recipe, Room
from build_engine.source import Source, TokenizerFiles, named_files
from build_engine.source_gguf import open_gguf
from build_engine.source_hf import open_directory
from build_engine.targets import Made, make_engine
from build_engine.tensorrt_api import host_of
from build_engine.triton_config import config_pbtxt

BACKEND = Path(__file__).parent / "backend"
WHERE = ("source", "name", "repository", "work_dir", "adapter", "calibration", "held_out", "goldens")


def build(recipe: Recipe, *, force: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Build and publish one version; returns its manifest. What is already published is found again by its inputs.
    Raises :class:`build_engine.errors.BuildError`; then nothing was published."""
    recipe.check()
    clock = Clock()
    with clock.stage("hash"):
        with refusing(f"cannot read {recipe.source} or write {recipe.work_dir}", SourceError):
            files = manifests.hashes(input_files(recipe), recipe.work_dir)
        inputs = manifests.input_hash(files, vars(recipe), WHERE, host_of(recipe))
    publish.sweep(recipe.repository)
    published = None if force else publish.found(recipe.repository / recipe.name, inputs)
    if published is not None:
        return published
    with clock.stage("source"):
        source = open_source(recipe.source, recipe.context_length)
        if recipe.adapter is not None:
            source = merge(source, recipe.adapter, recipe.adapter_base)
    with clock.stage("emit"), refusing(f"cannot write the engine into {recipe.work_dir}", BuildError):
        room = recipe.room(source.config.context_length)
        engine = make_engine(recipe, room, source, files, quiet=quiet)
    with publish.staging(recipe.repository) as folder, clock.stage("assemble"):
        staged = folder / "version"
        _assemble(staged, engine, source.tokenizer)
        parameters = _parameters(recipe, source, room, engine)
        config = config_pbtxt(recipe.name, parameters, recipe.priority_levels)
        (staged / "config.pbtxt").write_text(config, encoding="utf-8")
        if recipe.goldens is not None:
            goldens.record(staged, goldens.read_goldens(recipe.goldens, source.tokenizer), recipe.serving(room))
        built = {"precision": engine.facts["precision"], "serving": recipe.serving(room), "engine": engine.facts}
        manifest = _manifest(recipe, source, files, built, inputs=inputs, clock=clock, staged=staged)
        if engine.accuracy is not None:
            report.add(staged, manifest, engine.accuracy)
            manifest["accuracy"] = _judged(engine.accuracy)
        (staged / manifests.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        publish.publish(staged, recipe.repository / recipe.name)
    return manifest


def input_files(recipe: Recipe) -> dict[str, Path]:
    """The files of source, adapter and texts, by the name that they have in the manifest."""
    files = named_files(
        recipe.source, {"calibration": recipe.calibration, "held-out": recipe.held_out, "goldens": recipe.goldens}
    )
    if recipe.adapter is not None:
        files |= {f"adapter/{file.name}": file for file in adapter_files(recipe.adapter)}
    return files


def open_source(path: Path, context_length: int | None = None) -> Source:
    """A directory is taken for a Hugging Face model, a file for GGUF; ``context_length`` replaces the model's own."""
    return open_directory(path, context_length) if path.is_dir() else open_gguf(path, context_length)


def _assemble(staged: Path, engine: Made, tokenizer: TokenizerFiles) -> None:
    """Lay the version out in ``staged``."""
    shutil.copytree(
        BACKEND, staged / "tidegate_backend", ignore=shutil.ignore_patterns("__pycache__", "triton_entry.py")
    )
    shutil.copyfile(BACKEND / "triton_entry.py", staged / "model.py")
    shutil.copytree(engine.folder, staged / "engine")
    (staged / "engine" / "engine.json").write_text(json.dumps(engine.facts, indent=1) + "\n")
    folder = staged / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_ids": list(tokenizer.eos_token_ids),
        "add_bos": False,  # where a model wants one, its tokenizer.json says so itself
        "special_tokens": list(tokenizer.special_tokens),
    }
    (folder / "special_tokens.json").write_text(json.dumps(special, ensure_ascii=False, indent=1) + "\n")
    (staged / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")


def _judged(accuracy: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says of ``accuracy.json``."""
    fields = ("asked", "precision", "passed", "gate", "agreement", "held_out", "calibration")
    return {field: accuracy[field] for field in fields} | {"kept": len(accuracy["kept"])}


def _parameters(recipe: Recipe, source: Source, room: Room, engine: Made) -> dict[str, str]:
    """What the model says about itself in ``config.pbtxt``."""
    tokenizer, precision = source.tokenizer, engine.facts["precision"]
    unproven = "missing" if precision.startswith("int8") else "not_needed"  # fp32 and fp16 need no text
    return {
        "tidegate_format": "1",
        "architecture": source.config.architecture,
        "engine": recipe.target,
        "precision": precision,
        "accuracy_gate": "passed" if engine.accuracy and engine.accuracy["passed"] else unproven,
        "created": str(int(time.time())),
        "context_length": str(room.context_length),
        "vocab_size": str(source.config.vocab_size),
        "chat_template": tokenizer.chat_template,
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "special_tokens": json.dumps(tokenizer.special_tokens, ensure_ascii=False),
        **{key: str(value) for key, value in recipe.serving(room).items()},
    }


def _manifest(
    recipe: Recipe,
    source: Source,
    files: dict[str, str],
    built: dict[str, Any],
    *,
    inputs: str,
    clock: Clock,
    staged: Path,
) -> dict[str, Any]:
    config = {key: value for key, value in vars(source.config).items() if key != "rope_scaling"}
    config["rope_scaling"] = vars(source.config.rope_scaling) if source.config.rope_scaling else None
    return {
        "schema_version": manifests.SCHEMA_VERSION,
        "name": recipe.name,
        "source": {"name": recipe.source.name, "sha256": files},
        "adapter": recipe.adapter.name if recipe.adapter else None,
        "input_hash": inputs,
        "architecture": source.config.architecture,
        "decoder": config,
        "target": recipe.target,
        **built,
        "accuracy": None,
        **manifests.facts_of(staged, clock),
    }
