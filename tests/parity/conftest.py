"""Parts of the comparison with transformers and peft, which the extra ``parity`` installs."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
INSTALLED = all(importlib.util.find_spec(name) for name in ("torch", "transformers", "peft"))
collect_ignore = [] if INSTALLED else ["test_sources.py", "test_adapters.py", "test_gguf.py", "test_classifier.py"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a configuration's checkpoint, written when first asked for."""
    from checkpoints import CONFIGURATIONS, save

    root = tmp_path_factory.mktemp("checkpoints")

    def folder(name: str) -> Path:
        path = root / name
        if not path.exists():
            save(CONFIGURATIONS[name], path)
        return path

    return folder
