"""Everything a build can refuse, drawn once.

    BuildError
    ├── SourceError            the input model cannot be read as it claims to be
    │   ├── UnsupportedModel   readable, but outside what this builder can emit; names what would be needed
    │   └── CorruptSource      truncated, missing or misshapen tensors; names file and tensor
    ├── RecipeError            the command line asks for something that does not exist
    ├── TextError              the calibration or held-out text cannot be used; names file and line
    ├── AccuracyError          the engine is too far from its reference to be published
    ├── EngineBuildError       TensorRT refuses the graph, or would build something else than it; quotes its line
    ├── PublishError           the repository cannot take the version
    └── RolloutError           the new version does not serve; the old one does
        ├── Refused            it failed its proof: it does not load, or does not answer as it should
        └── TritonError        Triton cannot be reached or takes no orders

Every error carries a message for a person. ``python -m build_engine`` prints it as one line and exits with
``exit_code``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class BuildError(Exception):
    """A build that stops; nothing was published."""

    exit_code = 1


class SourceError(BuildError):
    """The source model cannot be used."""

    exit_code = 2


class UnsupportedModel(SourceError):
    """The source is well-formed but not something this builder can emit."""


class CorruptSource(SourceError):
    """The source's files contradict themselves."""


class RecipeError(BuildError):
    """The request itself makes no sense."""

    exit_code = 3


class EngineBuildError(BuildError):
    """The engine cannot be built from the graph."""

    exit_code = 6


class PublishError(BuildError):
    """The model repository cannot take the version."""

    exit_code = 4


class TextError(BuildError):
    """The text for calibration or for the accuracy gate cannot be used."""

    exit_code = 3


class AccuracyError(BuildError):
    """The engine is too far from its reference."""

    exit_code = 5


class RolloutError(BuildError):
    """A rollout that did not happen."""

    exit_code = 8


class Refused(RolloutError):
    """The version failed its proof; what served before serves on."""

    exit_code = 7


class TritonError(RolloutError):
    """Triton cannot be reached, or does not let itself be controlled."""


@contextmanager
def refusing(what: str, kind: type[BuildError]) -> Iterator[None]:
    """The system's refusal to read or write, as one of ours."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what}: {error}") from error
