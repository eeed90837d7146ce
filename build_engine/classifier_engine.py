"""A classifier's engine: the graph that was decided on for ONNX Runtime, or the TensorRT plan made from it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from build_engine.classifier_recipe import ClassifierRecipe
from build_engine.classifier_source import ClassifierSource
from build_engine.emit_encoder import EncoderPlan, emit
from build_engine.encoder import EncoderConfig
from build_engine.errors import RecipeError

ENGINE_JSON = "engine.json"
BEST_TOKENS = 64


def make_engine(
    recipe: ClassifierRecipe, source: ClassifierSource, plan: EncoderPlan, work: Path, folder: Path
) -> dict[str, Any]:
    """Fill ``folder``; ``work`` is an empty one. Returns the content of its ``engine.json``. Raises
    :class:`build_engine.errors.BuildError`."""
    on_cpu = recipe.target == "onnxruntime"
    graph = folder if on_cpu else work
    emit(source.config, source.read, plan, graph)
    facts: dict[str, Any] = {
        "kind": recipe.target,
        "labels": len(source.config.labels),
        "max_batch_size": recipe.max_batch_size,
        "max_tokens": most_tokens(recipe, source.config),
    }
    if not on_cpu:
        facts |= _plan(recipe, source.config, facts, graph, folder)
    (folder / ENGINE_JSON).write_text(json.dumps(facts, indent=1) + "\n")
    return facts


def most_tokens(recipe: ClassifierRecipe, config: EncoderConfig) -> int:
    """Where texts are cut: as asked for, or where the model knows no further position."""
    return min(recipe.max_tokens, config.positions)


def _plan(
    recipe: ClassifierRecipe, config: EncoderConfig, facts: dict[str, Any], graph: Path, folder: Path
) -> dict[str, Any]:
    """TensorRT's plan of ``graph``, one profile for every batch and length."""
    try:
        builder, api = (importlib.import_module(f"build_engine.tensorrt_{each}") for each in ("build", "api"))
    except ImportError as error:
        raise RecipeError(f"--target {recipe.target} needs pip install 'tidegate[onnx]': {error}") from None
    quantise, dequantise = builder.quantised_layers(graph)
    layers = {"ATTENTION_INPUT": config.layers, "QUANTIZE": quantise, "DEQUANTIZE": dequantise}
    # Heads of some widths have no fused kernel; those may be broken up.
    expected = builder.Expected(layers, frozenset(("input_ids", "mask", "scores")), decomposable=True)
    batch, tokens = facts["max_batch_size"], facts["max_tokens"]
    best = max(recipe.preferred_batch_sizes, default=1)
    profile = {"name": "scores", "batch": [1, best, batch], "tokens": [1, min(BEST_TOKENS, tokens), tokens]}
    made: dict[str, Any] = builder.compile_plan(graph, api.settings_of(recipe), expected, [profile], folder)
    return made
