"""What a repository serves changes when it is told to, and not because something was published."""

from __future__ import annotations

from pathlib import Path

import pytest

from build_engine.errors import CorruptSource, PublishError, SourceError
from build_engine.inspect import inspect
from build_engine.publish import locked, prune, replace_config
from build_engine.rollout import publish_from as publish_into
from build_engine.serving import Served, as_text, config_for, served

from .checkpoints import Shape, write_directory
from .conftest import Builder
from .test_publishing import parameters, sha256, tree


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small model."""
    return write_directory(tmp_path / "source", Shape(layers=1))


def test_a_build_follows_until_something_is_pinned(publish_from: Builder, source: Path, repository: Path) -> None:
    """On a development machine the newest build is served; behind a rollout a build only adds its version, and is found
    again."""
    model = repository / "tiny"
    publish_from(source)
    assert parameters(model)["accuracy_gate"] == "not_needed"
    publish_from(source, precision="int8")
    assert parameters(model)["accuracy_gate"] == "missing"
    assert served(model) == Served(version=2, manifest_sha256=sha256(model / "2/manifest.json"))
    replace_config(model, as_text(config_for(model / "1", "tiny", pinned=True, replaces=2)))
    before = (model / "config.pbtxt").read_bytes()
    manifest = publish_from(source, kv_cache_tokens=64)
    assert (model / "3").is_dir()
    assert (model / "config.pbtxt").read_bytes() == before
    assert (served(model).pinned, served(model).version, served(model).replaces) == (True, 1, 2)
    assert parameters(model)["precision"] == "fp32"
    assert publish_from(source, kv_cache_tokens=64) == manifest
    assert inspect(model / "3")["problems"] == []


def test_publishing_from_elsewhere_serves_nothing(
    publish_from: Builder, source: Path, repository: Path, tmp_path: Path
) -> None:
    """The copy is byte for byte the version, a model's first one is what a start serves, a later one is not, and what
    is there already is found. The name may be another."""
    live = tmp_path / "live" / "repository"
    publish_from(source)
    first = publish_into(repository / "tiny", live, "chat")
    publish_from(source, precision="int8")
    second = publish_into(repository / "tiny", live, "chat")
    again = publish_into(repository / "tiny/1", live, "chat")
    assert [(each["version"], each["changed"], each["served_on_start"]) for each in (first, second, again)] == [
        (1, True, 1),
        (2, True, 1),
        (1, False, 1),
    ]
    assert tree(live / "chat/2") == tree(repository / "tiny/2")
    assert 'name: "chat"' in (live / "chat/config.pbtxt").read_text()
    assert sorted(path.name for path in live.iterdir()) == ["chat"]


def test_what_is_not_its_manifest_is_not_published(
    publish_from: Builder, source: Path, repository: Path, tmp_path: Path
) -> None:
    """A flipped file, and a folder that is no version."""
    live = tmp_path / "live" / "repository"
    publish_from(source)
    with (repository / "tiny/1/engine/openvino.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CorruptSource, match=r"openvino\.bin has another content"):
        publish_into(repository / "tiny/1", live, None)
    assert not (live / "tiny").exists()
    with pytest.raises(SourceError, match="no version and no model"):
        publish_into(tmp_path, live, None)


def test_publishing_into_a_following_model_pins_it(
    publish_from: Builder, source: Path, repository: Path, tmp_path: Path
) -> None:
    """To what it serves then: a Triton that starts again must not serve what was only copied."""
    publish_from(source)
    publish_from(source, precision="int8", repository=tmp_path / "built" / "repository")
    publish_into(tmp_path / "built/repository/tiny", repository, None)
    assert (served(repository / "tiny").pinned, served(repository / "tiny").version) == (True, 1)


def test_a_version_without_its_configuration_says_what_to_do(
    publish_from: Builder, source: Path, repository: Path
) -> None:
    """Built before versions carried one."""
    publish_from(source)
    (repository / "tiny/1/config.pbtxt").unlink()
    with pytest.raises(PublishError, match="build it again"):
        config_for(repository / "tiny/1", "tiny", pinned=True)


def test_old_versions_go_whole(publish_from: Builder, source: Path, repository: Path) -> None:
    """Those that are kept keep every byte, and nothing is left beside the repository."""
    for precision in ("fp32", "int8", "fp32"):
        publish_from(source, precision=precision, force=True)
    before = tree(repository / "tiny/3")
    assert prune(repository / "tiny", {3}) == [1, 2]
    assert sorted(path.name for path in (repository / "tiny").iterdir()) == ["3", "config.pbtxt"]
    assert tree(repository / "tiny/3") == before
    assert list(repository.parent.iterdir()) == [repository]


def test_one_rollout_at_a_time(publish_from: Builder, source: Path, repository: Path) -> None:
    """The second is refused; when the first has ended, or died, the next may."""
    publish_from(source)
    with (
        locked(repository / "tiny", wait=False),
        pytest.raises(PublishError, match="by another process"),
        locked(repository / "tiny", wait=False),
    ):
        pass
    with locked(repository / "tiny", wait=False):
        pass
