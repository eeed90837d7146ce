"""What each ``--target`` puts into a version's ``engine`` folder. Stages are kept in the work folder and found again by
the hash of what went into them; a target's tools are imported only when it is asked for.
"""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from build_engine import manifest as manifests
from build_engine.accuracy import ACCURACY
from build_engine.decoder import DecoderConfig, FloatArray, expected_tensors
from build_engine.errors import RecipeError
from build_engine.first_run import run_first
from build_engine.recipe import Recipe, Room
from build_engine.source import Source
from build_engine.trial import Request
from build_engine.work import stage

ENGINE_JSON = "engine.json"
MOST_CACHE_BYTES = 1 << 40
PROVING = ("first_run.py", "verify.py", "backend/*.py")
"""What runs an engine before it is published."""


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
    return (_openvino if recipe.target == "openvino" else _slots)(recipe, room, source, files, quiet)


def _openvino(recipe: Recipe, room: Room, source: Source, files: dict[str, str], quiet: bool) -> Made:
    """OpenVINO's graph: proven where there is text to judge it by, then perhaps in another precision than asked for."""
    openvino, proof = _tools("openvino", "build", "openvino", "build_engine.openvino_proof")

    def make(folder: Path) -> None:
        if recipe.held_out is None:
            with _progress(source, quiet) as read:
                proof.OpenVinoVariant(recipe.precision, read).emit(source.config, room.context_length, folder)
        else:
            proof.emit_proven(_request(recipe, source, recipe.held_out, quiet), folder)
        run_first(folder, proof.facts(source.config, room.context_length, _precision(recipe, folder)), *place)

    place = source.tokenizer, recipe.work_dir
    code = ("*.py",) if recipe.held_out else ("decoder.py", "emit_openvino.py", "openvino_proof.py", "adapter.py")
    inputs = [files, recipe.precision, recipe.strict, _code(*code, *PROVING), openvino.__version__]
    folder = stage(recipe.work_dir, f"openvino-{recipe.precision}", inputs, make)
    facts = proof.facts(source.config, room.context_length, _precision(recipe, folder))
    return Made(folder, facts, _accuracy(folder))


def _request(recipe: Recipe, source: Source, held_out: Path, quiet: bool) -> Request:
    texts = (held_out, recipe.calibration, recipe.strict)
    return Request(source, recipe.precision, *texts, quiet=quiet, work_dir=recipe.work_dir)


def _accuracy(folder: Path) -> dict[str, Any] | None:
    record = folder / ACCURACY
    return json.loads(record.read_text()) if record.exists() else None


def _precision(recipe: Recipe, folder: Path) -> str:
    """Of the engine in ``folder``: what passed its proof, or what was asked for."""
    accuracy = _accuracy(folder)
    return str(accuracy["precision"]) if accuracy else recipe.precision


def _slots(recipe: Recipe, room: Room, source: Source, files: dict[str, str], quiet: bool) -> Made:
    """The ONNX graph: proven where there is text to judge it by, then perhaps in another precision than asked for."""
    onnx, runtime, proof = _tools(recipe.target, "onnx", "onnx", "onnxruntime", "build_engine.proof")
    base = "fp32" if recipe.target == "onnxruntime" else "fp16"
    _refuse_cache(source.config, room)

    def make(folder: Path) -> None:
        if recipe.held_out is None:
            with _progress(source, quiet) as read:
                variant = proof.unproven(source.config, recipe.precision, base, read)
                variant.emit(source.config, room.context_length, folder)
        else:
            request = _request(recipe, source, recipe.held_out, quiet)
            proof.emit_proven(request, base, room.context_length, folder)
        run_first(folder, facts_of(folder) | {"kind": "onnxruntime"}, source.tokenizer, recipe.work_dir)

    def facts_of(folder: Path) -> dict[str, Any]:
        precision = _precision(recipe, folder)
        cache = precision if precision in ("fp32", "fp16") else base
        shape = (room.context_length, room.max_sequences)
        facts = proof.slot_facts(source.config, cache, *shape, prefill_tokens=2 * recipe.step_tokens)
        return {"kind": recipe.target, "precision": precision, **facts}

    tools = [onnx.__version__, runtime.__version__]
    inputs = [files, recipe.precision, recipe.strict, base, room.context_length, _code("*.py", "backend/*.py"), tools]
    folder = stage(recipe.work_dir, f"onnx-{recipe.precision}", inputs, make)
    facts, accuracy = facts_of(folder), _accuracy(folder)
    if recipe.target == "onnxruntime":
        return Made(folder, facts, accuracy)
    plan = _tensorrt(recipe, folder, facts)
    return Made(plan, facts | json.loads((plan / ENGINE_JSON).read_text()), accuracy)


def _refuse_cache(config: DecoderConfig, room: Room) -> None:
    """Raise :class:`RecipeError` for slots that no host has memory for, before anything is written or compiled."""
    # Keys and values, in 16 bits each.
    size = 2 * 2 * config.layers * config.kv_heads * config.head_dim * room.kv_cache_tokens
    if size > MOST_CACHE_BYTES:
        raise RecipeError(
            f"--slots: {room.max_sequences} of {room.context_length} tokens take {size / 1e12:,.1f} TB in fp16; give "
            f"fewer or shorter ones, at most {MOST_CACHE_BYTES / 1e12:.1f} TB"
        )


def _tensorrt(recipe: Recipe, graph: Path, facts: dict[str, Any]) -> Path:
    """The plan, beside what its build has to say about it."""
    modules = (f"build_engine.{name}" for name in ("tensorrt_api", "tensorrt_build", "gpu_check"))
    api, builder, check = _tools(recipe.target, "onnx", *modules)
    settings = api.settings_of(recipe)
    quantise, dequantise = builder.quantised_layers(graph)
    quantised = {"quantize_nodes": quantise, "dequantize_nodes": dequantise}

    def make(folder: Path) -> None:
        built = builder.build_plan(graph, settings, facts | quantised, folder)
        built["gpu_verified"] = check.verified(graph, folder, facts | built, recipe.work_dir)
        (folder / ENGINE_JSON).write_text(json.dumps(built, indent=1) + "\n")
        if (graph / ACCURACY).exists():
            shutil.copyfile(graph / ACCURACY, folder / ACCURACY)

    # An ordinary plan depends on the GPU too, so only this host's own work folder may remember it.
    version = api.load(recipe.target).__version__
    inputs = [graph.name, facts, vars(settings), version, api.Device(settings).gpu]
    inputs += _code("tensorrt_api.py", "tensorrt_build.py", "gpu_check.py", *PROVING)
    return stage(recipe.work_dir, f"{recipe.target}-{recipe.precision}", inputs, make)


def _tools(target: str, extra: str, *modules: str) -> list[Any]:
    """The modules that a target needs. Raises :class:`RecipeError` naming the extra that brings them."""
    try:
        return [importlib.import_module(module) for module in modules]
    except ImportError as error:
        raise RecipeError(f"--target {target} needs pip install 'tidegate[{extra}]': {error}") from None


def _code(*patterns: str) -> list[str]:
    files = sorted(file for pattern in patterns for file in Path(__file__).parent.glob(pattern))
    return [manifests.sha256_of(file) for file in files]


@contextmanager
def _progress(source: Source, quiet: bool) -> Iterator[Callable[[str], FloatArray]]:
    """The source's reader with a bar that counts tensors."""
    with tqdm(total=len(expected_tensors(source.config)), desc="emit", unit=" tensors", disable=quiet) as bar:

        def read(name: str) -> FloatArray:
            values = source.finite(name)
            bar.update()
            return values

        yield read
