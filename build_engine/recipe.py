"""What is asked for: one frozen value that reads top to bottom and hashes to a resume key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from build_engine.errors import RecipeError

MODEL_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
TARGETS = ("openvino",)
PRECISIONS = ("int8", "fp32")
BLOCK_SIZE = 32  # tokens in a block of the KV cache, which is handed out in whole ones


@dataclass(frozen=True)
class Recipe:
    """One build. Token counts are per sequence (``context_length``), over the whole cache (``kv_cache_tokens``) and
    per engine step (``step_tokens``). ``adapter`` is merged into the source; ``adapter_base`` is the source's name as
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
    adapter: Path | None = None
    adapter_base: str | None = None

    def check(self) -> None:
        """Raise :class:`RecipeError` naming the first argument that makes no sense."""
        if not self.name or not set(self.name) <= MODEL_NAME_CHARACTERS or self.name.startswith("."):
            raise RecipeError(f"--name {self.name!r}: letters, digits, '_', '-' and '.', not starting with '.'")
        if self.target not in TARGETS or self.precision not in PRECISIONS:
            raise RecipeError(f"--target {self.target} --precision {self.precision} cannot be built")
        least = {"kv_cache_tokens": BLOCK_SIZE, "step_tokens": 1, "max_sequences": 1}
        for field, limit in least.items():
            if getattr(self, field) < limit:
                raise RecipeError(f"--{field.replace('_', '-')} must be at least {limit}")
        if self.threads < 0 or (self.context_length is not None and self.context_length < 1):
            raise RecipeError("--threads must not be negative and --context-length at least 1")
        if self.adapter_base and self.adapter is None:
            raise RecipeError("--adapter-base names the base model of an --adapter, but there is none")

    def serving(self) -> dict[str, int]:
        """The numbers that the backend reads from ``config.pbtxt``."""
        return {
            "kv_cache_tokens": self.kv_cache_tokens,
            "step_tokens": self.step_tokens,
            "max_sequences": self.max_sequences,
            "threads": self.threads,
        }
