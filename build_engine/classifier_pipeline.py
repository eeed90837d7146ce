"""The offline line for a text classifier: source -> fit and judge -> emit -> assemble -> publish."""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from tokenizers import Tokenizer
from tritonclient.grpc import model_config_pb2 as pb

from build_engine import manifest as manifests
from build_engine import publish
from build_engine.classifier_proof import ORDER, Bench, plans, prove, read_evidence
from build_engine.decoder import FloatArray
from build_engine.emit_encoder import EncoderPlan, emit
from build_engine.encoder import EncoderConfig, encoder_config, expected_tensors
from build_engine.errors import CorruptSource, RecipeError
from build_engine.recipe import MODEL_NAME_CHARACTERS
from build_engine.source import TokenizerFiles
from build_engine.source_hf import StoredTensor, read_all_headers, read_json, read_tensor, tokenizer_files

BACKEND = Path(__file__).parent / "classifier_backend"


@dataclass(frozen=True)
class ClassifierRecipe:
    """One build. Texts longer than ``max_tokens`` are cut. ``queue_delay_microseconds`` is how long Triton waits for a
    batch of one of the ``preferred_batch_sizes``."""

    source: Path
    name: str
    repository: Path
    work_dir: Path
    target: str = "onnxruntime"
    precision: str = "int8-weight-only"
    max_tokens: int = 256
    max_batch_size: int = 32
    preferred_batch_sizes: tuple[int, ...] = (8, 16)
    queue_delay_microseconds: int = 1000
    threads: int = 0
    calibration: Path | None = None
    held_out: Path | None = None
    strict: bool = False

    def check(self) -> None:
        """Raise :class:`RecipeError` naming the first argument that makes no sense."""
        if not self.name or not set(self.name) <= MODEL_NAME_CHARACTERS or self.name.startswith("."):
            raise RecipeError(f"--name {self.name!r}: letters, digits, '_', '-' and '.', not starting with '.'")
        if self.target != "onnxruntime":
            raise RecipeError(
                f"--task text-classification --target {self.target} cannot be built; what can: onnxruntime. An encoder "
                "for TensorRT needs profiles and a backend of its own"
            )
        if self.precision not in ORDER:
            raise RecipeError(f"--precision must be one of {', '.join(ORDER)}")
        if self.precision == "int8" and (self.calibration is None or self.held_out is None):
            raise RecipeError("--precision int8 is fitted and judged: give --calibration FILE and --held-out FILE")
        if (self.calibration or self.strict) and self.held_out is None:
            raise RecipeError("--calibration and --strict need --held-out FILE to judge by")
        if self.max_tokens < 4 or self.max_batch_size < 1 or self.queue_delay_microseconds < 0 or self.threads < 0:
            raise RecipeError("--max-tokens must be at least 4, --max-batch-size at least 1, others not negative")
        if any(not 1 <= size <= self.max_batch_size for size in self.preferred_batch_sizes):
            raise RecipeError(f"--preferred-batch-size must be from 1 to --max-batch-size {self.max_batch_size}")


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
    for name, wanted in expected_tensors(config).items():
        if name not in tensors:
            raise CorruptSource(f"{path}: tensor {name} is missing")
        if tensors[name].shape != wanted:
            raise CorruptSource(
                f"{tensors[name].file}: tensor {name} has shape {list(tensors[name].shape)}, the configuration says "
                f"{list(wanted)}"
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
    tokenizer.enable_truncation(min(max_tokens, source.config.positions))
    pad = next((token for token in ("[PAD]", "<pad>") if tokenizer.token_to_id(token) is not None), None)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(pad) if pad else 0, pad_token=pad or "[PAD]")
    return tokenizer


