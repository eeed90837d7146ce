"""PromQL that the dashboards say again and again, in Grafana's variables."""

from __future__ import annotations

import functools
from pathlib import Path

import yaml

from deploy.grafana.panels import ALLOWED, Query

THRESHOLDS = Path(__file__).resolve().parents[1] / "prometheus" / "rules" / "thresholds.yml"

MODEL = 'model=~"$model"'
TENANT = 'tenant=~"$tenant"'
GATEWAY = 'job=~"(tidegate/)?gateway"'
"""The job's name; the Prometheus Operator puts the namespace before it."""
ASKING = 'route=~"/generate(_stream)?|/v1/(chat/)?completions|grpc:Model(Stream)?Infer"'
"""The routes that ask a model: only they say how fast one is."""


def total(gauge: str, by: str = "", where: str = "") -> str:
    """The sum of a gauge over everything but the labels ``by``."""
    return f"sum{_by(by)}({_selected(gauge, where)})"


def rate(counter: str, by: str = "", where: str = "") -> str:
    """A second."""
    return f"sum{_by(by)}(rate({_selected(counter, where)}[$__rate_interval]))"


def seen(counter: str, by: str, where: str = "") -> str:
    """A second, of what has happened over the range that the dashboard shows: some series stand at 0 from the start."""
    return f"{rate(counter, by, where)} and {grown(counter, by, where)} > 0"


def grown(counter: str, by: str = "", where: str = "") -> str:
    """Over the range that the dashboard shows."""
    return f"sum{_by(by)}(increase({_selected(counter, where)}[$__range]))"


def or_none(expression: str) -> str:
    """0 where there is no series yet: a counter with labels is born with its first event."""
    return f"({expression} or vector(0))"


def quantile(histogram: str, share: float, by: str = "", where: str = "") -> str:
    """Of a histogram, over the rate interval."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', f'{by}, le'.removeprefix(', '), where)})"


def quantiles(histogram: str, by: str = "", where: str = "") -> list[Query]:
    """p50, p95 and p99, ``by`` a label or all together."""
    legend = f" {{{{{by}}}}}" if by else ""
    return [
        (quantile(histogram, share, by, where), f"p{share:.0%}".rstrip("%") + legend) for share in (0.5, 0.95, 0.99)
    ]


def limit(name: str) -> Query:
    """A number of deploy/prometheus/rules/thresholds.yml as a line."""
    return f"tidegate:threshold:{name}", ALLOWED


@functools.cache
def threshold(name: str) -> float:
    """The same number, for colours and texts, which Grafana takes as they are. Raises KeyError."""
    (group,) = yaml.safe_load(THRESHOLDS.read_text(encoding="utf-8"))["groups"]
    numbers = {rule["record"]: float(rule["expr"].removeprefix("vector(").removesuffix(")")) for rule in group["rules"]}
    return numbers[f"tidegate:threshold:{name}"]


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""


def _selected(metric: str, where: str) -> str:
    return f"{metric}{{{where}}}" if where else metric
