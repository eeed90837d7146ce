"""A build that is killed at any moment leaves nothing, or a whole version."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from build_engine import manifest as manifests
from build_engine.inspect import inspect
from build_engine.publish import STAGING_PREFIX, versions

from .checkpoints import Shape, write_directory
from .conftest import Builder
from .test_publishing import ROOT, parameters, sha256, tree

RANDOM = random.Random(20260)
ANYWHERE = [RANDOM.random() for _ in range(6)]
"""Shares of a whole build's time."""
WHILE_STAGING = [RANDOM.random() for _ in range(6)]
"""Shares of the time between the staging folder's appearance and the end."""
ON_APPEARANCE = [0.0, *(RANDOM.uniform(0, 0.003) for _ in range(2))]
"""Seconds behind the moment when the new version can be seen: whatever is seen must be whole at once."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that writing takes a while."""
    return write_directory(tmp_path_factory.mktemp("killed") / "source", Shape(hidden=256, inner=512, layers=6))


def start(source: Path, repository: Path, work_dir: Path) -> subprocess.Popen[bytes]:
    """A real build of the model in int8."""
    command = [sys.executable, "-m", "build_engine", "build", "--name", "tiny", "--precision", "int8", "--quiet"]
    command += ["--source", str(source), "--repository", str(repository), "--work-dir", str(work_dir)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(folder: Path, pattern: str, process: subprocess.Popen[bytes]) -> None:
    """Return at the moment when ``folder`` has what fits ``pattern``, or when the process has ended."""
    while not any(folder.glob(pattern)) and process.poll() is None:
        pass


@pytest.fixture(scope="module")
def timed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[float, float]:
    """How many seconds a whole build takes here, and how many of them come behind the staging folder's appearance."""
    folder = tmp_path_factory.mktemp("timed")
    began = time.monotonic()
    process = start(source, folder / "models/repository", folder / "work")
    wait_for(folder / "models", f"{STAGING_PREFIX}{process.pid}-*", process)
    staged = time.monotonic()
    assert process.wait(60) == 0
    return time.monotonic() - began, time.monotonic() - staged


@pytest.fixture
def running(source: Path, repository: Path, tmp_path: Path, publish_from: Builder) -> Iterator[subprocess.Popen[bytes]]:
    """A build of version 2 that has just begun, beside a whole version 1."""
    publish_from(source)
    process = start(source, repository, tmp_path / "killed-work")
    yield process
    process.kill()
    process.wait()


def check_what_is_left(repository: Path, before: dict[str, str], next_build: Builder, source: Path, work: Path) -> None:
    """Version 1 as it was; a second one whole or absent; the next build publishes or finds it, and clears the rest."""
    model = repository / "tiny"
    assert {name: digest for name, digest in tree(model).items() if name.startswith("1/")} == before
    assert [path.name for path in repository.iterdir()] == ["tiny"]
    for version in versions(model):
        assert manifests.differences(version, manifests.read_manifest(version)) == []
    newest = sha256(versions(model)[-1] / "manifest.json")
    # Killed between the last two renames, the old config.pbtxt is still there: whole, and of a whole version.
    assert parameters(model)["manifest_sha256"] in (sha256(model / "1/manifest.json"), newest)
    next_build(source, precision="int8", work_dir=work)
    assert inspect(versions(model)[-1])["problems"] == []
    assert parameters(model)["precision"] == "int8"
    assert [path for path in repository.parent.iterdir() if path != repository] == []
    assert not list(work.glob("*.part"))


@pytest.mark.parametrize("share", ANYWHERE)
def test_killed_anywhere(
    running: subprocess.Popen[bytes],
    source: Path,
    repository: Path,
    tmp_path: Path,
    publish_from: Builder,
    timed: tuple[float, float],
    share: float,
) -> None:
    """At a random moment of the whole build."""
    before = {name: digest for name, digest in tree(repository / "tiny").items() if name.startswith("1/")}
    time.sleep(share * timed[0])
    running.kill()
    running.wait()
    check_what_is_left(repository, before, publish_from, source, tmp_path / "killed-work")


@pytest.mark.parametrize("share", WHILE_STAGING)
def test_killed_while_publishing(
    running: subprocess.Popen[bytes],
    source: Path,
    repository: Path,
    tmp_path: Path,
    publish_from: Builder,
    timed: tuple[float, float],
    share: float,
) -> None:
    """At a random moment while the version is laid out, made durable and renamed in."""
    before = {name: digest for name, digest in tree(repository / "tiny").items() if name.startswith("1/")}
    wait_for(repository.parent, f"{STAGING_PREFIX}{running.pid}-*", running)
    time.sleep(share * timed[1])
    running.kill()
    running.wait()
    check_what_is_left(repository, before, publish_from, source, tmp_path / "killed-work")


@pytest.mark.parametrize("delay", ON_APPEARANCE)
def test_killed_when_the_version_appears(
    running: subprocess.Popen[bytes],
    source: Path,
    repository: Path,
    tmp_path: Path,
    publish_from: Builder,
    delay: float,
) -> None:
    """A version that can be seen is whole, however soon its builder dies."""
    before = {name: digest for name, digest in tree(repository / "tiny").items() if name.startswith("1/")}
    wait_for(repository / "tiny", "2", running)
    time.sleep(delay)
    running.kill()
    running.wait()
    check_what_is_left(repository, before, publish_from, source, tmp_path / "killed-work")


@pytest.mark.parametrize("delay", ON_APPEARANCE)
def test_a_first_build_killed_when_the_model_appears(
    source: Path, repository: Path, tmp_path: Path, delay: float
) -> None:
    """The model's folder comes with its version and its ``config.pbtxt``, or not at all."""
    process = start(source, repository, tmp_path / "work")
    wait_for(repository, "tiny", process)
    time.sleep(delay)
    process.kill()
    process.wait()
    assert inspect(repository / "tiny/1")["problems"] == []
    assert parameters(repository / "tiny")["manifest_sha256"] == sha256(repository / "tiny/1/manifest.json")


@pytest.mark.parametrize("share", ANYWHERE[:2])
def test_the_first_build_killed_leaves_no_model(
    source: Path,
    repository: Path,
    tmp_path: Path,
    publish_from: Builder,
    timed: tuple[float, float],
    share: float,
) -> None:
    """Without an older version there is a whole model folder or none."""
    process = start(source, repository, tmp_path / "work")
    time.sleep(share * timed[0])
    process.kill()
    process.wait()
    for version in versions(repository / "tiny"):
        assert inspect(version)["problems"] == []
    publish_from(source, precision="int8")
    assert [version.name for version in versions(repository / "tiny")] == ["1"]
    assert inspect(repository / "tiny/1")["problems"] == []
