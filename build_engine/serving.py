"""Which version a model's ``config.pbtxt`` serves: what Triton takes up when it starts.

A version carries its own configuration (``<version>/config.pbtxt``). The model's is made of it: a version policy and
three parameters are added, ``version``, ``manifest_sha256`` and, behind a rollout, ``replaces``. It is in one of two
states:

* following: the policy is ``latest``, and each build brings its own configuration along (a development machine);
* pinned: the policy names one version, and only a rollout changes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from build_engine.errors import PublishError
from build_engine.manifest import MANIFEST, sha256_of

CONFIG = "config.pbtxt"


@dataclass(frozen=True)
class Served:
    """What a model's ``config.pbtxt`` says. ``version`` is None when nothing in it names one; ``replaces`` is the
    version that served before."""

    pinned: bool = False
    version: int | None = None
    replaces: int | None = None
    manifest_sha256: str = ""


def served(model: Path) -> Served:
    """What ``<model>/config.pbtxt`` says; all defaults where there is none. Raises :class:`PublishError`."""
    if not (model / CONFIG).exists():
        return Served()
    config = _read(model / CONFIG)
    says = {key: value.string_value for key, value in config.parameters.items()}
    pinned = list(config.version_policy.specific.versions)
    return Served(
        pinned=bool(pinned),
        version=int(pinned[0]) if pinned else _number(says.get("version")),
        replaces=_number(says.get("replaces")),
        manifest_sha256=says.get("manifest_sha256", ""),
    )


def own_config(version: Path) -> Any:
    """The configuration that came with a version, as Triton's message. Raises :class:`PublishError`."""
    if not (version / CONFIG).exists():
        raise PublishError(f"{version} carries no {CONFIG}: it was built before versions did; build it again")
    return _read(version / CONFIG)


def config_for(
    version: Path, name: str, *, pinned: bool, replaces: int | None = None, number: int | None = None
) -> Any:
    """The model's configuration that serves ``version`` (as ``number`` where its folder has another name yet). Raises
    :class:`PublishError`."""
    config = own_config(version)
    number = number if number is not None else int(version.name)
    config.name = name
    config.ClearField("version_policy")
    if pinned:
        config.version_policy.specific.versions.append(number)
    else:
        config.version_policy.latest.num_versions = 1
    config.parameters["version"].string_value = str(number)
    config.parameters["manifest_sha256"].string_value = sha256_of(version / MANIFEST)
    config.parameters.pop("replaces", None)
    if replaces is not None:
        config.parameters["replaces"].string_value = str(replaces)
    return config


def as_text(config: Any) -> str:
    """``config.pbtxt`` of a message."""
    return str(text_format.MessageToString(config, as_utf8=True))


def _read(file: Path) -> Any:
    try:
        return text_format.Parse(file.read_text(encoding="utf-8"), pb.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise PublishError(f"{file} cannot be read: {error}") from None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None
