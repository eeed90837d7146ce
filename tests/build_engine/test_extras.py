"""What ``make test`` has installed can be imported."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("module", ["onnx", "onnxruntime", "tensorrt_rtx_bindings"])
def test_what_make_test_installs_can_be_imported(module: str) -> None:
    """A wheel that has vanished or no longer loads fails here, by name."""
    if not (Path(sys.prefix) / ".test-installed").exists():
        pytest.skip("this environment was not made by make test")
    importlib.import_module(module)
