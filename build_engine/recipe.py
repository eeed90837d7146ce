"""What is asked for: one frozen value that reads top to bottom and hashes to a resume key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from build_engine.errors import RecipeError

MODEL_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
BLOCK_SIZE = 32  # tokens in a block of a paged KV cache, which is handed out in whole ones
FROM_ONNX = ("onnxruntime", "tensorrt", "tensorrt-rtx")
PRECISIONS_OF: dict[str, tuple[str, ...]] = {"openvino": ("int8", "int8-weight-only", "fp32")}
PRECISIONS_OF |= dict.fromkeys(FROM_ONNX, ("fp32", "fp16", "int8", "int8-weight-only"))
TARGETS = tuple(PRECISIONS_OF)
PRECISIONS = tuple(dict.fromkeys(precision for each in PRECISIONS_OF.values() for precision in each))
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
RTX_DEFAULT = ("8.0", "8.6", "8.9", "12.0")
HARDWARE_COMPATIBILITY = ("none", "ampere-plus", "same-compute-capability")
LEVELS = 100
SLOT_TOKENS = 2048  # of a slot, unless the recipe says otherwise: a slot's memory is taken whether it is used or not


class ForTensorRt(Protocol):
    """The part of a recipe that a TensorRT plan is built for; other targets leave it as it comes."""

    @property
    def target(self) -> str: ...
    @property
    def work_dir(self) -> Path: ...
    @property
    def compute_capabilities(self) -> tuple[str, ...]: ...
    @property
    def workspace_mib(self) -> int | None: ...
    @property
    def version_compatible(self) -> bool: ...
    @property
    def hardware_compatibility(self) -> str: ...


def check_name(name: str) -> None:
    """Raise :class:`RecipeError` when Triton or a file system could take the name for something else."""
    if not name or not set(name) <= MODEL_NAME_CHARACTERS or name.startswith("."):
        raise RecipeError(f"--name {name!r}: letters, digits, '_', '-' and '.', not starting with '.'")


def check_tensorrt(recipe: ForTensorRt) -> None:
    """Raise :class:`RecipeError` naming the first setting of TensorRT's that makes no sense for the target."""
    if recipe.workspace_mib is not None and recipe.workspace_mib < 1:
        raise RecipeError("--workspace-mib must be at least 1")
    if recipe.workspace_mib is not None and not recipe.target.startswith("tensorrt"):
        raise RecipeError(f"--workspace-mib is TensorRT's; --target {recipe.target} has none")
    if recipe.hardware_compatibility not in HARDWARE_COMPATIBILITY:
        raise RecipeError(f"--hardware-compatibility must be one of {', '.join(HARDWARE_COMPATIBILITY)}")
    if recipe.target != "tensorrt" and (recipe.version_compatible or recipe.hardware_compatibility != "none"):
        raise RecipeError(
            f"--version-compatible and --hardware-compatibility are --target tensorrt's; --target {recipe.target} "
            "builds for one release of its runtime"
        )
    if recipe.compute_capabilities and recipe.target != "tensorrt-rtx":
        raise RecipeError(
            f"--compute-capability is --target tensorrt-rtx's; --target {recipe.target} builds for this host"
        )
    for capability in recipe.compute_capabilities:
        if capability.startswith("9."):
            raise RecipeError(
                f"--compute-capability {capability}: TensorRT-RTX has no kernels for Hopper; build with "
                "--target tensorrt on a host with that GPU"
            )
        if capability not in RTX_CAPABILITIES:
            raise RecipeError(f"--compute-capability {capability} must be one of {', '.join(RTX_CAPABILITIES)}")


@dataclass(frozen=True)
class Room:
    """What a version has room for: tokens of one sequence, tokens of all together, sequences at once."""

    context_length: int
    kv_cache_tokens: int
    max_sequences: int


