"""The kinds of panel that the dashboards are made of, each a short function over the Grafana Foundation SDK.

A width is in columns of 24. Expressions are PromQL with Grafana's variables: ``$model``, ``$tenant``,
``$__rate_interval`` and ``$__range``. ``alert`` names an alert: the panel links to its section of the runbooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    DataSourceRef,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.grafana.runbooks import runbook_path

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="${datasource}")
ALLOWED = "allowed"
"""The legend of a threshold (deploy/prometheus/rules/thresholds.yml); drawn as a red dashed line."""

Panel = stat.Panel | timeseries.Panel | bargauge.Panel | table.Panel
Made = TypeVar("Made", stat.Panel, timeseries.Panel, bargauge.Panel, table.Panel)
Query = tuple[str, str]
"""An expression and its legend, in which ``{{label}}`` is a label's value."""
Step = tuple[float, str]
"""From this value on, this colour."""


def number(
    title: str,
    text: str,
    unit: str,
    expression: str,
    *,
    steps: Sequence[Step] = (),
    width: int = 4,
    alert: str = "",
) -> stat.Panel:
    """One big number with its recent course; green below the first of ``steps``."""
    panel = stat.Panel().span(width).height(4).graph_mode(BigValueGraphMode.AREA).color_mode(BigValueColorMode.VALUE)
    panel = panel.reduce_options(_last()).thresholds(_colours(steps)).no_value("none")
    panel = panel.color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
    return _filled(panel, title, text, unit, [(expression, "")], alert=alert)


def lines(
    title: str,
    text: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    stacked: bool = False,
    most: float | None = None,
    alert: str = "",
    exemplars: bool = False,
) -> timeseries.Panel:
    """Values over time; ``most`` is where the axis ends. ``exemplars``: traces of single requests as dots, asked for
    with the first query alone, since all have the same."""
    legend = common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
    panel = timeseries.Panel().span(width).height(8).min(0).line_width(1 if stacked else 2)
    panel = panel.fill_opacity(60 if stacked else 8).legend(legend.placement(LegendPlacement.BOTTOM))
    panel = panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    panel = panel.override_by_name(ALLOWED, _as_limit())
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if most is not None:
        panel = panel.max(most)
    return _filled(panel, title, text, unit, queries, alert=alert, exemplars=exemplars)


def bars(title: str, text: str, unit: str, expression: str, legend: str, *, width: int = 8) -> bargauge.Panel:
    """The biggest of many over the dashboard's range."""
    panel = bargauge.Panel().span(width).height(8).min(0).orientation(VizOrientation.HORIZONTAL)
    panel = panel.reduce_options(_last()).color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
    series = PromQueryFormat.TIME_SERIES  # a table is one frame with one field of values, and so one bar
    return _filled(panel, title, text, unit, [(expression, legend)], instant=series)


def listing(
    title: str, text: str, expression: str, *columns: str, unit: str = "short", width: int = 8, alert: str = ""
) -> table.Panel:
    """A row a series, with these labels; its value too if ``columns`` name ``Value``."""
    options = {
        "excludeByName": {"Time": True, "Value": "Value" not in columns},
        "indexByName": {name: index for index, name in enumerate(columns)},
    }
    panel = table.Panel().span(width).height(8)
    panel = panel.with_transformation(DataTransformerConfig(id_val="organize", options=options))
    return _filled(panel, title, text, unit, [(expression, "")], alert=alert, instant=PromQueryFormat.TABLE)


def _filled(
    panel: Made,
    title: str,
    text: str,
    unit: str,
    queries: Sequence[Query],
    *,
    alert: str = "",
    instant: PromQueryFormat | None = None,
    exemplars: bool = False,
) -> Made:
    """What every kind has: title, description, unit, queries, and the way to what to do. ``instant``: asked for one
    moment, and in which form."""
    panel.title(title).description(text).unit(unit).datasource(PROMETHEUS)
    for place, (expression, legend) in enumerate(queries):
        query = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + place))
        query.datasource(PROMETHEUS)
        if exemplars and place == 0:
            query.exemplar(True)
        panel.with_target(query.range() if instant is None else query.instant().format(instant))
    if alert:
        link = dashboard.DashboardLink(f"What to do: {alert}").type(DashboardLinkType.LINK).url(runbook_path(alert))
        panel.links([link.keep_time(True)])
    return panel


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)


def _colours(steps: Sequence[Step]) -> dashboard.ThresholdsConfig:
    coloured = [Threshold(None, "green"), *(Threshold(value, colour) for value, colour in steps)]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(coloured)


def _as_limit() -> list[DynamicConfigValue]:
    return [
        DynamicConfigValue("color", {"mode": "fixed", "fixedColor": "red"}),
        DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
        DynamicConfigValue("custom.fillOpacity", 0),
    ]
