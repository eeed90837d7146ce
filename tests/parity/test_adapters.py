"""A merged LoRA adapter says what peft says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adapters
import numpy as np
import pytest
import torch
from checkpoints import load
from compare import built, engine_logits, torch_logits

from build_engine.adapter import merge
from build_engine.decoder import expected_tensors, head_weight
from build_engine.source import Source
from build_engine.source_hf import open_directory

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama-3.1", {}),
    "rslora on all linear": ("mistral", {"target_modules": "all-linear", "use_rslora": True, "r": 9}),
    "regular expression": ("qwen3", {"target_modules": r"model\.layers\.[01]\.(self_attn|mlp)\.(q|k|down)_proj"}),
    "patterns": (
        "qwen2",
        {
            "target_modules": [*ATTENTION, "up_proj"],
            "rank_pattern": {"up_proj": 7, r"layers\.1\.self_attn\.q_proj": 2},
            "alpha_pattern": {"v_proj": 3, "model.layers.2.self_attn.o_proj": 5},
            "use_rslora": True,
        },
    ),
    "some layers, some excluded": (
        "mistral-nemo",
        {"target_modules": ATTENTION, "layers_to_transform": [0, 2], "exclude_modules": ["layers.0.self_attn.k_proj"]},
    ),
    "fan in fan out": ("llama-2", {"fan_in_fan_out": True}),
    "modules to save": (
        "llama-2",
        {"modules_to_save": ["embed_tokens", "lm_head", "model.norm", "layers.1.mlp"], "target_modules": ["down_proj"]},
    ),
    "both ends": ("llama-2", {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "rank_pattern": {"lm_head": 3}}),
    "tied, neither end": ("qwen2.5-tied", {}),
    "tied, embedding": ("qwen2.5-tied", {"target_modules": ["embed_tokens", "q_proj"]}),
    "tied, head": ("qwen3-tied", {"target_modules": ["lm_head", "q_proj"]}),
    "tied, both": ("llama-3.2", {"target_modules": ["lm_head", "embed_tokens"]}),
    "tied, embedding saved": ("llama-3.2", {"modules_to_save": ["embed_tokens"]}),
    "tied, head saved": ("llama-3.2", {"modules_to_save": ["lm_head"]}),
    "tied, one end saved, one with a pair": (
        "llama-3.2",
        {"modules_to_save": ["lm_head"], "target_modules": ["embed_tokens"]},
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, checkpoint: Callable[[str], Path], tmp_path: Path) -> tuple[Path, Path]:
    """Base and adapter."""
    name, settings = CASES[request.param]
    base = checkpoint(name)
    return base, adapters.save(base, tmp_path / "adapter", **settings)


def test_the_engine_equals_peft(case: tuple[Path, Path], tmp_path: Path) -> None:
    """Built with ``--adapter`` and served, against peft with the adapter beside the base."""
    base, adapter = case
    expected = torch_logits(adapters.applied(base, adapter))
    assert np.abs(expected - torch_logits(load(base))).max() > 0.1  # it does change something
    found = engine_logits(built(base, tmp_path, adapter=adapter))
    print(f"engine: {np.abs(found - expected).max():.1e} of {expected.std():.2f}")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_merged_weights_equal_peft(case: tuple[Path, Path]) -> None:
    """The merged tensors in transformers' own model, against peft with the adapter beside the base; in float64, so that
    only the merge can differ."""
    base, adapter = case
    expected = torch_logits(adapters.applied(base, adapter).double())
    found = torch_logits(filled(base, merge(open_directory(base), adapter)).double())
    print(f"beside: {np.abs(found - expected).max():.1e} of {expected.std():.2f}")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_merged_weights_equal_those_that_peft_merges(case: tuple[Path, Path]) -> None:
    """The same against ``merge_and_unload``, in float32. Not where a LoRA pair sits on one end of a tied embedding:
    there peft adds it to the shared tensor and so to the other end too, which is not what was trained."""
    base, adapter = case
    source = merge(open_directory(base), adapter)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    if load(base).config.tie_word_embeddings and {"embed_tokens", "lm_head"} & {*settings["target_modules"]}:
        assert not source.config.tie_embeddings
        return
    with adapters.expected_warnings():
        expected = torch_logits(adapters.applied(base, adapter).merge_and_unload())
    found = torch_logits(filled(base, source))
    print(f"merged: {np.abs(found - expected).max():.1e} of {expected.std():.2f}")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def filled(base: Path, source: Source) -> Any:
    """Transformers' model with the tensors of a source in it, untied if the source is."""
    model = load(base)
    if model.config.tie_word_embeddings and not source.config.tie_embeddings:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    values = {name: torch.from_numpy(source.finite(name)) for name in expected_tensors(source.config)}
    values["lm_head.weight"] = torch.from_numpy(source.finite(head_weight(source.config)))
    model.load_state_dict(values)
    return model
