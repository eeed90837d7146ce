"""The offline line for a text classifier: source -> fit and judge -> emit -> assemble -> publish."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from tokenizers import Tokenizer
from tritonclient.grpc import model_config_pb2 as pb

from build_engine import manifest as manifests
from build_engine import publish, report, work
from build_engine.classifier_engine import make_engine, most_tokens
from build_engine.classifier_proof import Bench, plans, prove, read_evidence, scores_of
from build_engine.classifier_recipe import ClassifierRecipe
from build_engine.classifier_source import ClassifierSource, open_classifier, ready_tokenizer
from build_engine.emit_encoder import EncoderPlan
from build_engine.encoder import EncoderConfig
from build_engine.errors import BuildError, SourceError, refusing
from build_engine.first_run import TEXT
from build_engine.manifest import Clock
from build_engine.source import named_files
from build_engine.tensorrt_api import host_of

PACKAGE = Path(__file__).parent
ON_GPU = ("__init__.py", "cuda.py", "engine.py", "plan.py")
"""What a TensorRT classifier needs of the generation backend."""
WHERE = ("source", "name", "repository", "work_dir", "calibration", "held_out")


def build_classifier(recipe: ClassifierRecipe, *, force: bool = False) -> dict[str, Any]:
    """Build and publish one version; returns its manifest. What is already published is found again by its inputs.
    Raises :class:`build_engine.errors.BuildError`; then nothing was published."""
    recipe.check()
    clock = Clock()
    with clock.stage("hash"), refusing(f"cannot read {recipe.source} or write {recipe.work_dir}", SourceError):
        named = named_files(recipe.source, {"calibration": recipe.calibration, "held-out": recipe.held_out})
        files = manifests.hashes(named, recipe.work_dir)
        inputs = manifests.input_hash(files, vars(recipe), WHERE, host_of(recipe))
    publish.sweep(recipe.repository)
    published = None if force else publish.found(recipe.repository / recipe.name, inputs)
    if published is not None:
        return published
    with clock.stage("source"):
        source = open_classifier(recipe.source)
        tokenizer = ready_tokenizer(source, recipe.source, most_tokens(recipe, source.config))
    writing = f"cannot write the engine into {recipe.work_dir}"
    work.clear_parts(recipe.work_dir)
    with refusing(writing, BuildError), work.part(recipe.work_dir, "classifier") as folder:
        places = (_made(folder / str(number)) for number in itertools.count())
        with clock.stage("prove"):
            plan, accuracy = _decided(recipe, source, tokenizer, lambda: next(places))
        engine = next(places)
        with clock.stage("emit"):
            facts = make_engine(recipe, source, plan, next(places), engine)
        with publish.staging(recipe.repository) as staging, clock.stage("assemble"):
            staged = staging / "version"
            _assemble(staged, recipe, source, tokenizer, engine)
            config = classifier_pbtxt(recipe, source.config, _parameters(recipe, source, accuracy))
            (staged / "config.pbtxt").write_text(config, encoding="utf-8")
            manifest = _manifest(recipe, source, files, facts, accuracy, inputs=inputs, clock=clock, staged=staged)
            (staged / manifests.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
            publish.publish(staged, recipe.repository / recipe.name)
    return manifest


def _decided(
    recipe: ClassifierRecipe, source: ClassifierSource, tokenizer: Tokenizer, folder: Callable[[], Path]
) -> tuple[EncoderPlan, dict[str, Any]]:
    """The plan, and the content of ``accuracy.json``."""
    base = np.float32 if recipe.target == "onnxruntime" else np.float16
    bench = Bench(source.config, source.read, tokenizer, base, folder)
    if recipe.held_out is None:
        plan = next(plans(bench, [], recipe.precision))[1]
        scores_of(bench, plan, [TEXT])  # numbers, whatever they say
        return plan, {"precision": recipe.precision, "passed": None}
    evidence = read_evidence(recipe.held_out, recipe.calibration, source.tokenizer)
    return prove(bench, evidence, recipe.precision, strict=recipe.strict)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _assemble(
    staged: Path, recipe: ClassifierRecipe, source: ClassifierSource, tokenizer: Tokenizer, engine: Path
) -> None:
    """Lay the version out in ``staged``."""
    shutil.copytree(engine, staged / "engine")
    package = staged / "tidegate_classifier"
    leave = shutil.ignore_patterns("__pycache__", "triton_entry.py")
    shutil.copytree(PACKAGE / "classifier_backend", package / "classifier_backend", ignore=leave)
    (package / "__init__.py").write_text("")
    if recipe.target != "onnxruntime":
        (package / "backend").mkdir()
        for name in ON_GPU:
            shutil.copyfile(PACKAGE / "backend" / name, package / "backend" / name)
    shutil.copyfile(PACKAGE / "classifier_backend" / "triton_entry.py", staged / "model.py")
    (staged / "labels.txt").write_text("\n".join(source.config.labels) + "\n", encoding="utf-8")
    tokenizer.save(str(staged / "tokenizer.json"))


def classifier_pbtxt(recipe: ClassifierRecipe, config: EncoderConfig, parameters: dict[str, str]) -> str:
    """The text of ``config.pbtxt``: batches are Triton's own."""
    model = pb.ModelConfig(name=recipe.name, backend="python", max_batch_size=recipe.max_batch_size)
    model.version_policy.latest.num_versions = 1
    # The Python backend's own process; a TensorRT engine finds its GPU itself.
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


def _parameters(recipe: ClassifierRecipe, source: ClassifierSource, accuracy: dict[str, Any]) -> dict[str, str]:
    """What the model says about itself in ``config.pbtxt``."""
    return {
        "tidegate_format": "1",
        "engine": recipe.target,
        "labels": json.dumps(source.config.labels, ensure_ascii=False),
        "precision": str(accuracy["precision"]),
        "threads": str(recipe.threads),
    }


def _manifest(
    recipe: ClassifierRecipe,
    source: ClassifierSource,
    files: dict[str, str],
    engine: dict[str, Any],
    accuracy: dict[str, Any],
    *,
    inputs: str,
    clock: Clock,
    staged: Path,
) -> dict[str, Any]:
    """The manifest, and beside the engine what it was judged by, where there was text to judge it by."""
    names = ("max_tokens", "max_batch_size", "preferred_batch_sizes", "queue_delay_microseconds", "threads")
    manifest: dict[str, Any] = {
        "schema_version": manifests.SCHEMA_VERSION,
        "name": recipe.name,
        "task": "text-classification",
        "source": {"name": recipe.source.name, "sha256": files},
        "input_hash": inputs,
        "architecture": source.config.architecture,
        "decoder": {**vars(source.config), "labels": list(source.config.labels)},
        "target": recipe.target,
        "precision": accuracy["precision"],
        "serving": {name: getattr(recipe, name) for name in names},
        "engine": engine,
        "accuracy": accuracy if accuracy["passed"] else None,
    }
    (staged / "engine" / "accuracy.json").write_text(json.dumps(accuracy, indent=1) + "\n")
    manifest |= manifests.facts_of(staged, clock)
    if accuracy["passed"]:
        report.add(staged, manifest, accuracy)
    return manifest