@dataclass(frozen=True)
class Recipe:
    """One build. Token counts are per sequence (``context_length``), over the whole cache (``kv_cache_tokens``) and
    per engine step (``step_tokens``). With ``priority_levels`` Triton's queue has so many, and those that ask for none
    wait in the middle one. ``adapter`` is merged into the source; ``adapter_base`` is the source's name as
    the adapter knows it."""

    source: Path
    name: str
    repository: Path
    work_dir: Path
    target: str = "openvino"
    precision: str = "int8"
    context_length: int | None = None
    kv_cache_tokens: int = 16384
    step_tokens: int = 128
    max_sequences: int = 64
    threads: int = 0
    priority_levels: int = 0
    adapter: Path | None = None
    adapter_base: str | None = None
    slots: int | None = None
    calibration: Path | None = None
    held_out: Path | None = None
    strict: bool = False
    compute_capabilities: tuple[str, ...] = ()
    workspace_mib: int | None = None
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    goldens: Path | None = None

    def check(self) -> None:
        """Raise :class:`RecipeError` naming the first argument that makes no sense."""
        check_name(self.name)
        if self.precision not in PRECISIONS_OF.get(self.target, ()):
            choices = ", ".join(f"{target} ({' or '.join(each)})" for target, each in PRECISIONS_OF.items())
            raise RecipeError(
                f"--target {self.target} --precision {self.precision} cannot be built; what can: {choices}"
            )
        paged = BLOCK_SIZE if self.target == "openvino" else 1
        least = {"kv_cache_tokens": paged, "step_tokens": 1, "max_sequences": 1, "context_length": 1}
        least |= {"slots": 1}
        for field, limit in least.items():
            if getattr(self, field) is not None and getattr(self, field) < limit:
                raise RecipeError(f"--{field.replace('_', '-')} must be at least {limit}")
        if self.threads < 0:
            raise RecipeError("--threads must not be negative")
        if not 0 <= self.priority_levels <= LEVELS:
            raise RecipeError(f"--priority-levels must be 0 (a plain queue) to {LEVELS}")
        if self.slots is not None and self.target == "openvino":
            raise RecipeError("--slots is for engines with a static cache; --target openvino takes --kv-cache-tokens")
        self._check_texts()
        check_tensorrt(self)
        if self.adapter_base and self.adapter is None:
            raise RecipeError("--adapter-base names the base model of an --adapter, but there is none")

    def _check_texts(self) -> None:
        """What has to be calibrated has to be judged too, on other text."""
        if self.target == "openvino":
            if self.calibration:
                raise RecipeError("--calibration is for targets made from ONNX; OpenVINO's int8 is fitted to no text")
        elif self.precision == "int8" and (self.calibration is None or self.held_out is None):
            raise RecipeError(
                f"--target {self.target} --precision int8 is calibrated and judged: give --calibration FILE and "
                "--held-out FILE, JSON lines with text or messages"
            )
        elif self.precision != "int8" and self.calibration:
            raise RecipeError(f"--calibration is what int8 is fitted to; {self.precision} is fitted to no text")
        if (self.calibration or self.strict) and self.held_out is None:
            raise RecipeError("--calibration and --strict need --held-out FILE to judge by")

    def room(self, context_length: int) -> Room:
        """The room of a version whose model knows ``context_length`` tokens. A static cache is made of whole slots: as
        many as asked for, or as ``kv_cache_tokens`` pay for.
        """
        if self.target == "openvino":
            context = min(self.context_length or context_length, self.kv_cache_tokens)
            return Room(context, self.kv_cache_tokens, self.max_sequences)
        context = min(self.context_length or SLOT_TOKENS, context_length)
        slots = self.slots or max(1, min(self.max_sequences, self.kv_cache_tokens // context))
        return Room(context, slots * context, slots)

    def serving(self, room: Room) -> dict[str, int]:
        """The numbers that the backend reads from ``config.pbtxt``."""
        return {
            "kv_cache_tokens": room.kv_cache_tokens,
            "step_tokens": self.step_tokens,
            "max_sequences": room.max_sequences,
            "threads": self.threads,
        }
