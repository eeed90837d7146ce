"""What every line withstands: a kill at any stage, and a disk that is really full."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from build_engine.errors import BuildError, PublishError
from build_engine.inspect import inspect
from build_engine.publish import versions

from .lines import LINES, command
from .test_publishing import ROOT, tree

RANDOM = random.Random(3)
MOMENTS = [RANDOM.random() for _ in range(5)]
"""Shares of a whole build's time."""


@pytest.mark.parametrize("line", LINES[1:])
def test_killed_at_any_stage(tmp_path: Path, line: str) -> None:
    """Kill -9 while it fits, judges, emits or publishes: the older version stays as it was, a newer one is whole or not
    there, and the next build clears what was left. (OpenVINO's line has a file of its own.)"""
    repository, work = tmp_path / "models/repository", tmp_path / "work"
    asked = command(line, tmp_path, repository, tmp_path / "first-work")
    began = time.monotonic()
    subprocess.run(asked, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    whole = time.monotonic() - began
    before = tree(repository / "tiny/1")
    again = [*command(line, tmp_path, repository, work), "--force"]
    for share in MOMENTS:
        process = subprocess.Popen(again, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(share * whole)
        process.kill()
        process.wait()
        assert tree(repository / "tiny/1") == before
        assert [path.name for path in repository.iterdir()] == ["tiny"]
        for version in versions(repository / "tiny")[:-1]:
            assert [each for each in inspect(version)["problems"] if "config.pbtxt" not in each] == []
    subprocess.run(again, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    assert inspect(versions(repository / "tiny")[-1])["problems"] == []
    assert [path.name for path in repository.parent.iterdir()] == ["repository"]
    assert not list(work.glob("*.part"))


@pytest.mark.parametrize("keep", ["no", "yes"], ids=["engine", "version"])
@pytest.mark.parametrize("line", LINES)
def test_a_disk_that_is_full(tmp_path: Path, line: str, keep: str) -> None:
    """ENOSPC of a real file system, while the engine is written and while the version is laid out: one line that says
    where, the older version as it was, nothing left behind."""
    namespace = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run(
        [*namespace, "mount", "-t", "tmpfs", "none", "/mnt"], check=False, capture_output=True
    ).returncode:
        pytest.skip("no mount namespace can be made here")
    disk = tmp_path / "disk"
    disk.mkdir()
    asked = command(line, tmp_path, disk / "models/repository", disk / "work")
    arguments = [str(disk), str(1 << 16), keep, *asked]
    run = [*namespace, sys.executable, "-m", "tests.build_engine.full_disk", *arguments]
    found = json.loads(subprocess.run(run, check=True, cwd=ROOT, stdout=subprocess.PIPE).stdout)
    assert found["status"] in (BuildError.exit_code, PublishError.exit_code), found
    assert (found["stdout"], found["stderr"][:14], found["stderr"].count("\n")) == ("", "error: cannot ", 1), found
    assert str(disk) in found["stderr"]
    assert found["unchanged"]
    assert found["left"] == []
