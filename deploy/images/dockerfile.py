"""Reads the Dockerfile of this repository: the instructions that it uses and no others, so that what is proven is all
of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = {"FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


@dataclass(frozen=True)
class Instruction:
    """One instruction; ``text`` is what follows its name, without line continuations."""

    name: str
    text: str


@dataclass(frozen=True)
class Stage:
    """One ``FROM``: ``base`` is another stage's name or an image."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def last(self, name: str) -> list[str]:
        """The arguments of the last ``name`` in exec form; empty when there is none."""
        found = [each.text for each in self.instructions if each.name == name]
        arguments: list[str] = json.loads(found[-1]) if found else []
        return arguments


def read(path: Path) -> dict[str, Stage]:
    """Stages by name, in order. Raises ValueError for an instruction that is not in :data:`KNOWN` and for a stage
    without a name.
    """
    stages: dict[str, Stage] = {}
    for line in _lines(path.read_text(encoding="utf-8")):
        name, _, text = line.partition(" ")
        if name not in KNOWN:
            raise ValueError(f"{path}: {name} is not handled; teach deploy.images what it means")
        if name == "FROM":
            base, between, stage = text.partition(" AS ")
            if not between:
                raise ValueError(f"{path}: FROM {text} needs a name: FROM ... AS NAME")
            stages[stage] = Stage(stage, base)
        else:
            stages[list(stages)[-1]].instructions.append(Instruction(name, text.strip()))
    return stages


def lineage(stages: dict[str, Stage], name: str) -> list[Stage]:
    """The stage and those that it is made from, the first one first."""
    stage = stages[name]
    return [*(lineage(stages, stage.base) if stage.base in stages else []), stage]


def environment(text: str) -> dict[str, str]:
    """The variables of an ``ENV``; values without spaces."""
    return dict(each.split("=", 1) for each in text.split())


def _lines(text: str) -> list[str]:
    lines: list[str] = []
    going_on = False
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if going_on:
            lines[-1] += " " + line.removesuffix("\\").strip()
        else:
            lines.append(line.removesuffix("\\").strip())
        going_on = line.endswith("\\")
    return lines
