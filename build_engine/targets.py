"""What each ``--target`` puts into a version's ``engine`` folder. Stages are kept in the work folder and found again by
the hash of what went into them; a target's tools are imported only when it is asked for.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from build_engine import manifest as manifests
from build_engine.decoder import FloatArray, expected_tensors
from build_engine.errors import BuildError, RecipeError
from build_engine.recipe import BLOCK_SIZE, RTX_DEFAULT, Recipe, Room
from build_engine.source import Source

ENGINE_JSON, ACCURACY = "engine.json", "accuracy.json"


@dataclass(frozen=True)
class Made:
    """An engine's files, and what the backend has to know about them (``engine.json``)."""

    folder: Path
    facts: dict[str, Any]
    accuracy: dict[str, Any] | None = None
    """How it compares with fp32 on held-out text; None when there was none to judge it by."""


def make_engine(recipe: Recipe, room: Room, source: Source, files: dict[str, str], *, quiet: bool) -> Made:
    """The engine that ``recipe`` asks for. ``files`` are the source's hashes. Raises
    :class:`build_engine.errors.BuildError`.
    """
    if recipe.target != "openvino":
        return _slots(recipe, room, source, files, quiet)
    config = source.config
    facts = {
        "kind": recipe.target,
        "layers": config.layers,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "context_length": room.context_length,
        "precision": recipe.precision,
        "kv_cache_precision": "f32" if recipe.precision == "fp32" else "u8",
        "block_size": BLOCK_SIZE,
    }
    return Made(_openvino(recipe, source, files, quiet), facts)


def _openvino(recipe: Recipe, source: Source, files: dict[str, str], quiet: bool) -> Path:
    openvino, emitter = _tools("openvino", "build", "openvino", "build_engine.emit_openvino")

    def make(folder: Path) -> None:
        with _progress(source, quiet) as read:
            model = emitter.emit(source.config, read, recipe.precision)
        try:
            openvino.save_model(model, folder / "openvino.xml", compress_to_fp16=False)
        except RuntimeError as error:  # OpenVINO's word for a full disk
            raise BuildError(f"cannot write the engine into {folder}, is the disk full? {error}") from None

    inputs = [files, recipe.precision, _code("decoder.py", "emit_openvino.py", "adapter.py"), openvino.__version__]
    return _stage(recipe, f"openvino-{recipe.precision}", inputs, make)


def _slots(recipe: Recipe, room: Room, source: Source, files: dict[str, str], quiet: bool) -> Made:
    """The ONNX graph: proven where there is text to judge it by, then perhaps in another precision than asked for."""
    onnx, runtime, proof = _tools(recipe.target, "onnx", "onnx", "onnxruntime", "build_engine.proof")
    base = "fp32" if recipe.target == "onnxruntime" else "fp16"

    def make(folder: Path) -> None:
        if recipe.held_out is None:
            with _progress(source, quiet) as read:
                variant = proof.unproven(source.config, recipe.precision, base, read)
                variant.emit(source.config, room.context_length, folder)
        else:
            texts = (recipe.held_out, recipe.calibration, recipe.strict)
            request = proof.Request(source, recipe.precision, base, *texts, quiet, recipe.work_dir)
            proof.emit_proven(request, room.context_length, folder)

    tools = [onnx.__version__, runtime.__version__]
    inputs = [files, recipe.precision, recipe.strict, base, room.context_length, _code("*.py"), tools]
    folder = _stage(recipe, f"onnx-{recipe.precision}", inputs, make)
    record = folder / ACCURACY
    accuracy = json.loads(record.read_text()) if record.exists() else None
    precision = accuracy["precision"] if accuracy else recipe.precision
    facts = proof.slot_facts(
        source.config,
        precision if precision in ("fp32", "fp16") else base,
        room.context_length,
        room.max_sequences,
        prefill_tokens=2 * recipe.step_tokens,
    )
    facts = {"kind": recipe.target, "precision": precision, **facts}
    if recipe.target == "onnxruntime":
        return Made(folder, facts, accuracy)
    plan = _tensorrt(recipe, folder, facts)
    return Made(plan, facts | json.loads((plan / ENGINE_JSON).read_text()), accuracy)


def _tensorrt(recipe: Recipe, graph: Path, facts: dict[str, Any]) -> Path:
    """The plan, beside what its build has to say about it."""
    onnx, api, builder = _tools(
        recipe.target, "onnx", "onnx", "build_engine.tensorrt_api", "build_engine.tensorrt_build"
    )
    settings = api.Settings(
        target=recipe.target,
        compute_capabilities=recipe.compute_capabilities or RTX_DEFAULT,
        workspace_mib=recipe.workspace_mib,
        version_compatible=recipe.version_compatible,
        hardware_compatibility=recipe.hardware_compatibility,
        timing_cache_folder=recipe.work_dir.resolve(),
    )
    nodes = Counter(node.op_type for node in onnx.load(graph / "model.onnx", load_external_data=False).graph.node)
    quantised = {"quantize_nodes": nodes["QuantizeLinear"], "dequantize_nodes": nodes["DequantizeLinear"]}

    def make(folder: Path) -> None:
        built = builder.build_plan(graph, settings, facts | quantised, folder)
        (folder / ENGINE_JSON).write_text(json.dumps(built, indent=1) + "\n")
        if (graph / ACCURACY).exists():
            shutil.copyfile(graph / ACCURACY, folder / ACCURACY)

    # An ordinary plan depends on the GPU too, so only this host's own work folder may remember it.
    version = api.load(recipe.target).__version__
    inputs = [graph.name, facts, vars(settings), version, api.Device(settings).gpu]
    inputs += _code("tensorrt_api.py", "tensorrt_build.py")
    return _stage(recipe, f"{recipe.target}-{recipe.precision}", inputs, make)


def _tools(target: str, extra: str, *modules: str) -> list[Any]:
    """The modules that a target needs. Raises :class:`RecipeError` naming the extra that brings them."""
    try:
        return [importlib.import_module(module) for module in modules]
    except ImportError as error:
        raise RecipeError(f"--target {target} needs pip install 'tidegate[{extra}]': {error}") from None


def _code(*patterns: str) -> list[str]:
    files = sorted(file for pattern in patterns for file in Path(__file__).parent.glob(pattern))
    return [manifests.sha256_of(file) for file in files]


def _stage(recipe: Recipe, name: str, inputs: object, make: Callable[[Path], None]) -> Path:
    """The folder that ``make`` fills, found again when a build with the same ``inputs`` has finished it before."""
    done = recipe.work_dir / f"{name}-{manifests.digest_of(inputs)[:16]}"
    if not done.exists():
        part = recipe.work_dir / f"{done.name}.{os.getpid()}.part"
        _clear_parts(recipe.work_dir)
        try:
            part.mkdir(parents=True)
            make(part)
            os.rename(part, done)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return done


def _clear_parts(work_dir: Path) -> None:
    """Remove what killed builds left behind; a part is named after the process that writes it."""
    for part in work_dir.glob("*.part"):
        process = part.name.split(".")[-2]
        if process == str(os.getpid()) or not Path(f"/proc/{process}").exists():
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _progress(source: Source, quiet: bool) -> Iterator[Callable[[str], FloatArray]]:
    """The source's reader with a bar that counts tensors."""
    with tqdm(total=len(expected_tensors(source.config)), desc="emit", unit=" tensors", disable=quiet) as bar:

        def read(name: str) -> FloatArray:
            values = source.finite(name)
            bar.update()
            return values

        yield read
