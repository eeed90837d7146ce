"""A version enters the repository whole or not at all.

It is staged beside the repository, never in its root (Triton takes every folder there for a model), made durable with
fsync, and renamed in. The first version brings the whole model folder; a later one is renamed into it, and only then is
``config.pbtxt`` replaced. Staging folders that a killed build left behind are removed by the next one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from build_engine.errors import PublishError
from build_engine.manifest import MANIFEST, read_manifest, sha256_of

STAGING_PREFIX = ".tidegate-staging-"


def versions(model: Path) -> list[Path]:
    """The published versions of a model folder, oldest first."""
    if not model.is_dir():
        return []
    found = [
        path
        for path in model.iterdir()
        if path.is_dir() and path.name.isascii() and path.name.isdigit() and not path.name.startswith("0")
    ]
    return sorted(found, key=lambda path: int(path.name))


def sweep(repository: Path) -> None:
    """Remove the staging folders that killed builds left beside ``repository``."""
    parent = repository.resolve().parent
    for left in parent.glob(f"{STAGING_PREFIX}*"):
        # In a container every build may have the same process id: a folder of ours is a dead one's.
        owner = left.name.removeprefix(STAGING_PREFIX)
        if owner == str(os.getpid()) or not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """An empty folder beside ``repository`` on the same file system, removed in the end. Raises
    :class:`PublishError`."""
    parent = repository.resolve().parent
    folder = parent / f"{STAGING_PREFIX}{os.getpid()}"
    try:
        repository.mkdir(parents=True, exist_ok=True)
        sweep(repository)
        folder.mkdir()
        if folder.stat().st_dev != repository.stat().st_dev:
            raise PublishError(f"{repository} is a mount of its own: give a folder inside it as the repository")
        yield folder
    except OSError as error:
        raise PublishError(f"cannot write beside {repository}: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(staged_version: Path, config_pbtxt: str, model: Path) -> Path:
    """Move ``staged_version`` (a folder inside :func:`staging`) to the next version of ``model``; returns its path."""
    numbers = [int(path.name) for path in versions(model)]
    number = max(numbers, default=0) + 1
    _sync_tree(staged_version)
    stage = staged_version.parent
    config = stage / "config.pbtxt"
    _write(config, config_pbtxt)
    if not model.exists():
        whole = stage / "model"
        whole.mkdir()
        os.rename(staged_version, whole / str(number))
        os.rename(config, whole / "config.pbtxt")
        _sync(whole)
        os.rename(whole, model)
        _sync(model.parent)
    else:
        os.rename(staged_version, model / str(number))
        os.replace(config, model / "config.pbtxt")
        _sync(model)
    return model / str(number)


def found(model: Path, input_hash: str) -> dict[str, Any] | None:
    """The manifest of the newest version of ``model`` when it was made of just these inputs and is served. Raises
    :class:`build_engine.errors.CorruptSource` when it has none that can be read."""
    latest = next(reversed(versions(model)), None)
    if latest is None:
        return None
    manifest = read_manifest(latest)
    same = manifest["input_hash"] == input_hash
    return manifest if same and is_served(latest, sha256_of(latest / MANIFEST)) else None


def is_served(version: Path, manifest_sha256: str) -> bool:
    """Whether the model's ``config.pbtxt`` is the one that came with ``version``. It is not when a build was killed
    between the two."""
    try:
        return manifest_sha256 in (version.parent / "config.pbtxt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)
