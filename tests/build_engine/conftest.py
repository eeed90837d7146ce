"""Parts that several files of this folder use."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import pytest

from build_engine.pipeline import build
from build_engine.recipe import Recipe


class Builder(Protocol):
    """Builds ``source`` into ``tmp_path/repository`` and returns the manifest."""

    def __call__(self, source: Path, *, force: bool = False, **fields: Any) -> dict[str, Any]: ...


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Where :func:`publish_from` publishes."""
    return tmp_path / "models" / "repository"


@pytest.fixture
def publish_from(tmp_path: Path, repository: Path) -> Builder:
    """A build of the model ``tiny``, in full precision unless told otherwise."""

    def run(source: Path, *, force: bool = False, **fields: Any) -> dict[str, Any]:
        asked = {"name": "tiny", "repository": repository, "work_dir": tmp_path / "work", "precision": "fp32"}
        return build(Recipe(source=source, **{**asked, **fields}), force=force, quiet=True)

    return run
