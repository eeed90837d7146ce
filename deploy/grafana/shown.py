"""What a dashboard's JSON asks Prometheus: its panels and their queries, with Grafana's variables put in as Grafana
does. For the test that runs every query, and for the pictures; the dashboards themselves need none of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "dashboards"


@dataclass(frozen=True)
class Target:
    """One query of a panel."""

    expression: str
    legend: str
    instant: bool


@dataclass(frozen=True)
class Shown:
    """One panel: its JSON, and what it asks."""

    board: str
    panel: Mapping[str, Any]

    @property
    def title(self) -> str:
        """As it stands above it."""
        return str(self.panel["title"])

    def targets(self, variables: Mapping[str, str]) -> list[Target]:
        """Its queries; ``variables`` by name, without ``$``."""
        return [
            Target(_filled(each["expr"], variables), each.get("legendFormat", ""), each.get("instant", False))
            for each in self.panel.get("targets", [])
        ]


def boards() -> list[str]:
    """The dashboards that ask something, by the name of their file."""
    return sorted(
        path.stem for path in FOLDER.glob("*.json") if any(panel.panel.get("targets") for panel in panels(path.stem))
    )


def document(board: str) -> dict[str, Any]:
    """The JSON that Grafana reads."""
    read: dict[str, Any] = json.loads((FOLDER / f"{board}.json").read_text(encoding="utf-8"))
    return read


def panels(board: str) -> Iterator[Shown]:
    """Rows too."""
    for panel in document(board)["panels"]:
        yield Shown(board, panel)


def _filled(expression: str, variables: Mapping[str, str]) -> str:
    for name in sorted(variables, key=len, reverse=True):
        expression = expression.replace(f"${name}", variables[name])
    if "$" in expression:
        raise ValueError(f"nobody says what a variable is in {expression}")
    return expression
