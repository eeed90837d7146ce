"""The offline line: source -> emit -> assemble -> publish, each resumed by the hash of what goes in."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from build_engine import goldens, publish, report
from build_engine import manifest as manifests
from build_engine.adapter import adapter_files, merge
from build_engine.errors import BuildError, SourceError
from build_engine.recipe import Recipe, Room
from build_engine.source import Source, TokenizerFiles
from build_engine.source_gguf import open_gguf
from build_engine.source_hf import open_directory
from build_engine.targets import Made, make_engine
from build_engine.triton_config import config_pbtxt

BACKEND = Path(__file__).parent / "backend"


def build(recipe: Recipe, *, force: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Build and publish one version; returns its manifest. What is already published is found again by its inputs.
    Raises :class:`build_engine.errors.BuildError`; then nothing was published."""
    recipe.check()
    clock = Clock()
    with clock.stage("hash"):
        with _refusing(f"cannot read {recipe.source} or write {recipe.work_dir}", SourceError):
            hashes = manifests.HashCache(recipe.work_dir / "source-hashes.json")
            files = {name: hashes.sha256(file) for name, file in input_files(recipe).items()}
        inputs = _input_hash(recipe, files)
    publish.sweep(recipe.repository)
    latest = next(reversed(publish.versions(recipe.repository / recipe.name)), None)
    if latest is not None and not force:
        published = manifests.read_manifest(latest)
        settled = publish.is_settled(latest, manifests.sha256_of(latest / manifests.MANIFEST))
        if published["input_hash"] == inputs and settled:
            return published
    with clock.stage("source"):
        source = open_source(recipe.source, recipe.context_length)
        if recipe.adapter is not None:
            source = merge(source, recipe.adapter, recipe.adapter_base)
    with clock.stage("emit"), _refusing(f"cannot write the engine into {recipe.work_dir}", BuildError):
        room = recipe.room(source.config.context_length)
        engine = make_engine(recipe, room, source, files, quiet=quiet)
    with publish.staging(recipe.repository) as folder, clock.stage("assemble"):
        staged = folder / "version"
        _assemble(staged, engine, source.tokenizer)
        parameters = _parameters(recipe, source, room, engine.facts["precision"])
        (staged / "config.pbtxt").write_text(config_pbtxt(recipe.name, parameters), encoding="utf-8")
        if recipe.goldens is not None:
            goldens.record(staged, goldens.read_goldens(recipe.goldens, source.tokenizer), recipe.serving(room))
        built = {"precision": engine.facts["precision"], "serving": recipe.serving(room), "engine": engine.facts}
        manifest = _manifest(recipe, source, files, built, inputs=inputs, clock=clock, staged=staged)
        if engine.accuracy is not None:
            page = staged / "engine" / "report.html"
            page.write_text(report.render(manifest, engine.accuracy), encoding="utf-8")
            manifest["files"] |= manifests.list_files(staged, "report.html")
            manifest["accuracy"] = _judged(engine.accuracy)
        (staged / manifests.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        publish.publish(staged, recipe.repository / recipe.name)
    return manifest


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is inside."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - began, 3)


def input_files(recipe: Recipe) -> dict[str, Path]:
    """The files of source, adapter and texts, by the name that they have in the manifest."""
    files = {file.name: file for file in source_files(recipe.source)}
    if recipe.adapter is not None:
        files |= {f"adapter/{file.name}": file for file in adapter_files(recipe.adapter)}
    texts = {"calibration": recipe.calibration, "held-out": recipe.held_out, "goldens": recipe.goldens}
    return files | {f"{use}/{file.name}": file for use, file in texts.items() if file is not None}


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


def open_source(path: Path, context_length: int | None = None) -> Source:
    """A directory is taken for a Hugging Face model, a file for GGUF; ``context_length`` replaces the model's own."""
    return open_directory(path, context_length) if path.is_dir() else open_gguf(path, context_length)


def _input_hash(recipe: Recipe, files: dict[str, str]) -> str:
    """Everything that decides what is published: sources, recipe, this builder's own code, the tools."""
    code = {str(path.relative_to(BACKEND.parent)): manifests.sha256_of(path) for path in BACKEND.parent.rglob("*.py")}
    where = ("source", "name", "repository", "work_dir", "adapter", "calibration", "held_out", "goldens")
    wanted = {field: value for field, value in vars(recipe).items() if field not in where}
    return manifests.digest_of([files, wanted, code, manifests.toolchain()])


@contextmanager
def _refusing(what: str, kind: type[BuildError]) -> Iterator[None]:
    """The system's refusal to read or write, as one of ours."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what}: {error}") from error


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


def _parameters(recipe: Recipe, source: Source, room: Room, precision: str) -> dict[str, str]:
    """What the model says about itself in ``config.pbtxt``."""
    tokenizer = source.tokenizer
    return {
        "tidegate_format": "1",
        "architecture": source.config.architecture,
        "engine": recipe.target,
        "precision": precision,
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
    contents = manifests.list_files(staged)
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
        "files": contents,
        "total_bytes": sum(entry["bytes"] for entry in contents.values()),
        "toolchain": manifests.toolchain(),
        "build_seconds": dict(clock.seconds),
        "peak_memory_bytes": manifests.peak_memory_bytes(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
