"""``adapter_config.json`` of peft: which modules a LoRA adapter changes, by which rank and by how much.

Names and matching rules are peft's: a list matches the last parts of a module's name, a text is a regular expression
over the whole of it, patterns of rank and alpha match at a name's end. A setting that is not known to leave the merged
weights alone is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engine.errors import CorruptSource, UnsupportedModel
from build_engine.source_hf import read_json

ALL_LINEAR = "all-linear"
HANDLED = {
    "peft_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern",
    "target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "bias",
    "init_lora_weights",
}  # fmt: skip
# They steer training, or hold for layers that none of our architectures has: fan_in_fan_out is for Conv1D, and peft
# itself switches it off for every other layer.
WITHOUT_EFFECT = {
    "auto_mapping", "revision", "task_type", "inference_mode", "lora_dropout", "fan_in_fan_out", "loftq_config",
    "eva_config", "corda_config", "lora_ga_config", "megatron_config", "megatron_core", "qalora_group_size",
    "runtime_config", "peft_version",
}  # fmt: skip
REASONS = {
    "use_dora": "DoRA; it would need the norm of every merged row",
    "use_qalora": "QALoRA; it would need its grouped inputs",
    "lora_bias": "a bias on lora_B; the decoder description has no biases there",
    "trainable_token_indices": "single trained token rows; save the whole embedding in modules_to_save",
    "target_parameters": "bare parameters as targets; only modules can be targeted",
    "layer_replication": "repeated layers; save the grown base model first",
    "alora_invocation_tokens": "an adapter that is switched on by a token; it cannot be merged",
    "arrow_config": "routing between adapters; it cannot be merged",
    "ensure_weight_tying": "tied adapters on both ends of the embedding; it would need one change to serve both",
}
# The others take something out of the base weights when they begin, and the adapter only holds without it.
INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class AdapterConfig:
    """What the adapter does to a module. Module names are those of the base model."""

    base_model: str
    r: int
    alpha: float
    rslora: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    target_modules: str | tuple[str, ...]
    exclude_modules: str | tuple[str, ...]
    modules_to_save: tuple[str, ...]
    layers: tuple[int, ...]

    def targets(self, module: str) -> bool:
        """Whether a LoRA pair belongs to the module."""
        if _matches(self.exclude_modules, module) or self._excluded_by_saving(module):
            return False
        if isinstance(self.target_modules, str):
            if self.target_modules.lower() == ALL_LINEAR:
                return module not in ("model.embed_tokens", "lm_head")
            return _matches(self.target_modules, module)
        layer = re.match(r"model\.layers\.(\d+)\.", module)
        chosen = not self.layers or (layer is not None and int(layer[1]) in self.layers)
        return chosen and _matches(self.target_modules, module)

    def saves(self, module: str) -> bool:
        """Whether the adapter brings the module whole."""
        parents = [module.rsplit(".", drop)[0] for drop in range(module.count(".") + 1)]
        return any(parent.endswith(name) for parent in parents for name in self.modules_to_save)

    def rank(self, module: str) -> int:
        """``r`` of the module's pair."""
        return int(_by_pattern(self.ranks, module, self.r))

    def scale(self, module: str) -> float:
        """The factor of the module's ``B @ A``."""
        rank = self.rank(module)
        return float(_by_pattern(self.alphas, module, self.alpha)) / (math.sqrt(rank) if self.rslora else rank)

    def _excluded_by_saving(self, module: str) -> bool:
        return any(re.match(rf"(^|.*\.){name}($|\..*)", module) for name in self.modules_to_save)


