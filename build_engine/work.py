"""The work folder: stages that are found again by the hash of what went into them, and parts that are gone afterwards.

A part is named after the process that writes it, so that the next build can tell what a killed one left behind.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from build_engine.manifest import digest_of


def stage(work_dir: Path, name: str, inputs: object, make: Callable[[Path], None]) -> Path:
    """The folder that ``make`` fills, found again when a build with the same ``inputs`` has finished it before."""
    done = work_dir / f"{name}-{digest_of(inputs)[:16]}"
    if not done.exists():
        clear_parts(work_dir)
        with part(work_dir, name) as folder:
            make(folder)
            os.rename(folder, done)
    return done


@contextmanager
def part(work_dir: Path, name: str) -> Iterator[Path]:
    """An empty folder in ``work_dir``. What is still there in the end is removed."""
    work_dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", suffix=f".{os.getpid()}.part", dir=work_dir))
    folder.chmod(0o755)  # a stage outlives its build, and mkdtemp thinks of secrets
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_parts(work_dir: Path) -> None:
    """Remove what killed builds left behind."""
    for left in work_dir.glob("*.part"):
        process = left.name.split(".")[-2]
        if process == str(os.getpid()) or not Path(f"/proc/{process}").exists():
            shutil.rmtree(left, ignore_errors=True)