def build_classifier(recipe: ClassifierRecipe, *, force: bool = False) -> dict[str, Any]:
    """Build and publish one version; returns its manifest. What is already published is found again by its inputs.
    Raises :class:`build_engine.errors.BuildError`; then nothing was published."""
    recipe.check()
    began = time.monotonic()
    source = open_classifier(recipe.source)
    files = _hashes(recipe)
    inputs = manifests.digest_of([files, _wanted(recipe), _code(), manifests.toolchain()])
    publish.sweep(recipe.repository)
    latest = next(reversed(publish.versions(recipe.repository / recipe.name)), None)
    if latest is not None and not force:
        published = manifests.read_manifest(latest)
        if published["input_hash"] == inputs and publish.is_settled(
            latest, manifests.sha256_of(latest / manifests.MANIFEST)
        ):
            return published
    tokenizer = ready_tokenizer(source, recipe.source, recipe.max_tokens)
    with tempfile.TemporaryDirectory(prefix="classifier-", dir=_made(recipe.work_dir)) as work:
        plan, accuracy = _decided(recipe, source, tokenizer, Path(work))
        with publish.staging(recipe.repository) as folder:
            staged = folder / "version"
            _assemble(staged, source, tokenizer, plan)
            record = accuracy or {"precision": recipe.precision, "passed": None}
            (staged / "engine" / "accuracy.json").write_text(json.dumps(record, indent=1) + "\n")
            parameters = {
                "tidegate_format": "1",
                "labels": json.dumps(source.config.labels, ensure_ascii=False),
                "precision": str(record["precision"]),
                "threads": str(recipe.threads),
            }
            config = classifier_pbtxt(recipe, source.config, parameters)
            (staged / "config.pbtxt").write_text(config, encoding="utf-8")
            manifest = _manifest(
                recipe, source, files, inputs=inputs, accuracy=record, staged=staged, seconds=time.monotonic() - began
            )
            (staged / manifests.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
            publish.publish(staged, recipe.repository / recipe.name)
    return manifest


def _decided(
    recipe: ClassifierRecipe, source: ClassifierSource, tokenizer: Tokenizer, work: Path
) -> tuple[EncoderPlan, dict[str, Any] | None]:
    numbers = itertools.count()

    def folder() -> Path:
        return _made(work / str(next(numbers)))

    bench = Bench(source.config, source.read, tokenizer, folder)
    if recipe.held_out is None:
        return next(plans(bench, [], recipe.precision))[1], None
    evidence = read_evidence(recipe.held_out, recipe.calibration, source.tokenizer)
    return prove(bench, evidence, recipe.precision, strict=recipe.strict)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _assemble(staged: Path, source: ClassifierSource, tokenizer: Tokenizer, plan: EncoderPlan) -> None:
    (staged / "engine").mkdir(parents=True)
    emit(source.config, source.read, plan, staged / "engine")
    package = staged / "tidegate_classifier"
    shutil.copytree(BACKEND, package, ignore=shutil.ignore_patterns("__pycache__", "triton_entry.py"))
    shutil.copyfile(BACKEND / "triton_entry.py", staged / "model.py")
    (staged / "labels.txt").write_text("\n".join(source.config.labels) + "\n", encoding="utf-8")
    tokenizer.save(str(staged / "tokenizer.json"))


def classifier_pbtxt(recipe: ClassifierRecipe, config: EncoderConfig, parameters: dict[str, str]) -> str:
    """The text of ``config.pbtxt``: batches are Triton's own."""
    model = pb.ModelConfig(name=recipe.name, backend="python", max_batch_size=recipe.max_batch_size)
    model.version_policy.latest.num_versions = 1
    model.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_CPU)
    model.dynamic_batching.preferred_batch_size.extend(recipe.preferred_batch_sizes)
    model.dynamic_batching.max_queue_delay_microseconds = recipe.queue_delay_microseconds
    model.input.add(name="text", data_type="TYPE_STRING", dims=[1])
    model.output.add(name="label", data_type="TYPE_STRING", dims=[1])
    model.output.add(name="score", data_type="TYPE_FP32", dims=[1])
    model.output.add(name="scores", data_type="TYPE_FP32", dims=[len(config.labels)])
    for key in sorted(parameters):
        model.parameters[key].string_value = parameters[key]
    return str(text_format.MessageToString(model, as_utf8=True))


def _hashes(recipe: ClassifierRecipe) -> dict[str, str]:
    files = sorted(file for pattern in ("*.safetensors", "*.json") for file in recipe.source.glob(pattern))
    named = {file.name: file for file in files}
    named |= {f"held-out/{each.name}": each for each in (recipe.held_out,) if each is not None}
    named |= {f"calibration/{each.name}": each for each in (recipe.calibration,) if each is not None}
    try:
        return {name: manifests.sha256_of(file) for name, file in named.items()}
    except OSError as error:
        raise RecipeError(f"cannot read {error.filename}: {error.strerror}") from None


def _wanted(recipe: ClassifierRecipe) -> dict[str, Any]:
    where = ("source", "name", "repository", "work_dir", "calibration", "held_out")
    return {field: value for field, value in vars(recipe).items() if field not in where}


def _code() -> dict[str, str]:
    folder = Path(__file__).parent
    return {str(path.relative_to(folder)): manifests.sha256_of(path) for path in sorted(folder.rglob("*.py"))}


def _manifest(
    recipe: ClassifierRecipe,
    source: ClassifierSource,
    files: dict[str, str],
    *,
    inputs: str,
    accuracy: dict[str, Any],
    staged: Path,
    seconds: float,
) -> dict[str, Any]:
    contents = manifests.list_files(staged)
    serving: Callable[[str], Any] = vars(recipe).__getitem__
    names = ("max_tokens", "max_batch_size", "preferred_batch_sizes", "queue_delay_microseconds", "threads")
    return {
        "schema_version": manifests.SCHEMA_VERSION,
        "name": recipe.name,
        "task": "text-classification",
        "source": {"name": recipe.source.name, "sha256": files},
        "input_hash": inputs,
        "architecture": source.config.architecture,
        "decoder": {**vars(source.config), "labels": list(source.config.labels)},
        "target": recipe.target,
        "precision": accuracy["precision"],
        "serving": {name: serving(name) for name in names},
        "engine": {"kind": "onnxruntime"},
        "accuracy": accuracy if accuracy["passed"] else None,
        "files": contents,
        "total_bytes": sum(entry["bytes"] for entry in contents.values()),
        "toolchain": manifests.toolchain(),
        "build_seconds": {"build": round(seconds, 3)},
        "peak_memory_bytes": manifests.peak_memory_bytes(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
