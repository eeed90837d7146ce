"""Dashboards say something: every query of every panel has an answer from a real Prometheus and the real stack."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest

if sys.version_info < (3, 11):
    pytest.skip("the builder library of the dashboards needs Python 3.11", allow_module_level=True)

from benchmarks.everyday.people import live
from benchmarks.everyday.setting import everyday
from deploy.grafana.__main__ import FOLDER, generated
from deploy.grafana.board import VALUES
from deploy.grafana.runbooks import UID, sections
from deploy.grafana.shown import Shown, boards, document, panels

SECONDS = 20
VARIABLES = {"model": ".*", "tenant": ".*", "__rate_interval": "5s", "__range": "1m"}
ALL = [panel for board in boards() for panel in panels(board) if panel.panel["type"] != "row"]
CANNOT_BE_HERE = {
    "nv_gpu_utilization": "there is no GPU, and Triton shows these series only for one",
    "nv_gpu_memory_used_bytes": "likewise",
}
"""By a series that a query asks for: why nothing here can have it."""


def numbers(series: list[dict[str, Any]]) -> int:
    """How many samples are numbers."""
    pairs = [pair for each in series for pair in each.get("values", [each.get("value")])]
    return sum(not math.isnan(float(value)) for _, value in pairs)


def test_every_query_has_an_answer_while_people_use_the_service(tmp_path: Path) -> None:
    """Each query of each panel, and each variable's values. What cannot have one here is listed with its reason."""
    with everyday(tmp_path) as running:
        began = time.time()
        seen = asyncio.run(live(running, SECONDS))
        prometheus = running.prometheus
        empty = []
        for panel in ALL:
            for target in panel.targets(VARIABLES):
                now = time.time()
                ask = prometheus.query_range
                found = prometheus.query(target.expression) if target.instant else ask(target.expression, began, now, 1)
                if not numbers(found) and not any(name in target.expression for name in CANNOT_BE_HERE):
                    empty.append(f"{panel.board}: {panel.title}: {target.expression}")
        values = {
            name: prometheus.label_values(query.split("(")[1].split(",")[0], name) for name, query in VALUES.items()
        }
    assert {
        "stop",
        "left",
        "prompt_rejected",
        "content_filter",
        "quota_exceeded",
        "quota",
        "invalid_token",
    } <= seen.keys()
    assert empty == []
    assert values["model"] == ["generate"]
    assert {"acme", "bolt", "crumb", "delta"} <= set(values["tenant"])


def test_the_committed_files_are_what_the_code_makes() -> None:
    """`python -m deploy.grafana` would change nothing."""
    committed = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    assert committed == generated()


@pytest.mark.parametrize("panel", ALL, ids=lambda panel: f"{panel.board}: {panel.title}")
def test_every_panel_says_what_it_shows(panel: Shown) -> None:
    """A title, a sentence, a unit, a place within the grid, and the datasource of the variable."""
    assert panel.panel["description"].endswith(".")
    assert panel.panel["fieldConfig"]["defaults"]["unit"]
    grid = panel.panel["gridPos"]
    assert grid["x"] + grid["w"] <= 24
    assert {each["datasource"]["uid"] for each in panel.panel["targets"]} == {"${datasource}"}


@pytest.mark.parametrize("board", boards())
def test_panels_do_not_lie_on_each_other(board: str) -> None:
    """No cell of the grid is two panels', and no row has a hole."""
    cells = [
        (x, y)
        for panel in document(board)["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    height = max(y for _, y in cells) + 1
    assert len(cells) == len(set(cells)) == 24 * height


def test_links_of_panels_lead_to_the_section_of_their_alert() -> None:
    """The panel that a link names is the runbook that its title names."""
    runbooks = {f"/d/{UID}?viewPanel=panel-{each['id']}": each["title"] for each in document("runbooks")["panels"]}
    links = [link for panel in ALL for link in panel.panel.get("links", [])]
    assert len(links) > 20
    assert [link["title"] for link in links] == [f"What to do: {runbooks[link['url']]}" for link in links]
    assert list(runbooks.values()) == list(sections())


def test_dashboards_lead_to_each_other_and_are_provisioned() -> None:
    """All but the runbooks carry the tag that their links show; names in addresses are unique and files are valid."""
    read = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.json")}
    assert len({each["uid"] for each in read.values()}) == len(read) == 5
    for name in boards():
        assert read[name]["tags"] == read[name]["links"][0]["tags"] == ["tidegate"]
        assert "placement" not in read[name]["links"][0]
