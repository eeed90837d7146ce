"""The series as Prometheus reads them: this process's, or all workers' added up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import Exemplar, Metric, Sample
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from gateway.telemetry import sharing
from gateway.telemetry.processes import Processes
from gateway.telemetry.series import Series

Key = tuple[str, frozenset[tuple[str, str]]]


class Exposition:
    """Of ``series``, and of the process or processes."""

    def __init__(self, series: Series) -> None:
        shared = sharing.folder()
        self._registry = CollectorRegistry()
        self._registry.register(PlatformCollector(registry=None))
        if shared is None:
            self._registry.register(InForce(series.registry))
            ProcessCollector(registry=self._registry)
            GCCollector(registry=self._registry)
        else:
            self._registry.register(InForce(Together(series, shared)))
            self._registry.register(Processes())

    def render(self, accept: str) -> tuple[bytes, str]:
        """The text and its type: OpenMetrics with exemplars if ``accept`` asks for it, else Prometheus's own."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class Together(Collector):
    """The workers of ``folder``. Exemplars are those of this one."""

    def __init__(self, series: Series, folder: Path) -> None:
        self._own = (series.duration, series.first_token)
        self._workers = MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        """Every series of every worker."""
        exemplars = {
            _key(sample): sample.exemplar
            for histogram in self._own
            for metric in histogram.collect()
            for sample in metric.samples
            if sample.exemplar is not None
        }
        names = {name.removesuffix("_bucket") for name, _ in exemplars}
        for metric in self._workers.collect():  # type: ignore[no-untyped-call]
            if metric.name in names:
                metric.samples = [_with(sample, exemplars) for sample in metric.samples]
            yield metric


class InForce(Collector):
    """Without the ``..._info`` of what was in force once: a worker cannot take back a series, only set it to 0."""

    def __init__(self, source: Collector | CollectorRegistry) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        """What is left."""
        for metric in self._source.collect():
            if metric.name.endswith("_info"):
                metric.samples = [sample for sample in metric.samples if sample.value]
            yield metric


def _key(sample: Sample) -> Key:
    return sample.name, frozenset(sample.labels.items())


def _with(sample: Sample, exemplars: dict[Key, Exemplar]) -> Sample:
    exemplar = exemplars.get(_key(sample))
    return sample if exemplar is None else sample._replace(exemplar=exemplar)
