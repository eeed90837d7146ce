"""What the builder will not build, it says by name, before anything is published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from build_engine.errors import BuildError, CorruptSource, RecipeError, SourceError, UnsupportedModel
from build_engine.pipeline import open_source

from .checkpoints import LLAMA3_ROPE, Shape, tokenizer, weights, write_directory, write_gguf, write_safetensors
from .conftest import Builder

QWEN2 = Shape(architecture="Qwen2ForCausalLM")


def test_what_can_be_built_is_not_refused(tmp_path: Path) -> None:
    """The plain checkpoints of this folder, so that every refusal below is about its one change."""
    assert open_source(write_directory(tmp_path / "llama")).config.architecture == "LlamaForCausalLM"
    assert open_source(write_directory(tmp_path / "qwen2", QWEN2)).config.qkv_bias
    assert open_source(write_gguf(tmp_path / "llama.gguf")).config.architecture == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architecture GPT2LMHeadModel"),
        ({"architectures": ["PhiMoEForCausalLM"]}, "architecture PhiMoEForCausalLM"),
        ({"architectures": None}, "architecture"),
        ({"architectures": {}}, "architecture"),
        ({"sliding_window": 32}, "sliding_window"),
        ({"num_local_experts": 8}, "num_local_experts says a mixture of experts"),
        ({"num_experts": 8}, "num_experts says a mixture of experts"),
        (
            {"architectures": ["MixtralForCausalLM"], "num_local_experts": 8},
            "num_local_experts says .* routing",
        ),
        ({"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 8}, "num_experts says .* routing .*weights"),
        ({"architectures": ["DeepseekV3ForCausalLM"], "n_routed_experts": 256}, "n_routed_experts says .* routing"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config says already quantised"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type yarn"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_type linear"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_type longrope"),
    ],
)
def test_a_model_of_another_kind_is_refused_by_its_field(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    """A model that could be emitted only wrongly: the message names the field of config.json and its value."""
    with pytest.raises(UnsupportedModel, match=words) as refusal:
        open_source(write_directory(tmp_path / "source", **changes))
    assert "config.json" in str(refusal.value)


def test_sliding_windows_of_qwen2_count_only_when_switched_on(tmp_path: Path) -> None:
    """Qwen2 ships a window that it does not use."""
    assert open_source(write_directory(tmp_path / "off", QWEN2, sliding_window=32, use_sliding_window=False))
    settings = {"sliding_window": 32, "use_sliding_window": True, "max_window_layers": 0}
    with pytest.raises(UnsupportedModel, match="sliding_window"):
        open_source(write_directory(tmp_path / "on", QWEN2, **settings))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field in ("vocab_size", "hidden_size", "num_hidden_layers") for value in (None, 0, "8")),
        ("num_attention_heads", -4),
        ("num_attention_heads", 4.0),
        ("num_key_value_heads", 3),
        ("num_key_value_heads", True),
        ("head_dim", 31),
        ("intermediate_size", []),
        ("max_position_embeddings", None),
        ("rms_norm_eps", "small"),
        ("rms_norm_eps", -1e-5),
        ("rms_norm_eps", float("nan")),
        ("rope_theta", 0),
        ("rope_theta", float("inf")),
        ("rope_theta", 10**400),
        ("rope_scaling", "llama3"),
        ("rope_scaling", {**LLAMA3_ROPE, "factor": None}),
        ("rope_scaling", {**LLAMA3_ROPE, "high_freq_factor": 1.0}),
        ("rope_scaling", {**LLAMA3_ROPE, "original_max_position_embeddings": 0.5}),
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 3),
        ("vocab_size", 999),
    ],
)
def test_a_configuration_of_nonsense_is_corrupt(tmp_path: Path, field: str, value: object) -> None:
    """Missing, negative, infinite or of another type, or contradicted by the tensors: never a crash, never a wait."""
    with pytest.raises(CorruptSource):
        open_source(write_directory(tmp_path / "source", **{field: value}))


@pytest.mark.parametrize("bias", ["self_attn.o_proj.bias", "mlp.gate_proj.bias", "self_attn.q_proj.bias"])
def test_a_weight_without_a_place_is_refused(tmp_path: Path, bias: str) -> None:
    """Leaving it out would change the model without a word."""
    source = write_directory(tmp_path / "source")
    extra = {f"model.layers.0.{bias}": weights(Shape())["model.norm.weight"]}
    write_safetensors(source / "model.safetensors", weights(Shape()) | extra)
    with pytest.raises(UnsupportedModel, match=bias.replace(".", r"\.")):
        open_source(source)


def test_a_layer_too_many_is_refused(tmp_path: Path) -> None:
    """A configuration that says fewer layers than there are is not taken at its word."""
    with pytest.raises(UnsupportedModel, match=r"model\.layers\.1\..* has no place"):
        open_source(write_directory(tmp_path / "source", num_hidden_layers=1))


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    """LoRA weights alone are no model; the message says what to do."""
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UnsupportedModel, match="give its base model as --source"):
        open_source(tmp_path)


def test_pickles_are_refused(tmp_path: Path) -> None:
    """A pickle runs code when it is read, so it never is."""
    source = write_directory(tmp_path / "source")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(SourceError, match=r"pytorch_model\.bin is a pickle.*safe_serialization"):
        open_source(source)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    """Each of the three that a directory cannot do without."""
    source = write_directory(tmp_path / "source")
    (source / file).unlink()
    with pytest.raises(SourceError, match=r"\*\.safetensors" if file.startswith("model") else file):
        open_source(source)


def test_a_source_that_is_not_there(publish_from: Builder, tmp_path: Path, repository: Path) -> None:
    """Nothing, an empty folder, and a link whose file is gone, as an interrupted download leaves it."""
    with pytest.raises(SourceError, match="does not exist"):
        publish_from(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no model"):
        publish_from(tmp_path / "empty")
    source = write_directory(tmp_path / "source")
    (source / "model.safetensors").unlink()
    (source / "model.safetensors").symlink_to(tmp_path / "blob-that-never-came")
    with pytest.raises(SourceError, match=r"model\.safetensors"):
        publish_from(source)
    assert not repository.exists()


def test_a_tokenizer_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    """A token without a row in the embedding would fail in the middle of somebody's request."""
    source = write_directory(tmp_path / "source")
    larger = tokenizer()
    larger.add_tokens(["a1", "a2", "a3", "one more", "and one"])
    larger.save(str(source / "tokenizer.json"))
    with pytest.raises(CorruptSource, match="'one more' the id 264, but the embedding has 264 rows"):
        open_source(source)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "\udcff", "{}", '{"model": 5}', '{"model": {"vocab": {}}}', '{"added_tokens": [5], "model": {}}'],
)
def test_a_tokenizer_that_cannot_be_loaded_is_corrupt(tmp_path: Path, content: str) -> None:
    """Found by the build and not by the first start in Triton."""
    source = write_directory(tmp_path / "source")
    (source / "tokenizer.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(CorruptSource, match="tokenizer"):
        open_source(source)


@pytest.mark.parametrize("template", [5, [1, 2], [{"name": "default"}], {"default": "x"}])
def test_a_chat_template_of_another_kind_is_corrupt(tmp_path: Path, template: object) -> None:
    """A text or a list of named ones; anything else is named."""
    source = write_directory(tmp_path / "source")
    (source / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    with pytest.raises(CorruptSource, match="chat_template"):
        open_source(source)


@pytest.mark.parametrize("value", ["two", [1, 2], 1.5])
def test_a_beginning_token_of_another_kind_is_corrupt(tmp_path: Path, value: object) -> None:
    """``bos_token_id`` is one id, or absent."""
    source = write_directory(tmp_path / "source", bos_token_id=value)
    (source / "tokenizer_config.json").unlink()
    with pytest.raises(CorruptSource, match="bos_token_id"):
        open_source(source)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"general__architecture": "gemma3"}, "architecture gemma3"),
        ({"llama__expert_count": 8}, "mixture of experts"),
        ({"llama__rope__scaling__type": "yarn"}, "rope scaling yarn"),
        ({"llama__attention__head_count": [4, 4]}, "head counts that differ by layer"),
        ({"tokenizer__ggml__model": "llama"}, "tokenizer model llama"),
        ({"tokenizer__ggml__pre": "tekken"}, "pre-tokenizer tekken"),
        ({"tokenizer__ggml__pre": None}, r"pre-tokenizer \(none\)"),
    ],
)
def test_a_gguf_file_of_another_kind_is_refused(tmp_path: Path, metadata: dict[str, Any], words: str) -> None:
    """By the name that its metadata gives it."""
    with pytest.raises(UnsupportedModel, match=words):
        open_source(write_gguf(tmp_path / "model.gguf", **metadata))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama__block_count", None),
        ("llama__block_count", 2**31),
        ("llama__block_count", "two"),
        ("llama__embedding_length", 63),
        ("llama__attention__head_count", 0),
        ("llama__attention__head_count_kv", 3),
        ("llama__attention__key_length", 31),
        ("llama__attention__key_length", "wide"),
        ("llama__attention__layer_norm_rms_epsilon", float("nan")),
        ("llama__attention__layer_norm_rms_epsilon", [1.0]),
        ("llama__rope__freq_base", float("inf")),
        ("llama__rope__freq_base", "fast"),
        ("llama__context_length", None),
        ("tokenizer__ggml__tokens", None),
        ("tokenizer__ggml__tokens", ["a", "b"]),
        ("tokenizer__ggml__tokens", [1, 2]),
        ("tokenizer__ggml__merges", ["the"]),
        ("tokenizer__ggml__merges", [3]),
        ("tokenizer__ggml__token_type", [1]),
        ("tokenizer__ggml__token_type", ["x"]),
        ("tokenizer__ggml__bos_token_id", 264),
        ("tokenizer__ggml__eos_token_id", "end"),
        ("tokenizer__chat_template", 5),
    ],
)
def test_gguf_metadata_of_nonsense_is_corrupt(tmp_path: Path, key: str, value: object) -> None:
    """Missing, of another type, or at odds with the tensors."""
    with pytest.raises(CorruptSource):
        open_source(write_gguf(tmp_path / "model.gguf", **{key: value}))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": ""}, "--name"),
        ({"name": ".hidden"}, "--name"),
        ({"name": "../outside"}, "--name"),
        ({"target": "tensorrt"}, "--target"),
        ({"precision": "int3"}, "--precision"),
        ({"kv_cache_tokens": 31}, "--kv-cache-tokens"),
        ({"step_tokens": 0}, "--step-tokens"),
        ({"max_sequences": 0}, "--max-sequences"),
        ({"threads": -1}, "--threads"),
        ({"context_length": 0}, "--context-length"),
        ({"context_length": 257}, "--context-length 257.*256"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(
    publish_from: Builder, repository: Path, tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    """The message names the argument, and nothing is published."""
    with pytest.raises(RecipeError, match=words):
        publish_from(write_directory(tmp_path / "source"), **fields)
    assert not repository.exists()


def test_every_refusal_has_an_exit_status_of_its_own() -> None:
    """Scripts tell a bad source from a bad command and from a bad repository."""
    assert BuildError.exit_code != SourceError.exit_code != RecipeError.exit_code
    assert CorruptSource.exit_code == UnsupportedModel.exit_code == SourceError.exit_code
