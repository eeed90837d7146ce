"""The configured moderators, made and guarded."""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.policy.config import HttpPart, PythonPart, SecretPart, TritonPart
from gateway.policy.errors import PolicyError
from gateway.policy.guard import Guarded, GuardObserver, Limits
from gateway.policy.python_moderator import load_moderator
from gateway.policy.triton_moderator import Classifier, Judgement, TritonModerator
from gateway.policy.verdict import Moderator


@dataclass(frozen=True)
class Services:
    """What moderators need from outside."""

    classifier: Classifier
    observer: GuardObserver


def make(
    part: HttpPart | TritonPart | PythonPart, services: Services, folder: Path, before: Iterable[Guarded] = ()
) -> Guarded:
    """A moderator under its limits: the one of ``before`` that was made from the same, with its connections and its
    breaker, or a new one. Raises :class:`PolicyError`."""
    headers = {} if part.kind != "http" else _headers(part, folder)
    for each in before:
        if each.made_from == (part, headers):
            return each
    limits = Limits(
        deadline_seconds=part.deadline_seconds,
        concurrency=part.concurrency,
        waiting=4 * part.concurrency,
        failures=part.breaker.failures,
        cool_down_seconds=part.breaker.cool_down_seconds,
        on_error=part.on_error,
    )
    return Guarded(
        part.name,
        _moderator(part, services, headers),
        limits,
        services.observer,
        applies=tuple(part.apply),
        holds=part.hold == "segment",
        made_from=(part, headers),
    )


def _moderator(part: HttpPart | TritonPart | PythonPart, services: Services, headers: Mapping[str, str]) -> Moderator:
    if isinstance(part, PythonPart):
        return load_moderator(part.entry_point, part.options, part.concurrency)
    if isinstance(part, TritonPart):
        labels = {
            name: Judgement(label.threshold, label.action, label.category or name)
            for name, label in part.labels.items()
        }
        return TritonModerator(services.classifier, part.model, labels)
    return _http(part, headers)


def _http(part: HttpPart, headers: Mapping[str, str]) -> Moderator:
    try:
        http: Any = importlib.import_module("gateway.policy.http_moderator")
    except ImportError:
        raise PolicyError(f"moderator '{part.name}' needs pip install 'tidegate[http-moderator]'") from None
    if part.preset == "openai":
        given = {"body": part.body, "thresholds": part.thresholds}
        mapped = dataclasses.replace(http.OPENAI, **{name: value for name, value in given.items() if value})
    else:
        mapped = http.Mapped(part.body, part.flagged, part.categories, part.scores, part.thresholds)
    try:
        moderator: Moderator = http.HttpModerator(part.url, mapped, action=part.action, headers=headers)
    except http.UnusableError as error:
        raise PolicyError(f"moderator '{part.name}': {error}") from None
    return moderator


def _headers(part: HttpPart, folder: Path) -> dict[str, str]:
    return {name: _resolved(part.name, name, value, folder) for name, value in part.headers.items()}


def _resolved(moderator: str, header: str, value: str | SecretPart, folder: Path) -> str:
    if isinstance(value, str):
        return value
    where = f"moderator '{moderator}': header {header}"
    if value.env is not None:
        found = os.environ.get(value.env)
        if not found:
            raise PolicyError(f"{where}: the environment has no {value.env}")
        return found
    try:
        return (folder / str(value.file)).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise PolicyError(f"{where}: {value.file} cannot be read") from None
