"""The work folder: stages that are found again by the hash of what went into them, and parts that are gone afterwards.

A folder in the making is locked for as long as its build lives, and the system lets go of a killed one's lock: so the
next build can tell what was left behind, also by builds in other containers, whose process ids say nothing here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from build_engine.manifest import digest_of


def stage(work_dir: Path, name: str, inputs: object, make: Callable[[Path], None]) -> Path:
    """The folder that ``make`` fills, found again when a build with the same ``inputs`` has finished it before, or
    meanwhile."""
    done = work_dir / f"{name}-{digest_of(inputs)[:16]}"
    if not done.exists():
        clear_parts(work_dir)
        with part(work_dir, name) as folder:
            make(folder)
            try:
                os.rename(folder, done)
            except OSError:
                if not done.is_dir():
                    raise
    return done


def part(work_dir: Path, name: str) -> contextlib.AbstractContextManager[Path]:
    """An empty folder in ``work_dir``. What is still there in the end is removed."""
    work_dir.mkdir(parents=True, exist_ok=True)
    return claimed(work_dir, f"{name}-", f".{os.getpid()}.part")


def clear_parts(work_dir: Path) -> None:
    """Remove what killed builds left behind."""
    clear(work_dir, "*.part")


@contextlib.contextmanager
def claimed(parent: Path, prefix: str, suffix: str = "") -> Iterator[Path]:
    """An empty folder in ``parent`` that :func:`clear` leaves alone. What is still there in the end is removed. Raises
    OSError."""
    folder, lock = _claim(parent, prefix, suffix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def clear(parent: Path, pattern: str) -> None:
    """Remove the folders that fit ``pattern`` and that nobody claims: none on a file system without locks."""
    for left in parent.glob(pattern):
        try:
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:  # gone meanwhile, or no folder
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
        except OSError:
            continue
        finally:
            os.close(lock)


def _claim(parent: Path, prefix: str, suffix: str) -> tuple[Path, int]:
    """A new folder and the descriptor that locks it. One that was cleared before it was locked is made again."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=parent))
        try:
            folder.chmod(0o755)  # a stage outlives its build, and mkdtemp thinks of secrets
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)
