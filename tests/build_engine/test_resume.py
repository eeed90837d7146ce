"""What is published is found again by its inputs; what changed is built."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from build_engine import targets
from build_engine.backend.engine_openvino import open_engine
from build_engine.errors import BuildError, CorruptSource
from build_engine.inspect import inspect
from build_engine.publish import versions

from .checkpoints import Shape, tokenizer, weights, write_directory, write_safetensors
from .conftest import Builder
from .test_publishing import ROOT, sha256, tree


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small model."""
    return write_directory(tmp_path / "source", Shape(layers=1))


def names(repository: Path) -> list[str]:
    """The published versions."""
    return [version.name for version in versions(repository / "tiny")]


def test_the_same_again_publishes_nothing(publish_from: Builder, source: Path, repository: Path) -> None:
    """Not a byte of the repository changes, and the manifest is the published one's."""
    first = publish_from(source)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in repository.rglob("*")}
    again = publish_from(source)
    assert again == json.loads(json.dumps(first))
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in repository.rglob("*")} == before


def test_the_same_again_reads_no_weights(publish_from: Builder, source: Path, repository: Path) -> None:
    """Weights that were replaced without touching size and time are not noticed: nobody looked."""
    publish_from(source)
    file = source / "model.safetensors"
    times, size = file.stat(), file.stat().st_size
    file.write_bytes(b"\0" * size)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    publish_from(source)
    assert names(repository) == ["1"]


def test_what_runs_an_engine_before_it_is_published_is_part_of_its_stage() -> None:
    """A backend that has changed may say something else of the same graph."""
    code = targets._code(*targets.PROVING)
    for file in ("first_run.py", "backend/slots.py", "backend/engine_openvino.py"):
        assert sha256(ROOT / "build_engine" / file) in code


def test_a_touched_source_is_still_the_same(publish_from: Builder, source: Path, repository: Path) -> None:
    """What counts is content."""
    publish_from(source)
    for file in source.iterdir():
        os.utime(file, (1, 1))
    publish_from(source)
    assert names(repository) == ["1"]


@pytest.mark.parametrize(
    "fields",
    [
        {"precision": "int8"},
        {"kv_cache_tokens": 64},
        {"context_length": 100},
        {"step_tokens": 32},
        {"max_sequences": 3},
        {"threads": 1},
    ],
)
def test_another_recipe_is_another_version(
    publish_from: Builder, source: Path, repository: Path, fields: dict[str, Any]
) -> None:
    """Every number that the backend would read differently."""
    publish_from(source)
    publish_from(source, **fields)
    publish_from(source, **fields)
    assert names(repository) == ["1", "2"]


def test_another_source_is_another_version(publish_from: Builder, source: Path, repository: Path) -> None:
    """Weights, tokenizer and template each."""
    publish_from(source)
    write_safetensors(source / "model.safetensors", weights(Shape(layers=1), seed=1))
    publish_from(source)
    larger = tokenizer()
    larger.add_tokens(["one more"])
    larger.save(str(source / "tokenizer.json"))
    publish_from(source)
    (source / "chat_template.jinja").write_text("{{ messages }}")
    publish_from(source)
    assert names(repository) == ["1", "2", "3", "4"]
    assert (repository / "tiny/4/chat_template.jinja").read_text() == "{{ messages }}"
    engines = [tree(repository / f"tiny/{number}/engine")["openvino.bin"] for number in (1, 2, 3, 4)]
    assert engines[0] != engines[1] == engines[2] == engines[3]


def test_force_publishes_the_same_again(publish_from: Builder, source: Path, repository: Path) -> None:
    """A second version of the same bytes; only its manifest tells them apart."""
    publish_from(source)
    publish_from(source, force=True)
    first, second = (tree(repository / f"tiny/{number}") for number in (1, 2))
    assert {name for name in first if first[name] != second.get(name)} <= {"manifest.json"}
    assert names(repository) == ["1", "2"]


@pytest.mark.parametrize("content", ["", "{", "[]", "[1, 2]", "5", "\udcff"])
def test_a_damaged_memory_of_hashes_is_forgotten(
    publish_from: Builder, source: Path, repository: Path, tmp_path: Path, content: str
) -> None:
    """It only saves time."""
    publish_from(source)
    (tmp_path / "work/source-hashes.json").write_bytes(content.encode(errors="surrogateescape"))
    publish_from(source)
    assert names(repository) == ["1"]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\udcff", '{"files": 5, "input_hash": 5}'])
def test_a_damaged_manifest_is_said_and_not_built_over(
    publish_from: Builder, source: Path, repository: Path, content: str
) -> None:
    """Nobody knows then what is published. `--force` is the way on."""
    publish_from(source)
    (repository / "tiny/1/manifest.json").write_bytes(content.encode(errors="surrogateescape"))
    for look in (lambda: publish_from(source), lambda: inspect(repository / "tiny/1")):
        with pytest.raises(CorruptSource, match=r"manifest\.json"):
            look()
    publish_from(source, force=True)
    assert inspect(repository / "tiny/2")["problems"] == []


def test_a_flipped_bit_in_a_manifest_is_never_a_crash(publish_from: Builder, source: Path, repository: Path) -> None:
    """It is refused, or shown as a problem: ``config.pbtxt`` holds the manifest's hash."""
    publish_from(source)
    file = repository / "tiny/1/manifest.json"
    content = file.read_bytes()
    rng = random.Random(5)
    for _ in range(100):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        try:
            assert inspect(repository / "tiny/1")["problems"]
        except BuildError:
            continue


def test_every_changed_byte_is_found(publish_from: Builder, source: Path, repository: Path) -> None:
    """One in each file of a version; a file too many and one too few as well."""
    publish_from(source)
    version = repository / "tiny/1"
    assert inspect(version)["problems"] == []
    for file in sorted(path for path in version.rglob("*") if path.is_file() and path.name != "manifest.json"):
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert inspect(version)["problems"] == [f"{file.relative_to(version)} has another content"]
        file.write_bytes(content)
    (version / "engine/extra").write_text("")
    (version / "model.py").unlink()
    assert inspect(version)["problems"] == ["model.py is missing", "engine/extra is not in the manifest"]


def test_python_s_own_cache_is_no_difference(publish_from: Builder, source: Path, repository: Path) -> None:
    """Triton's Python writes ``__pycache__`` beside the backend's code when it may."""
    publish_from(source)
    cache = repository / "tiny/1/tidegate_backend/__pycache__"
    cache.mkdir()
    (cache / "engine.cpython-311.pyc").write_bytes(b"")
    assert inspect(repository / "tiny/1")["problems"] == []


def test_a_version_that_is_found_again_still_opens(publish_from: Builder, source: Path, repository: Path) -> None:
    """A later version is assembled from the same engine; both load."""
    publish_from(source)
    publish_from(source, context_length=50)
    lengths = [
        open_engine(version, threads=1, cache_tokens=64, step_tokens=8, max_sequences=1).context_length
        for version in versions(repository / "tiny")
    ]
    assert lengths == [256, 50]
