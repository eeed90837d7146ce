"""A version enters the repository whole or not at all.

It is staged beside the repository, never in its root (Triton takes every folder there for a model), made durable with
fsync, and renamed in. The first version brings the whole model folder; a later one is renamed into it, and only then is
``config.pbtxt`` replaced, unless it is pinned (:mod:`build_engine.serving`): then what is served is for a rollout to
change. Staging folders that a killed build left behind are removed by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from build_engine import serving, work
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
    work.clear(repository.resolve().parent, f"{STAGING_PREFIX}*")


@contextlib.contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """An empty folder beside ``repository`` on the same file system, removed in the end. Raises
    :class:`PublishError`."""
    try:
        repository.mkdir(parents=True, exist_ok=True)
        sweep(repository)
        with work.claimed(repository.resolve().parent, f"{STAGING_PREFIX}{os.getpid()}-") as folder:
            if folder.stat().st_dev != repository.stat().st_dev:
                raise PublishError(f"{repository} is a mount of its own: give a folder inside it as the repository")
            yield folder
    except OSError as error:
        raise PublishError(f"cannot write beside {repository}: {error}") from error


@contextlib.contextmanager
def locked(model: Path, *, wait: bool) -> Iterator[None]:
    """Nobody else publishes into ``model`` or rolls it out meanwhile; the system lets go of a killed process's lock.
    Raises :class:`PublishError` when somebody does and ``wait`` is false."""
    descriptor = os.open(model, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PublishError(f"{model} is being published into or rolled out by another process") from None
        yield
    finally:
        os.close(descriptor)


def publish(staged_version: Path, model: Path, *, pinned: bool = False) -> Path:
    """Move ``staged_version`` (a folder inside :func:`staging`) to the next version of ``model``; returns its path.
    With ``pinned`` what the model serves stays what it is; a model's first version is served in any case. Raises
    :class:`PublishError`."""
    _sync_tree(staged_version)
    stage = staged_version.parent
    if not model.exists():
        whole = stage / "model"
        whole.mkdir()
        os.rename(staged_version, whole / "1")
        config = serving.config_for(whole / "1", model.name, pinned=pinned)
        _write(whole / serving.CONFIG, serving.as_text(config))
        _sync(whole)
        os.rename(whole, model)
        _sync(model.parent)
        return model / "1"
    with locked(model, wait=True):
        known = versions(model)
        number = 1 + max((int(path.name) for path in known), default=0)
        stays_pinned = pinned or serving.served(model).pinned
        if stays_pinned and known:
            _pin(model, known)
        else:
            config = serving.config_for(staged_version, model.name, pinned=stays_pinned, number=number)
            _write(stage / serving.CONFIG, serving.as_text(config))
        os.rename(staged_version, model / str(number))
        if (stage / serving.CONFIG).exists():
            os.replace(stage / serving.CONFIG, model / serving.CONFIG)
        _sync(model)
    return model / str(number)


def _pin(model: Path, known: list[Path]) -> None:
    """Pin what follows the latest version to the version that it serves now, before a newer one appears."""
    now = serving.served(model)
    if not now.pinned:
        serves = next((version for version in known if now.version == int(version.name)), known[-1])
        replace_config(model, serving.as_text(serving.config_for(serves, model.name, pinned=True)))


def replace_config(model: Path, text: str) -> None:
    """Replace ``config.pbtxt`` of ``model`` at once and durably."""
    file = model / f"{serving.CONFIG}.next"
    _write(file, text)
    os.replace(file, model / serving.CONFIG)
    _sync(model)


def prune(model: Path, keep: set[int]) -> list[int]:
    """Remove the versions that are not in ``keep``, each at once; returns their numbers. Raises
    :class:`PublishError`."""
    gone = [version for version in versions(model) if int(version.name) not in keep]
    with staging(model.parent) as folder:
        for version in gone:
            os.rename(version, folder / version.name)
        _sync(model)
    return [int(version.name) for version in gone]


def found(model: Path, input_hash: str) -> dict[str, Any] | None:
    """The manifest of the newest version of ``model`` when it was made of just these inputs and nothing is
    left to do for it. Raises
    :class:`build_engine.errors.CorruptSource` when it has none that can be read."""
    latest = next(reversed(versions(model)), None)
    if latest is None:
        return None
    manifest = read_manifest(latest)
    same = manifest["input_hash"] == input_hash
    return manifest if same and is_settled(latest, sha256_of(latest / MANIFEST)) else None


def is_settled(version: Path, manifest_sha256: str) -> bool:
    """Whether nothing is left to do for ``version``: the model's ``config.pbtxt`` is the one that came with it, or is
    pinned. It is neither when a build was killed between the two."""
    try:
        now = serving.served(version.parent)
    except PublishError:
        return False
    return now.pinned or now.manifest_sha256 == manifest_sha256


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
