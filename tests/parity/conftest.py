"""Parts of the comparison with transformers and peft. Skipped without the extra ``parity``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra 'parity' is not installed")
sys.path.insert(0, str(Path(__file__).parent))

from checkpoints import CONFIGURATIONS, save


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a configuration's checkpoint, written when first asked for."""
    root = tmp_path_factory.mktemp("checkpoints")

    def folder(name: str) -> Path:
        path = root / name
        if not path.exists():
            save(CONFIGURATIONS[name], path)
        return path

    return folder
