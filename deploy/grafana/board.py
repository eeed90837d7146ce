"""What the dashboards share: where they are found, their variables, and the links from one to the other."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from deploy.grafana.panels import PROMETHEUS, Panel

TAG = "tidegate"


def board(uid: str, title: str, text: str, *variables: str) -> dashboard.Dashboard:
    """An empty dashboard. ``variables``: names out of :data:`VALUES`."""
    each = dashboard.Dashboard(title).uid(uid).description(text).tags([TAG]).time("now-1h", "now").refresh("10s")
    each.tooltip(DashboardCursorSync.CROSSHAIR)
    each.with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    for name in variables:
        each.with_variable(_choice(name))
    links = dashboard.DashboardLink("tidegate").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    each.link(links.keep_time(True).include_vars(True).as_dropdown(False))
    return each.annotation(_alerts())


VALUES = {
    "model": "label_values(tidegate_tokens_total, model)",
    "tenant": "label_values(tidegate_tenant_tokens_total, tenant)",
}


def section(each: dashboard.Dashboard, title: str, *panels: Panel) -> None:
    """A row of that title and its panels; no title, no row."""
    if title:
        each.with_row(dashboard.Row(title))
    for panel in panels:
        each.with_panel(panel)


def _choice(name: str) -> dashboard.QueryVariable:
    """A variable over a label's values, all of them at first."""
    choice = dashboard.QueryVariable(name).label(name.capitalize()).datasource(PROMETHEUS)
    choice.query({"query": VALUES[name], "refId": name}).definition(VALUES[name])
    choice.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)
    choice.multi(True).include_all(True).all_value(".*")
    return choice.current(VariableOption(selected=True, text="All", value="$__all"))


def _alerts() -> dashboard.AnnotationQuery:
    """Alerts that fire, marked in every graph."""
    marks = dashboard.AnnotationQuery().name("Alerts").datasource(PROMETHEUS).enable(True).icon_color("red")
    return marks.expr('ALERTS{alertname!="", alertstate="firing"}').title_format("{{alertname}}").step("30s")
