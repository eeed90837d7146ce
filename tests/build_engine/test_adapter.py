"""An adapter that does not fit its base, or does what cannot be merged, is refused by file, tensor and setting."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models

from build_engine import manifest as manifests
from build_engine.__main__ import main
from build_engine.adapter import PREFIX, merge
from build_engine.decoder import FloatArray, expected_tensors
from build_engine.errors import CorruptSource, RecipeError, SourceError, UnsupportedModel
from build_engine.hf_config import decoder_config
from build_engine.source import Source
from build_engine.source_hf import open_directory

RAW = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 24,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
QUERY = "model.layers.1.self_attn.q_proj"
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "somebody/Tiny-Base",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj"],
    "bias": "none",
}
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory, written without torch."""
    folder = tmp_path_factory.mktemp("models") / "tiny-base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(RAW))
    words = models.WordLevel({f"w{number}": number for number in range(24)}, unk_token="w0")
    Tokenizer(words).save(str(folder / "tokenizer.json"))
    rng = np.random.default_rng(0)
    shapes = expected_tensors(decoder_config(RAW, tie_embeddings=False))
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def source(base: Path) -> Source:
    """The base, opened."""
    return open_directory(base)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes an adapter that fits, but for what it is told."""

    def written(settings: Mapping[str, Any] | None = None, tensors: Mapping[str, Any] | None = None) -> Path:
        folder = tmp_path / "adapter"
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(CONFIG | dict(settings or {})))
        found: dict[str, FloatArray | None] = {
            f"{PREFIX}model.layers.{layer}.self_attn.q_proj.lora_{side}.weight": np.full(shape, layer + 1, np.float32)
            for layer in range(2)
            for side, shape in (("A", (2, 32)), ("B", (32, 2)))
        }
        found |= {f"{PREFIX}{name}": tensor for name, tensor in (tensors or {}).items()}
        present = {name: tensor for name, tensor in found.items() if tensor is not None}
        save_file(present, folder / "adapter_model.safetensors")
        return folder

    return written


def test_a_merge_changes_only_what_is_targeted(source: Source, write: Write) -> None:
    """``W + alpha / r * B @ A`` where there is a pair, the base's own tensor elsewhere."""
    merged = merge(source, write())
    np.testing.assert_array_equal(merged.read(f"{QUERY}.weight"), source.read(f"{QUERY}.weight") + 2 * 2 * 4)
    for name in expected_tensors(source.config):
        if "q_proj" not in name:
            np.testing.assert_array_equal(merged.read(name), source.read(name))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("peft_type", "IA3"),
        ("use_dora", True),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("lora_bias", True),
        ("use_qalora", True),
        ("trainable_token_indices", [1, 2]),
        ("target_parameters", ["experts.weight"]),
        ("layer_replication", [[0, 2], [1, 2]]),
        ("alora_invocation_tokens", [1]),
        ("ensure_weight_tying", True),
        ("init_lora_weights", "pissa"),
        ("layers_pattern", ["blocks"]),
        ("something_of_next_year", {"on": 1}),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(source: Source, write: Write, setting: str, value: object) -> None:
    """Settings that change the result in a way this builder does not follow, unknown ones among them."""
    with pytest.raises(UnsupportedModel, match=rf"adapter_config\.json: {setting} "):
        merge(source, write({"layers_to_transform": [0, 1], setting: value}))


