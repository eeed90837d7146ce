"""What is asked for of a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from build_engine.errors import RecipeError
from build_engine.recipe import FROM_ONNX, check_name, check_tensorrt

PRECISIONS = ("int8", "int8-weight-only", "fp16", "fp32")
"""In the order in which they are tried."""


@dataclass(frozen=True)
class ClassifierRecipe:
    """One build. Texts longer than ``max_tokens`` are cut. ``queue_delay_microseconds`` is how long Triton waits for a
    batch of one of the ``preferred_batch_sizes``."""

    source: Path
    name: str
    repository: Path
    work_dir: Path
    target: str = "onnxruntime"
    precision: str = "int8-weight-only"
    max_tokens: int = 256
    max_batch_size: int = 32
    preferred_batch_sizes: tuple[int, ...] = (8, 16)
    queue_delay_microseconds: int = 0
    threads: int = 0
    calibration: Path | None = None
    held_out: Path | None = None
    strict: bool = False
    compute_capabilities: tuple[str, ...] = ()
    workspace_mib: int | None = None
    version_compatible: bool = False
    hardware_compatibility: str = "none"

    def check(self) -> None:
        """Raise :class:`RecipeError` naming the first argument that makes no sense."""
        check_name(self.name)
        if self.target not in FROM_ONNX:
            raise RecipeError(
                f"--task text-classification --target {self.target} cannot be built; what can: {', '.join(FROM_ONNX)}"
            )
        if self.precision not in PRECISIONS:
            raise RecipeError(f"--precision must be one of {', '.join(PRECISIONS)}")
        if self.precision == "int8" and (self.calibration is None or self.held_out is None):
            raise RecipeError("--precision int8 is fitted and judged: give --calibration FILE and --held-out FILE")
        if self.precision != "int8" and self.calibration:
            raise RecipeError(f"--calibration is what int8 is fitted to; {self.precision} is fitted to no text")
        if (self.calibration or self.strict) and self.held_out is None:
            raise RecipeError("--calibration and --strict need --held-out FILE to judge by")
        if self.max_tokens < 4 or self.max_batch_size < 1 or self.queue_delay_microseconds < 0 or self.threads < 0:
            raise RecipeError("--max-tokens must be at least 4, --max-batch-size at least 1, others not negative")
        if any(not 1 <= size <= self.max_batch_size for size in self.preferred_batch_sizes):
            raise RecipeError(f"--preferred-batch-size must be from 1 to --max-batch-size {self.max_batch_size}")
        check_tensorrt(self)
