"""A real Prometheus and a real Alertmanager without Docker, from the system's packages, with the shipped files.

What differs from the shipped configuration is where things listen, how often is looked, and what a caller says it is.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deploy.local.processes import Background

DEPLOY = Path(__file__).resolve().parents[1]
RULES = DEPLOY / "prometheus" / "rules"
READY_SECONDS = 30.0
GRACE_SECONDS = 5.0


class ObserverError(Exception):
    """It is not installed or did not start; the message says which, and where its log is."""


@dataclass(frozen=True)
class Prometheus:
    """One Prometheus on loopback."""

    run_dir: Path
    port: int
    targets: Mapping[str, list[str]]
    """Addresses by job, instead of those in the shipped file."""
    scrape_interval: str = "1s"
    rules: Path = RULES
    alertmanager: str = ""

    @property
    def process(self) -> Background:
        """The server."""
        return Background("prometheus", self.run_dir)

    def start(self) -> None:
        """Start it and wait until it answers. Raises :class:`ObserverError`."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        config = self.run_dir / "prometheus.yml"
        config.write_text(yaml.safe_dump(self._configuration()), encoding="utf-8")
        arguments = {"config.file": config, "storage.tsdb.path": self.run_dir / "tsdb", "log.level": "warn"}
        arguments["web.listen-address"] = f"127.0.0.1:{self.port}"
        _start(self.process, "prometheus", arguments, f"http://127.0.0.1:{self.port}/-/ready")

    def stop(self) -> None:
        """End it."""
        self.process.stop(GRACE_SECONDS)

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """The series of an instant query, now or ``at`` that time: ``metric`` and ``value``."""
        return self._asked("query", query=expression, time=time.time() if at is None else at)

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """The series of a range query: ``metric`` and ``values``, pairs of seconds and text."""
        return self._asked("query_range", query=expression, start=start, end=end, step=step)

    def label_values(self, series: str, label: str) -> list[str]:
        """What Grafana's ``label_values(series, label)`` gives."""
        found: list[str] = self._get(f"label/{label}/values", {"match[]": series})
        return found

    def _asked(self, path: str, **parameters: object) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._get(path, parameters)["result"]
        return found

    def _get(self, path: str, parameters: Mapping[str, object]) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise ObserverError(f"{parameters}: {json.load(error)['error']}") from None

    def _configuration(self) -> dict[str, Any]:
        """The shipped file's, with these targets."""
        shipped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
        every = {"scrape_interval": self.scrape_interval, "evaluation_interval": self.scrape_interval}
        shipped["global"] |= {**every, "scrape_timeout": self.scrape_interval}
        shipped["rule_files"] = [str(self.rules / "*.yml")]
        shipped["scrape_configs"] = [
            {**job, "static_configs": [{"targets": self.targets[job["job_name"]]}]}
            for job in shipped["scrape_configs"]
            if job["job_name"] in self.targets
        ]
        managers = [{"static_configs": [{"targets": [self.alertmanager]}]}] if self.alertmanager else []
        shipped["alerting"] = {"alertmanagers": managers}
        return dict(shipped)


@dataclass(frozen=True)
class Alertmanager:
    """One Alertmanager on loopback, that tells ``webhook`` (a URL)."""

    run_dir: Path
    port: int
    webhook: str
    route: Mapping[str, str] = field(default_factory=dict)
    """What is different in the shipped route, such as ``group_wait``."""

    @property
    def process(self) -> Background:
        """The server."""
        return Background("alertmanager", self.run_dir)

    def start(self) -> None:
        """Start it and wait until it answers. Raises :class:`ObserverError`."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        shipped = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text(encoding="utf-8"))
        shipped["route"] |= self.route
        for receiver in shipped["receivers"]:
            receiver["webhook_configs"] = [{"url": self.webhook, "send_resolved": True}]
        config = self.run_dir / "alertmanager.yml"
        config.write_text(yaml.safe_dump(shipped), encoding="utf-8")
        arguments = {"config.file": config, "storage.path": self.run_dir / "alertmanager", "log.level": "warn"}
        arguments |= {"web.listen-address": f"127.0.0.1:{self.port}", "cluster.listen-address": ""}
        _start(self.process, "prometheus-alertmanager", arguments, f"http://127.0.0.1:{self.port}/-/ready")

    def stop(self) -> None:
        """End it."""
        self.process.stop(GRACE_SECONDS)


def _start(process: Background, program: str, arguments: Mapping[str, object], ready: str) -> None:
    path = shutil.which(program) or shutil.which(program.removeprefix("prometheus-"))
    if path is None:
        raise ObserverError(f"there is no {program} here: run deploy/local/install-test-tools")
    process.start([path, *(f"--{name}={value}" for name, value in arguments.items())], dict(os.environ))
    until = time.monotonic() + READY_SECONDS
    while not _answers(ready):
        if process.pid() is None or time.monotonic() > until:
            raise ObserverError(f"{program} did not start; the end of {process.log}:\n{process.tail()}")
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False
