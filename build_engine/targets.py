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
from build_engine.errors import RecipeError
from build_engine.recipe import RTX_DEFAULT, Recipe, Room
from build_engine.source import Source

BLOCK_SIZE = 32
ENGINE_JSON = "engine.json"
PREFILL_BATCH = 4  # prompts of one call: more of them make the others wait longer for their next token


@dataclass(frozen=True)
class Made:
    """An engine's files, and what the backend has to know about them (``engine.json``)."""

    folder: Path
    facts: dict[str, Any]


def make_engine(recipe: Recipe, room: Room, source: Source, files: dict[str, str], *, quiet: bool) -> Made:
    """The engine that ``recipe`` asks for. ``files`` are the source's hashes. Raises
    :class:`build_engine.errors.BuildError`.
    """
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
    }
    if recipe.target == "openvino":
        cache = {"kv_cache_precision": "f32" if recipe.precision == "fp32" else "u8", "block_size": BLOCK_SIZE}
        return Made(_openvino(recipe, source, files, quiet), facts | cache)
    slots = {
        "kv_cache_precision": recipe.precision,
        "slots": room.max_sequences,
        "prefill_tokens": min(2 * recipe.step_tokens, room.context_length),
        "prefill_batch": min(PREFILL_BATCH, room.max_sequences),
        "builder": {},
    }
    graph = _onnx(recipe, room, source, files, quiet)
    if recipe.target == "onnxruntime":
        return Made(graph, facts | slots)
    plan = _tensorrt(recipe, graph, facts | slots)
    return Made(plan, facts | slots | json.loads((plan / ENGINE_JSON).read_text()))


def _openvino(recipe: Recipe, source: Source, files: dict[str, str], quiet: bool) -> Path:
    openvino, emitter = _tools("openvino", "build", "openvino", "build_engine.emit_openvino")

    def make(folder: Path) -> None:
        with _progress(source, quiet) as read:
            model = emitter.emit(source.config, read, recipe.precision)
        openvino.save_model(model, folder / "openvino.xml", compress_to_fp16=False)

    inputs = [files, recipe.precision, _code("decoder.py", "emit_openvino.py"), openvino.__version__]
    return _stage(recipe, f"openvino-{recipe.precision}", inputs, make)


def _onnx(recipe: Recipe, room: Room, source: Source, files: dict[str, str], quiet: bool) -> Path:
    onnx, emitter = _tools(recipe.target, "onnx", "onnx", "build_engine.emit_onnx")

    def make(folder: Path) -> None:
        with _progress(source, quiet) as read:
            emitter.emit(source.config, read, recipe.precision, room.context_length, folder)

    code = _code("decoder.py", "emit_onnx.py", "onnx_weights.py")
    inputs = [files, recipe.precision, room.context_length, code, onnx.__version__]
    return _stage(recipe, f"onnx-{recipe.precision}", inputs, make)


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


def _code(*names: str) -> list[str]:
    return [manifests.sha256_of(Path(__file__).with_name(name)) for name in names]


def _stage(recipe: Recipe, name: str, inputs: object, make: Callable[[Path], None]) -> Path:
    """The folder that ``make`` fills, found again when a build with the same ``inputs`` has finished it before."""
    done = recipe.work_dir / f"{name}-{manifests.digest_of(inputs)[:16]}"
    if not done.exists():
        part = recipe.work_dir / f"{done.name}.{os.getpid()}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        make(part)
        os.rename(part, done)
    return done


@contextmanager
def _progress(source: Source, quiet: bool) -> Iterator[Callable[[str], FloatArray]]:
    """The source's reader with a bar that counts tensors."""
    with tqdm(total=len(expected_tensors(source.config)), desc="emit", unit=" tensors", disable=quiet) as bar:

        def read(name: str) -> FloatArray:
            values = source.finite(name)
            bar.update()
            return values

        yield read
