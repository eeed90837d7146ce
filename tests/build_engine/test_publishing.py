"""A version enters the repository whole or not at all, beside those that are there."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from build_engine import work
from build_engine.errors import BuildError, PublishError
from build_engine.inspect import find_versions, inspect
from build_engine.publish import STAGING_PREFIX, versions

from .checkpoints import Shape, write_directory
from .conftest import Builder

ROOT = Path(__file__).resolve().parents[2]


def parameters(model: Path) -> dict[str, str]:
    """What ``config.pbtxt`` says, read back through Triton's own message."""
    config = text_format.Parse((model / "config.pbtxt").read_text(), pb.ModelConfig())
    return {key: value.string_value for key, value in config.parameters.items()}


def sha256(file: Path) -> str:
    """By another road than the builder's."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def tree(folder: Path) -> dict[str, str]:
    """Every file and its hash."""
    return {str(file.relative_to(folder)): sha256(file) for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small model."""
    return write_directory(tmp_path / "source", Shape(layers=1))


def test_a_repository_holds_models_and_nothing_else(publish_from: Builder, source: Path, repository: Path) -> None:
    """In explicit mode Triton takes every folder of the root for a model; staging leaves none behind anywhere."""
    publish_from(source)
    assert [path.name for path in repository.iterdir()] == ["tiny"]
    assert sorted(path.name for path in (repository / "tiny").iterdir()) == ["1", "config.pbtxt"]
    assert sorted(path.name for path in (repository / "tiny/1").iterdir()) == [
        "chat_template.jinja", "config.pbtxt", "engine", "manifest.json", "model.py", "tidegate_backend", "tokenizer",
    ]  # fmt: skip
    assert list(repository.parent.iterdir()) == [repository]


def test_a_new_version_stands_beside_the_old_one(publish_from: Builder, source: Path, repository: Path) -> None:
    """The old one keeps every byte, and ``config.pbtxt`` is the new one's."""
    publish_from(source)
    before = tree(repository / "tiny/1")
    publish_from(source, precision="int8", kv_cache_tokens=64)
    assert [version.name for version in versions(repository / "tiny")] == ["1", "2"]
    assert tree(repository / "tiny/1") == before
    says = parameters(repository / "tiny")
    assert (says["precision"], says["kv_cache_tokens"], says["context_length"]) == ("int8", "64", "64")
    assert says["manifest_sha256"] == sha256(repository / "tiny/2/manifest.json")


def test_numbers_go_on_behind_the_largest(publish_from: Builder, source: Path, repository: Path) -> None:
    """By number and not by letter; folders that are no versions do not count."""
    publish_from(source)
    (repository / "tiny/1").rename(repository / "tiny/10")
    for name in ("007", "x", "²", "9.old"):
        (repository / "tiny" / name).mkdir()
    publish_from(source, force=True)
    assert [version.name for version in versions(repository / "tiny")] == ["10", "11"]


def test_two_models_live_in_one_repository(publish_from: Builder, source: Path, repository: Path) -> None:
    """Publishing one does not touch the other."""
    publish_from(source, name="a")
    before = tree(repository)
    publish_from(source, name="b")
    assert {name: digest for name, digest in tree(repository).items() if name.startswith("a/")} == before
    assert [version.parent.name for version in find_versions(repository)] == ["a", "b"]


def test_a_stale_config_is_repaired_by_the_next_build(publish_from: Builder, source: Path, repository: Path) -> None:
    """A build killed between renaming the version and replacing ``config.pbtxt`` leaves the old one's: `inspect` says
    so, and the same build again does not take the version for published."""
    publish_from(source)
    old = (repository / "tiny/config.pbtxt").read_bytes()
    publish_from(source, precision="int8")
    (repository / "tiny/config.pbtxt").write_bytes(old)
    assert "config.pbtxt belongs to another version" in inspect(repository / "tiny/2")["problems"][0]
    publish_from(source, precision="int8")
    assert parameters(repository / "tiny")["precision"] == "int8"
    assert inspect(find_versions(repository)[-1])["problems"] == []


HOLD = """
import sys, pathlib
from build_engine import publish, work
repository, work_dir = map(pathlib.Path, sys.argv[1:])
with publish.staging(repository) as staging, work.part(work_dir, "judged") as part:
    print(staging.name, part.name, flush=True)
    sys.stdin.read()
"""


