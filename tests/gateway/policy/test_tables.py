"""The shipped tables are what the command would write."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.policy import tables
from gateway.policy.tables import __main__ as command


def test_the_tables_are_what_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody edits them by hand."""
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    assert command.main() == 0
    for name in ("traditional", "lookalikes"):
        assert (tmp_path / f"{name}.txt").read_text() == (tables.FOLDER / f"{name}.txt").read_text()
