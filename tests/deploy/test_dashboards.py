"""Dashboards say something: every query of every panel has an answer from a real Prometheus and the real stack."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.drawn import doubled
from benchmarks.everyday.people import live
from benchmarks.everyday.setting import everyday
from deploy.grafana.__main__ import FOLDER, generated
from deploy.grafana.board import VALUES
from deploy.grafana.queries import ASKING
from deploy.grafana.runbooks import UID, sections
from deploy.grafana.service import REFUSALS
from deploy.grafana.shown import Shown, boards, document, panels
from gateway import errors
from gateway.edge.middleware import INSTANT, MEASURED, ROUTES
from gateway.edge_grpc.door import INFER, STREAM

SECONDS = 20
VARIABLES = {"model": ".*", "tenant": ".*", "__rate_interval": "5s", "__range": "1m"}
ALL = [panel for board in boards() for panel in panels(board) if panel.panel["type"] != "row"]
METRIC = re.compile(r"\b(?:(?:tidegate|nv|process)[_:][\w:]+|up\b|ALERTS\b)")
CANNOT_BE_HERE = {
    "nv_gpu_utilization": "there is no GPU, and Triton shows these series only for one",
    "nv_gpu_memory_used_bytes": "likewise",
    "nv_gpu_memory_total_bytes": "likewise",
}
"""By a series that a query asks for: why nothing here can have it."""


def numbers(series: list[dict[str, Any]]) -> int:
    """How many samples are numbers."""
    pairs = [pair for each in series for pair in each.get("values", [each.get("value")])]
    return sum(not math.isnan(float(value)) for _, value in pairs)


def test_every_query_has_an_answer_while_people_use_the_service(tmp_path: Path) -> None:
    """Each query of each panel, and each variable's values; and each series that a query names is there, since some say
    0 without one. What cannot be here is listed with its reason."""
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
        asked = {name for panel in ALL for each in panel.targets(VARIABLES) for name in METRIC.findall(each.expression)}
        missing = {name for name in asked if not prometheus.query(f"last_over_time({name}[10m])")}
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
    assert missing == CANNOT_BE_HERE.keys()
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


def test_bars_are_asked_for_as_series() -> None:
    """Grafana makes one frame of a table, with one field of values: that would be one bar, without a legend."""
    formats = {
        target.get("format") for each in ALL if each.panel["type"] == "bargauge" for target in each.panel["targets"]
    }
    assert formats == {"time_series"}


def test_routes_and_codes_that_queries_choose_are_the_gateways() -> None:
    """How long requests take is shown of exactly the routes that ask a model, and refusals are of codes that exist."""
    asking = {*MEASURED} - {*INSTANT} | {INFER, STREAM}
    every = {*ROUTES, INFER, STREAM, "grpc:ModelMetadata"}
    (pattern,) = re.findall(r'route=~"(.+)"', ASKING)
    assert {route for route in every if re.fullmatch(pattern, route)} == asking
    classes = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.GatewayError)
    ]
    assert {code for codes in REFUSALS.values() for code in codes.split("|")} <= {each.code for each in classes}


def test_traces_of_single_requests_are_asked_for_once_a_panel() -> None:
    """In the panels of the histograms that have exemplars."""
    found = [(each.title, [target.get("exemplar", False) for target in each.panel["targets"]]) for each in ALL]
    assert [title for title, asked in found if any(asked)] == ["Time to first text", "Whole request"]
    assert all(sum(asked) <= 1 for _, asked in found)


def test_links_of_runbooks_lead_somewhere() -> None:
    """To another section, whose panel is there; what is beside the page in docs/ is no link."""
    targets = re.findall(
        r"\]\(([^)]+)\)", "".join(each["options"]["content"] for each in document("runbooks")["panels"])
    )
    there = {f"/d/{UID}?viewPanel=panel-{each['id']}" for each in document("runbooks")["panels"]}
    assert len(targets) > 10
    assert set(targets) <= there


@pytest.mark.parametrize(("top", "ticks"), [(114, "0 32 64 96"), (3000, "0 1024 2048")])
def test_pictures_count_bytes_in_powers_of_two(top: int, ticks: str) -> None:
    """As Grafana does: no axis says 76.3 MiB. ``top`` and ``ticks`` are in MiB."""
    found = [tick / 2**20 for tick in doubled(top * 2**20).tick_values(0, top * 2**20)]
    assert [f"{tick:g}" for tick in found if 0 <= tick <= top] == ticks.split()


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