def zeros(*shape: int) -> FloatArray:
    """A tensor."""
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("settings", "tensors", "says"),
    [
        ({"r": 3}, {}, r"q_proj\.lora_A\.weight has shape \[2, 32\].*\[3, 32\]"),
        ({"rank_pattern": {"layers.1.self_attn.q_proj": 4}}, {}, r"layers\.1.*lora_A\.weight has shape \[2, 32\]"),
        ({}, {f"{QUERY}.lora_B.weight": zeros(64, 2)}, r"lora_B\.weight has shape \[64, 2\].*another base model"),
        ({}, {f"{QUERY}.lora_A.weight": zeros(2, 16)}, r"lora_A\.weight has shape \[2, 16\].*another base model"),
        ({}, {f"{QUERY}.lora_B.weight": None}, r"layers\.1\.self_attn\.q_proj\.lora_B\.weight is missing"),
        ({}, {"model.layers.2.self_attn.q_proj.lora_A.weight": zeros(2, 32)}, r"layers\.2.*matches no module"),
        ({}, {"model.layers.0.mlp.up_proj.lora_A.weight": zeros(2, 32)}, r"up_proj\.lora_A\.weight matches no module"),
        ({}, {"model.layers.0.mlp.up_proj.weight": zeros(48, 32)}, r"up_proj\.weight matches no module"),
        ({}, {f"{QUERY}.lora_embedding_A": zeros(2, 32)}, "wrong kind"),
        ({}, {f"{QUERY}.lora_magnitude_vector": zeros(32)}, "no LoRA pair"),
        ({"target_modules": ["c_attn"]}, {}, "matches no module"),
        ({"target_modules": []}, {}, "target_modules names nothing"),
        ({"target_modules": "q_proj("}, {}, "no regular expression"),
        ({"target_modules": ".*q_proj", "layers_to_transform": 0}, {}, "layers_to_transform needs"),
        ({"target_modules": ["q_proj", "v_proj"]}, {}, r"v_proj\.lora_A\.weight is missing"),
        ({"layers_to_transform": [0]}, {}, r"layers\.1.*matches no module"),
        ({"modules_to_save": ["lm_head"]}, {}, r"lm_head\.weight is missing"),
        ({}, {"lm_head.weight": zeros(25, 32)}, r"lm_head\.weight has shape \[25, 32\].*\[24, 32\]"),
        ({"r": "many"}, {}, "r must be a positive number"),
        ({"lora_alpha": 0}, {}, "lora_alpha must be a positive number"),
        ({"base_model_name_or_path": "somebody/other"}, {}, "--adapter-base other"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    source: Source, write: Write, settings: dict[str, Any], tensors: dict[str, Any], says: str
) -> None:
    """Each message has the file, and the tensor or the setting."""
    with pytest.raises((CorruptSource, UnsupportedModel), match=says) as refused:
        merge(source, write(settings, tensors))
    assert "adapter" in str(refused.value)


@pytest.mark.parametrize(
    ("named", "told", "fits"),
    [
        ("somebody/Tiny-Base", None, True),
        ("/home/trainer/models/tiny-base/", None, True),
        (None, None, True),
        ("org/another", None, False),
        ("org/another", "org/another", True),
        ("somebody/Tiny-Base", "org/another", False),
    ],
)
def test_the_base_is_known_by_its_name(
    source: Source, write: Write, named: str | None, told: str | None, fits: bool
) -> None:
    """The last part of the name decides; ``--adapter-base`` gives the source another one."""
    adapter = write({"base_model_name_or_path": named})
    if fits:
        merge(source, adapter, told)
    else:
        with pytest.raises(CorruptSource, match="base_model_name_or_path"):
            merge(source, adapter, told)


def test_values_that_are_not_numbers_name_the_adapter(source: Source, write: Write) -> None:
    """An adapter that diverged in training is not published."""
    merged = merge(source, write({}, {f"{QUERY}.lora_A.weight": np.full((2, 32), np.nan, np.float32)}))
    with pytest.raises(CorruptSource, match=r"adapter_model\.safetensors.*q_proj"):
        merged.finite(f"{QUERY}.weight")


def test_an_incomplete_folder_says_what_is_missing(source: Source, write: Write, tmp_path: Path) -> None:
    """The two files of an adapter, and the pickle that older ones have."""
    with pytest.raises(SourceError, match=r"no adapter_config\.json"):
        merge(source, tmp_path)
    adapter = write()
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(SourceError, match="pickle"):
        merge(source, adapter)


def test_an_adapter_brings_its_own_template(source: Source, write: Write) -> None:
    """What it was trained with is what it is served with."""
    adapter = write()
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    assert merge(source, adapter).tokenizer.chat_template == "{{ messages }}"


def test_an_adapter_decides_what_is_published(base: Path, write: Write, tmp_path: Path) -> None:
    """Its files are in the manifest; changed, they are a new version; unchanged, nothing is built again."""
    adapter, repository = write(), tmp_path / "repository"
    arguments = ["build", "--source", base, "--name", "m", "--repository", repository, "--work-dir", tmp_path / "work"]
    arguments += ["--precision", "fp32", "--quiet"]

    def published(*more: object) -> list[str]:
        assert main([str(each) for each in (*arguments, *more)]) == 0
        return sorted(path.name for path in (repository / "m").iterdir() if path.is_dir())

    assert published() == ["1"]
    assert published("--adapter", adapter) == published("--adapter", adapter) == ["1", "2"]
    manifest = manifests.read_manifest(repository / "m" / "2")
    assert manifest["adapter"] == "adapter"
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= manifest["source"]["sha256"].keys()
    (adapter / "adapter_config.json").write_text(json.dumps(CONFIG | {"lora_alpha": 5}))
    assert published("--adapter", adapter) == ["1", "2", "3"]
    engines = [manifests.sha256_of(repository / "m" / version / "engine" / "openvino.bin") for version in "123"]
    assert len(set(engines)) == 3


def test_a_base_name_without_an_adapter_is_a_mistake(base: Path, tmp_path: Path) -> None:
    """Said before anything is read."""
    arguments = ["build", "--source", str(base), "--name", "m", "--repository", str(tmp_path), "--adapter-base", "x"]
    assert main(arguments) == RecipeError.exit_code
    assert not list(tmp_path.iterdir())
