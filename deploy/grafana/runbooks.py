"""docs/runbooks.md as a dashboard: whoever is woken at night reads it where the graphs are.

Each section of the page is one text panel, and its number in the dashboard is its place in the page, so that panels
and alerts can link to it.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, text
from grafana_foundation_sdk.models.text import TextMode

PAGE = Path(__file__).resolve().parents[2] / "docs" / "runbooks.md"
UID = "tidegate-runbooks"


@functools.cache
def sections() -> dict[str, str]:
    """Markdown by alert, in the page's order; the page's introduction is not among them."""
    parts = re.split(r"^## (\w+)\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], (each.strip() for each in parts[1::2]), strict=True))


def runbook_path(alert: str) -> str:
    """Where Grafana shows an alert's section. Raises KeyError for an alert without one."""
    places = {name: place for place, name in enumerate(sections(), start=1)}
    return f"/d/{UID}?viewPanel=panel-{places[alert]}"


def shown(section: str) -> str:
    """A section as Grafana can show it: links to other sections lead to their panels; the pages beside this one are not
    there, so their names are only text."""
    section = re.sub(r"\]\(#(\w+)\)", lambda found: f"]({_paths()[found[1]]})", section)
    return re.sub(r"\[([^\]]+)\]\([\w/-]+\.md(?:#[\w-]+)?\)", r"\1", section)


def _paths() -> dict[str, str]:
    """Where Grafana shows a section, by its anchor in the page."""
    return {alert.lower(): runbook_path(alert) for alert in sections()}


def runbooks() -> dashboard.Dashboard:
    """The dashboard."""
    board = dashboard.Dashboard("Runbooks").uid(UID).description("What each alert means, and what to do.")
    for place, (name, content) in enumerate(sections().items(), start=1):
        panel = text.Panel().id(place).title(name).mode(TextMode.MARKDOWN).content(shown(content))
        board.with_panel(panel.span(12).height(14))
    return board