def test_what_killed_builds_left_is_cleared_and_the_living_are_left_alone(
    publish_from: Builder, source: Path, repository: Path, tmp_path: Path
) -> None:
    """Whatever its process id says: in another container it is nobody's here, or ours."""
    repository.mkdir(parents=True)
    command = [sys.executable, "-c", HOLD, str(repository), str(tmp_path / "work")]
    for process in ("999999999", f"{os.getpid()}-abc", str(os.getppid())):
        for left in (repository.parent / f"{STAGING_PREFIX}{process}", tmp_path / f"work/judged-x.{process}.part"):
            left.mkdir(parents=True)
            (left / "half").write_text("")
    living = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert living.stdin is not None
    assert living.stdout is not None
    staging, part = living.stdout.readline().split()
    disguised = repository.parent / f"{STAGING_PREFIX}999999999"
    (repository.parent / staging).rename(disguised)
    publish_from(source)
    assert sorted(path.name for path in repository.parent.iterdir()) == [disguised.name, repository.name]
    assert [path.name for path in (tmp_path / "work").glob("*.part")] == [part]
    living.kill()
    living.communicate()
    publish_from(source, precision="int8")
    assert list(repository.parent.iterdir()) == [repository]
    assert not list((tmp_path / "work").glob("*.part"))


def test_two_builds_of_one_stage_end_in_one(tmp_path: Path) -> None:
    """The second to finish finds what the first has made."""

    def first(folder: Path) -> None:
        (folder / "made").write_text("first")

    def second(folder: Path) -> None:
        (folder / "made").write_text("second")
        work.stage(tmp_path, "name", "inputs", first)

    done = work.stage(tmp_path, "name", "inputs", second)
    assert (done / "made").read_text() == "first"
    assert list(tmp_path.iterdir()) == [done]


@pytest.mark.parametrize("place", ["/proc/repository", "source/config.json", "source/config.json/repository"])
def test_a_repository_that_cannot_be_made_is_refused(
    publish_from: Builder, source: Path, tmp_path: Path, place: str
) -> None:
    """Where nobody, root included, may make a folder, and where a file stands in the way."""
    with pytest.raises(PublishError, match="cannot write beside"):
        publish_from(source, repository=tmp_path / place)


@pytest.mark.parametrize("place", ["/proc/work", "source/config.json"])
def test_a_work_folder_that_cannot_be_made_is_refused(
    publish_from: Builder, source: Path, repository: Path, tmp_path: Path, place: str
) -> None:
    """The message names it, and nothing is published."""
    with pytest.raises(BuildError, match=place):
        publish_from(source, work_dir=tmp_path / place)
    assert not repository.exists()


def limited_build(source: Path, repository: Path, work_dir: Path, most_bytes: int) -> subprocess.CompletedProcess[str]:
    """A build in a process whose files may not grow beyond ``most_bytes``: the system's way of a full disk."""
    command = ["build_engine", "build", "--source", source, "--name", "tiny", "--precision", "fp32", "--quiet"]
    command += ["--repository", repository, "--work-dir", work_dir]
    limit = f"import resource; resource.setrlimit({resource.RLIMIT_FSIZE}, ({most_bytes}, {most_bytes}))"
    run = f"import runpy, sys; {limit}; sys.argv = sys.argv[1:]; runpy.run_module('build_engine', run_name='__main__')"
    arguments = [sys.executable, "-c", run, *map(str, command)]
    return subprocess.run(arguments, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("engine_is_there", [False, True], ids=["engine", "version"])
def test_a_full_disk_publishes_nothing(
    publish_from: Builder, source: Path, repository: Path, tmp_path: Path, engine_is_there: bool
) -> None:
    """While the engine is written, and while it is copied: one line that says so, an old version that stays, no
    leftovers, and a next build that succeeds."""
    publish_from(source, context_length=128)
    before = tree(repository)
    size = (repository / "tiny/1/engine/openvino.bin").stat().st_size
    work = tmp_path / ("work" if engine_is_there else "fresh")
    ended = limited_build(source, repository, work, size - 1)
    assert ended.returncode == (PublishError if engine_is_there else BuildError).exit_code
    assert (ended.stdout, ended.stderr.count("\n"), ended.stderr[:14]) == ("", 1, "error: cannot ")
    assert tree(repository) == before
    assert list(repository.parent.iterdir()) == [repository]
    assert not list(work.glob("*.part"))
    publish_from(source, work_dir=work)
    assert inspect(repository / "tiny/2")["problems"] == []


def test_the_manifest_on_disk_is_the_one_returned(publish_from: Builder, source: Path, repository: Path) -> None:
    """Nothing is added behind its back."""
    manifest = publish_from(source)
    assert json.loads((repository / "tiny/1/manifest.json").read_text()) == json.loads(json.dumps(manifest))
