"""A dashboard as a picture: its own grid, titles and units, and what Prometheus answered. No Grafana is asked.

Kinds of panel: stat, timeseries (stacked or not), bargauge, table, row; each is one function from a rectangle and the
answers to marks on it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

COLUMNS, COLUMN_INCHES, ROW_INCHES = 24, 0.66, 0.36
COLOURS = ("#3274d9", "#e0752d", "#1f9d55", "#8f3bb8", "#c4a000", "#b7412e", "#2aa198", "#7f7f7f")
NAMED = {"green": "#1f9d55", "orange": "#e0752d", "red": "#d02030"}
INK, PALE, EDGE, PAPER = "#24292e", "#6b7280", "#d5d9de", "#f4f5f7"
MOST_LEGENDS = 8
Series = Mapping[str, Any]


@dataclass(frozen=True)
class Answered:
    """One query's legend and series, and whether it was asked for one moment only."""

    legend: str
    series: Sequence[Series]


def draw(document: Mapping[str, Any], answers: Mapping[int, Sequence[Answered]], began: float, path: Path) -> None:
    """Draw the dashboard to ``path``. ``answers`` by the panel's id; ``began`` is where the time axis starts."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in document["panels"]) + 2
    figure = plt.figure(figsize=(COLUMNS * COLUMN_INCHES, rows * ROW_INCHES), facecolor=PAPER, dpi=80)
    figure.text(0.008, 1 - 1.25 / rows, document["title"], size=17, weight="bold", color=INK)
    figure.text(0.992, 1 - 1.2 / rows, document["description"], size=10, color=PALE, ha="right")
    for panel in document["panels"]:
        _panel(figure, rows, panel, answers.get(panel["id"], ()), began)
    figure.savefig(path, facecolor=PAPER)
    plt.close(figure)


def _panel(figure: Figure, rows: int, panel: Mapping[str, Any], answers: Sequence[Answered], began: float) -> None:
    place = panel["gridPos"]
    left, width = place["x"] / COLUMNS, place["w"] / COLUMNS
    bottom, height = 1 - (place["y"] + place["h"] + 2) / rows, place["h"] / rows
    if panel["type"] == "row":
        figure.text(left + 0.008, bottom + height * 0.25, panel["title"], size=11.5, weight="bold", color=INK)
        return
    across, down = 0.0035, 0.14 / rows
    box = FancyBboxPatch(
        (left + across, bottom + down), width - 2 * across, height - 2 * down, transform=figure.transFigure,
        boxstyle="round,pad=0,rounding_size=0.002", facecolor="white", edgecolor=EDGE, linewidth=0.8,
        zorder=-1,
    )  # fmt: skip
    figure.patches.append(box)
    figure.text(
        left + across + 0.006, bottom + height - 0.85 / rows, panel["title"], size=9.5, weight="bold", color=INK
    )
    kinds = {"stat": _stat, "timeseries": _lines, "bargauge": _bars, "table": _table}
    side = 0.012 if panel["type"] in ("stat", "table", "bargauge") else 0.042
    inner = (left + side, bottom + 0.45 / rows, width - side - 0.012, height - 1.6 / rows)
    kinds[panel["type"]](figure, inner, panel, answers, began)


Inner = tuple[float, float, float, float]


def _stat(figure: Figure, inner: Inner, panel: Mapping[str, Any], answers: Sequence[Answered], began: float) -> None:
    axes = _bare(figure, inner)
    points = [point for each in answers for series in each.series for point in _points(series, began)]
    settings = panel["fieldConfig"]["defaults"]
    if not points:
        axes.text(0.5, 0.5, settings.get("noValue", "no data"), size=15, color=PALE, ha="center", va="center")
        return
    value = points[-1][1]
    steps = settings["thresholds"]["steps"]
    colour = NAMED[[step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1]]
    axes.text(0.02, 0.9, said(value, settings["unit"]), size=20, weight="bold", color=colour, va="top")
    course = _bare(figure, (inner[0], inner[1], inner[2], inner[3] * 0.42))
    times, values = zip(*points, strict=True)
    course.fill_between(times, values, color=colour, alpha=0.18, linewidth=0)
    course.plot(times, values, color=colour, linewidth=1.2)
    course.set_ylim(0, max(values) * 1.1 or 1)
    course.set_xlim(times[0], max(times[-1], times[0] + 1))


def _lines(figure: Figure, inner: Inner, panel: Mapping[str, Any], answers: Sequence[Answered], began: float) -> None:
    settings = panel["fieldConfig"]["defaults"]
    named = [
        (named_by(each.legend, series["metric"]), _points(series, began)) for each in answers for series in each.series
    ]
    named = [(name, points) for name, points in named if points]
    lines = -(-min(len(named), MOST_LEGENDS) // _a_line(panel)) if named else 0
    left, bottom, width, height = inner
    foot = height * (0.11 + 0.085 * lines)
    axes = figure.add_axes((left, bottom + foot, width, height - foot))
    if not named:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, size=11, color=PALE, ha="center", va="center")
        return
    stacked = settings["custom"].get("stacking", {}).get("mode") == "normal"
    (_stack if stacked else _plain)(axes, named)
    top = max((value for _, points in named for _, value in points), default=0)
    axes.set_ylim(0, settings.get("max") or (axes.get_ylim()[1] * 1.05 if top else 1))
    _frame(axes, settings["unit"])
    axes.legend(
            loc="upper left", bbox_to_anchor=(-0.028 / width, -0.1), ncol=_a_line(panel), fontsize=7.2, frameon=False,
            handlelength=1.0, columnspacing=1.0, handletextpad=0.4, labelspacing=0.25, borderpad=0.1,
        )  # fmt: skip


def _a_line(panel: Mapping[str, Any]) -> int:
    """Legends in a line."""
    return 3 if panel["gridPos"]["w"] <= 8 else 5


def _plain(axes: Axes, named: Sequence[tuple[str, list[tuple[float, float]]]]) -> None:
    for place, (name, points) in enumerate(named):
        limit = name == "allowed"
        colour = NAMED["red"] if limit else COLOURS[place % len(COLOURS)]
        times, values = zip(*points, strict=True)
        label = name if place < MOST_LEGENDS else None
        axes.plot(times, values, color=colour, linewidth=1.6, linestyle=(0, (5, 3)) if limit else "-", label=label)


def _stack(axes: Axes, named: Sequence[tuple[str, list[tuple[float, float]]]]) -> None:
    times = sorted({time for _, points in named for time, _ in points})
    levels = [[dict(points).get(time, 0.0) for time in times] for _, points in named]
    if levels:
        labels = [name for name, _ in named][:MOST_LEGENDS]
        axes.stackplot(times, *levels, labels=labels, colors=COLOURS, alpha=0.7, linewidth=0)


def _bars(figure: Figure, inner: Inner, panel: Mapping[str, Any], answers: Sequence[Answered], began: float) -> None:
    found = [
        (named_by(each.legend, series["metric"]), float(series["value"][1]))
        for each in answers
        for series in each.series
    ]
    found = sorted((pair for pair in found if not math.isnan(pair[1])), key=lambda pair: pair[1])
    axes = _bare(figure, inner)
    unit = panel["fieldConfig"]["defaults"]["unit"]
    most = max((value for _, value in found), default=1) or 1
    for place, (name, value) in enumerate(found):
        axes.barh(place, value / most, color=COLOURS[place % len(COLOURS)], height=0.42, alpha=0.85)
        axes.text(0, place + 0.27, name, size=7.8, color=INK, va="bottom")
        axes.text(1.02, place, said(value, unit), size=8.5, color=INK, va="center", ha="left")
    axes.set_xlim(-0.02, 1.2)
    axes.set_ylim(-0.5, max(len(found), 3) - 0.2)


def _table(figure: Figure, inner: Inner, panel: Mapping[str, Any], answers: Sequence[Answered], began: float) -> None:
    axes = _bare(figure, inner)
    options = panel["transformations"][0]["options"]
    columns = sorted(options["indexByName"], key=options["indexByName"].get)
    unit = panel["fieldConfig"]["defaults"]["unit"]
    rows = [columns] + [
        [
            said(float(series["value"][1]), unit) if name == "Value" else series["metric"].get(name, "")
            for name in columns
        ]
        for each in answers
        for series in each.series
    ]
    for line, row in enumerate(rows):
        for place, cell in enumerate(row):
            weight, colour = ("bold", PALE) if line == 0 else ("normal", INK)
            axes.text(place / len(columns), 0.97 - line * 0.14, cell, size=8.5, color=colour, weight=weight, va="top")
        axes.axhline(0.88 - line * 0.14, color=EDGE, linewidth=0.7)


def _bare(figure: Figure, inner: Inner) -> Axes:
    axes: Axes = figure.add_axes(inner)
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    return axes


def _frame(axes: Axes, unit: str) -> None:
    axes.yaxis.set_major_locator(doubled(axes.get_ylim()[1]) if unit == "bytes" else mpl.ticker.MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, _: said(value, unit))
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5, steps=[1, 2, 3, 6, 10]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{int(value) // 60}:{int(value) % 60:02d}")
    axes.tick_params(labelsize=7.5, colors=PALE, length=0)
    axes.grid(color=EDGE, linewidth=0.5)
    axes.margins(x=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def doubled(top: float) -> mpl.ticker.Locator:
    """Two to four steps, each a power of two: bytes are counted so."""
    return mpl.ticker.MultipleLocator(2 ** math.ceil(math.log2(top / 4)))


def _points(series: Series, began: float) -> list[tuple[float, float]]:
    """Seconds since the beginning, and the value, where it is a number."""
    pairs = series.get("values") or [series["value"]]
    read = ((float(time) - began, float(value)) for time, value in pairs)
    return [(time, value) for time, value in read if not (math.isnan(value) or math.isinf(value))]


def named_by(legend: str, labels: Mapping[str, str]) -> str:
    """The legend with its labels' values."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)


def said(value: float, unit: str) -> str:
    """A value as Grafana would write it."""
    if unit == "s":
        return f"{value * 1000:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
    if unit == "percentunit":
        return f"{value:.3g}" if math.isnan(value) else f"{value * 100:.3g} %"
    if unit == "bytes":
        return f"{value / 2**30:.3g} GiB" if value >= 2**30 else f"{value / 2**20:.3g} MiB"
    if unit == "reqps":
        return f"{value:.3g} req/s"
    if unit == "short" and abs(value) >= 1000:
        return f"{value / 1000:.3g} K"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