def read_config(file: Path) -> AdapterConfig:
    """Raises :class:`UnsupportedModel` naming a setting that would change the result in a way unknown here,
    :class:`CorruptSource` naming one that makes no sense."""
    raw = read_json(file)
    _refuse_unsupported(raw, file)
    base = raw.get("base_model_name_or_path") or ""
    config = AdapterConfig(
        base_model=str(base),
        r=_number(file, "r", raw.get("r", 8)),
        alpha=_number(file, "lora_alpha", raw.get("lora_alpha", 8)),
        rslora=bool(raw.get("use_rslora")),
        ranks={name: _number(file, "rank_pattern", rank) for name, rank in _object(file, raw, "rank_pattern").items()},
        alphas={name: _number(file, "alpha_pattern", a) for name, a in _object(file, raw, "alpha_pattern").items()},
        target_modules=_names(file, raw, "target_modules"),
        exclude_modules=_names(file, raw, "exclude_modules"),
        modules_to_save=_list(file, raw, "modules_to_save"),
        layers=_layers(file, raw),
    )
    if not config.target_modules and not config.modules_to_save:
        raise CorruptSource(f"{file}: target_modules names nothing")
    if config.layers and isinstance(config.target_modules, str):
        raise CorruptSource(f"{file}: layers_to_transform needs target_modules as a list")
    return config


def _refuse_unsupported(raw: dict[str, Any], file: Path) -> None:
    if raw.get("peft_type") != "LORA":
        raise UnsupportedModel(f"{file}: peft_type {raw.get('peft_type')}; only LORA can be merged")
    if raw.get("bias", "none") != "none":
        raise UnsupportedModel(f"{file}: bias {raw['bias']} means trained biases; only bias none can be merged")
    start = raw.get("init_lora_weights", True)
    if start not in INITIALISATIONS:
        raise UnsupportedModel(
            f"{file}: init_lora_weights {start} changes the base weights; convert the adapter to a plain one with "
            "peft's path_initial_model_for_weight_conversion"
        )
    for field, value in raw.items():
        if value and field not in HANDLED | WITHOUT_EFFECT:
            reason = REASONS.get(field, "something that this builder does not know; it might change the weights")
            raise UnsupportedModel(f"{file}: {field} says {reason}")


def _matches(patterns: str | tuple[str, ...], module: str) -> bool:
    if isinstance(patterns, str):
        return bool(patterns) and re.fullmatch(patterns, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in patterns)


def _by_pattern(patterns: Mapping[str, float], module: str, otherwise: float) -> float:
    """The value of the first pattern that matches the end of the module's name."""
    found = (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module))
    return next(found, otherwise)


def _number(file: Path, field: str, value: object) -> Any:
    whole = field in ("r", "rank_pattern")
    if type(value) not in ((int,) if whole else (int, float)) or value <= 0:  # type: ignore[operator]
        raise CorruptSource(f"{file}: {field} must be a positive number, not {value!r}")
    return value


def _object(file: Path, raw: dict[str, Any], field: str) -> dict[str, Any]:
    value = raw.get(field) or {}
    if not isinstance(value, dict):
        raise CorruptSource(f"{file}: {field} must be an object")
    for pattern in value:
        _compiles(file, field, pattern)
    return value


def _names(file: Path, raw: dict[str, Any], field: str) -> str | tuple[str, ...]:
    value = raw.get(field)
    if not isinstance(value, str):
        return _list(file, raw, field)
    if value.lower() != ALL_LINEAR:
        _compiles(file, field, value)
    return value


def _list(file: Path, raw: dict[str, Any], field: str) -> tuple[str, ...]:
    value = raw.get(field) or []
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise CorruptSource(f"{file}: {field} must be a list of module names")
    return tuple(value)


def _compiles(file: Path, field: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise CorruptSource(f"{file}: {field} {pattern!r} is no regular expression: {error}") from None


def _layers(file: Path, raw: dict[str, Any]) -> tuple[int, ...]:
    value = raw.get("layers_to_transform")
    layers = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(layer) is int for layer in layers):
        raise CorruptSource(f"{file}: layers_to_transform must be layer numbers")
    if layers and raw.get("layers_pattern") not in (None, "", [], "layers", ["layers"]):
        raise UnsupportedModel(f"{file}: layers_pattern {raw['layers_pattern']}; the source's layers are 'layers'")
    return tuple(layers)
