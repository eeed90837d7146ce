"""Says that the comparison was left out, where it was."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize("name", ["torch", "transformers", "peft"])
def test_the_extra_is_installed(name: str) -> None:
    """Without it no other file of this folder is collected; ``make test`` installs it."""
    pytest.importorskip(name, reason="pip install -e '.[parity]' to compare with transformers and peft")
    assert importlib.import_module(name)
