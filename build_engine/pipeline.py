"""The offline line: source -> emit -> assemble -> publish, each resumed by the hash of what goes in."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import openvino as ov
from tqdm import tqdm

from build_engine import manifest as manifests
from build_engine import publish
from build_engine.decoder import DecoderConfig, FloatArray, expected_tensors
from build_engine.emit_openvino import emit
from build_engine.errors import BuildError, RecipeError, SourceError
from build_engine.recipe import BLOCK_SIZE, Recipe
from build_engine.source import Source, TokenizerFiles
from build_engine.source_gguf import open_gguf
from build_engine.source_hf import open_directory
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
            files = {file.name: hashes.sha256(file) for file in source_files(recipe.source)}
        inputs = _input_hash(recipe, files)
    latest = next(reversed(publish.versions(recipe.repository / recipe.name)), None)
    if latest is not None and not force:
        published = manifests.read_manifest(latest)
        served = publish.is_served(latest, manifests.sha256_of(latest / manifests.MANIFEST))
        if published["input_hash"] == inputs and served:
            publish.clear_leftovers(recipe.repository)
            return published
    with clock.stage("source"):
        source = open_source(recipe.source)
        context_length = _context_length(recipe, source.config)
    with clock.stage("emit"), _refusing(f"cannot write the engine into {recipe.work_dir}", BuildError):
        engine = _engine(recipe, source, files, quiet)
    with publish.staging(recipe.repository) as folder, clock.stage("assemble"):
        staged = folder / "version"
        _assemble(staged, engine, source.tokenizer, _engine_facts(source.config, recipe.precision, context_length))
        manifest = _manifest(recipe, source, files, inputs=inputs, clock=clock, staged=staged)
        (staged / manifests.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        parameters = _parameters(recipe, source, context_length, manifests.sha256_of(staged / manifests.MANIFEST))
        text = config_pbtxt(recipe.name, parameters)
        publish.publish(staged, text, recipe.repository / recipe.name)
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


def open_source(path: Path) -> Source:
    """A directory is taken for a Hugging Face model, a file for GGUF."""
    return open_directory(path) if path.is_dir() else open_gguf(path)


def _context_length(recipe: Recipe, config: DecoderConfig) -> int:
    """Most tokens of one sequence. Raises :class:`RecipeError` for more than the model has learned."""
    if recipe.context_length is not None and recipe.context_length > config.context_length:
        raise RecipeError(f"--context-length {recipe.context_length} is beyond the model's {config.context_length}")
    return min(recipe.context_length or config.context_length, recipe.kv_cache_tokens)


def _input_hash(recipe: Recipe, files: dict[str, str]) -> str:
    """Everything that decides what is published: sources, recipe, this builder's own code, the tools."""
    code = {str(path.relative_to(BACKEND.parent)): manifests.sha256_of(path) for path in BACKEND.parent.rglob("*.py")}
    wanted = [recipe.target, recipe.precision, recipe.context_length, recipe.serving()]
    return manifests.digest_of([files, wanted, code, manifests.toolchain()])


def _engine(recipe: Recipe, source: Source, files: dict[str, str], quiet: bool) -> Path:
    """The emitted graph in the work folder; found again when source, precision and emitter are the same."""
    code = [manifests.sha256_of(BACKEND.parent / name) for name in ("decoder.py", "emit_openvino.py")]
    key = manifests.digest_of([files, recipe.precision, code, ov.__version__])[:16]
    done = recipe.work_dir / f"openvino-{recipe.precision}-{key}"
    if not done.exists():
        with _progress(source, quiet) as read:
            model = emit(source.config, read, recipe.precision)
        part = recipe.work_dir / f"{done.name}.{os.getpid()}.part"
        _clear_parts(recipe.work_dir)
        try:
            part.mkdir(parents=True)
            ov.save_model(model, part / "openvino.xml", compress_to_fp16=False)
            os.rename(part, done)
        except RuntimeError as error:  # OpenVINO's word for a full disk
            raise BuildError(f"cannot write the engine into {part}, is the disk full? {error}") from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return done


def _clear_parts(work_dir: Path) -> None:
    """Remove what killed builds left behind; a part is named after the process that writes it."""
    for part in work_dir.glob("openvino-*.part"):
        process = part.name.split(".")[-2]
        if process == str(os.getpid()) or not Path(f"/proc/{process}").exists():
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _refusing(what: str, kind: type[BuildError]) -> Iterator[None]:
    """The system's refusal to read or write, as one of ours."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what}: {error}") from error


@contextmanager
def _progress(source: Source, quiet: bool) -> Iterator[Callable[[str], FloatArray]]:
    """The source's reader with a bar that counts tensors."""
    with tqdm(total=len(expected_tensors(source.config)), desc="emit", unit=" tensors", disable=quiet) as bar:

        def read(name: str) -> FloatArray:
            values = source.finite(name)
            bar.update()
            return values

        yield read


def _engine_facts(config: DecoderConfig, precision: str, context_length: int) -> dict[str, Any]:
    return {
        "kind": "openvino",
        "layers": config.layers,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "context_length": context_length,
        "precision": precision,
        "kv_cache_precision": "f32" if precision == "fp32" else "u8",
        "block_size": BLOCK_SIZE,
    }


def _assemble(staged: Path, engine: Path, tokenizer: TokenizerFiles, facts: dict[str, Any]) -> None:
    """Lay the version out in ``staged``."""
    shutil.copytree(
        BACKEND, staged / "tidegate_backend", ignore=shutil.ignore_patterns("__pycache__", "triton_entry.py")
    )
    shutil.copyfile(BACKEND / "triton_entry.py", staged / "model.py")
    shutil.copytree(engine, staged / "engine")
    (staged / "engine" / "engine.json").write_text(json.dumps(facts, indent=1) + "\n")
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


def _parameters(recipe: Recipe, source: Source, context_length: int, manifest_sha256: str) -> dict[str, str]:
    """What the model says about itself in ``config.pbtxt``."""
    tokenizer = source.tokenizer
    return {
        "tidegate_format": "1",
        "architecture": source.config.architecture,
        "engine": recipe.target,
        "precision": recipe.precision,
        "context_length": str(context_length),
        "vocab_size": str(source.config.vocab_size),
        "chat_template": tokenizer.chat_template,
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "special_tokens": json.dumps(tokenizer.special_tokens, ensure_ascii=False),
        "manifest_sha256": manifest_sha256,
        **{key: str(value) for key, value in recipe.serving().items()},
    }


def _manifest(
    recipe: Recipe, source: Source, files: dict[str, str], *, inputs: str, clock: Clock, staged: Path
) -> dict[str, Any]:
    contents = manifests.list_files(staged)
    config = {key: value for key, value in vars(source.config).items() if key != "rope_scaling"}
    config["rope_scaling"] = vars(source.config.rope_scaling) if source.config.rope_scaling else None
    return {
        "schema_version": manifests.SCHEMA_VERSION,
        "name": recipe.name,
        "source": {"name": recipe.source.name, "sha256": files},
        "input_hash": inputs,
        "architecture": source.config.architecture,
        "decoder": config,
        "target": recipe.target,
        "precision": recipe.precision,
        "serving": recipe.serving(),
        "files": contents,
        "total_bytes": sum(entry["bytes"] for entry in contents.values()),
        "toolchain": manifests.toolchain(),
        "build_seconds": dict(clock.seconds),
        "peak_memory_bytes": manifests.peak_memory_bytes(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
