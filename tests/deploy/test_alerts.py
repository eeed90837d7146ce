"""Alerts: each fires and is silent when it should, leads to its runbook, and two are seen to arrive."""

from __future__ import annotations

import json
import queue
import re
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.everyday.setting import BROKEN_POLICY, everyday
from benchmarks.harness import free_ports
from deploy.local.observers import DEPLOY, RULES, Alertmanager
from deploy.local.stack import TRITON_GRACE_SECONDS
from gateway.errors import failures_of_ours

ROOT = DEPLOY.parent
CASES = sorted((ROOT / "tests" / "deploy" / "alerts").glob("*.yml"))
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load((RULES / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}


def checked(*command: str | Path) -> str:
    """What a tool says; it must be content."""
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_tools_accept_rules_and_configuration(tmp_path: Path) -> None:
    """Promtool takes rules and prometheus.yml with the rules where it looks for them; amtool takes alertmanager.yml."""
    checked("promtool", "check", "rules", *sorted(RULES.glob("*.yml")))
    shipped = (DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    here = tmp_path / "prometheus.yml"
    here.write_text(shipped.replace("/etc/prometheus/rules", str(RULES)), encoding="utf-8")
    assert "rule files found" in checked("promtool", "check", "config", here)
    checked("amtool", "check-config", DEPLOY / "alertmanager" / "alertmanager.yml")


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(case: Path) -> None:
    """Promtool plays series through the rules, and compares labels, summary and link of what fires."""
    checked("promtool", "test", "rules", case)


def test_every_alert_is_played_firing_and_silent() -> None:
    """No alert is without both."""
    checks = [
        check
        for case in CASES
        for test in yaml.safe_load(case.read_text(encoding="utf-8"))["tests"]
        for check in test.get("alert_rule_test", [])
    ]
    assert {check["alertname"] for check in checks if check["exp_alerts"]} == ALERTS.keys()
    assert {check["alertname"] for check in checks if not check["exp_alerts"]} == ALERTS.keys()


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_leads_to_its_runbook(name: str) -> None:
    """The section is there, and says what users see, where to look first, what to do, and when to call somebody."""
    page = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {name}\n(.*?)(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL)
    assert ALERTS[name]["annotations"]["runbook_url"].endswith(f"docs/runbooks.md#{name.lower()}")
    assert section.strip().startswith(f"**{ALERTS[name]['labels']['severity']}.**")
    for word in ("Users see", "First look", "do", "Escalate"):
        assert re.search(rf"\*\*{word}\*\*", section, flags=re.IGNORECASE), word


def test_what_alerts_compare_with_stands_in_one_file() -> None:
    """But for 0, and for the factors of the error budget and of a queue that does not shrink."""
    compared = [
        (name, number)
        for name, rule in ALERTS.items()
        for number in re.findall(r"[<>]=?(?: on \(\))?(?: group_left \(\))? ([\d.]+)", rule["expr"])
        if float(number) != 0
    ]
    assert {name for name, _ in compared} == {"ErrorBudgetBurnsFast", "ErrorBudgetBurnsSlowly", "QueueGrowing"}


def test_no_section_is_without_its_alert() -> None:
    """What is no alert any more has no runbook, and no link of the page leads nowhere."""
    page = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (\w+)$", page, flags=re.MULTILINE)) == ALERTS.keys()
    assert set(re.findall(r"\]\(#(\w+)\)", page)) <= {name.lower() for name in ALERTS}


def test_the_error_budget_is_spent_by_every_failure_of_ours() -> None:
    """The codes in the recording rule are those of gateway/errors.py with a status from 500 on, and a full one's."""
    (rule,) = re.findall(
        r"record: tidegate:request_errors:rate5m\n(.*?)- ",
        (RULES / "recording.yml").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    counted = {code for codes in re.findall(r'outcome=~"([\w|]+)"', rule) for code in codes.split("|")}
    assert counted == failures_of_ours()


class Notified(queue.Queue[dict[str, Any]]):
    """A webhook's notifications, one alert each."""

    def until(self, name: str, status: str, seconds: float = 40) -> dict[str, Any]:
        """The next one of that alert and status; what else arrives meanwhile is passed over."""
        while True:
            alert = self.get(timeout=seconds)
            if alert["labels"]["alertname"] == name and alert["status"] == status:
                return alert


@contextmanager
def webhook() -> Iterator[tuple[str, Notified]]:
    """A receiver: its URL, and what it is told."""
    notified = Notified()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            for alert in json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"]:
                notified.put(alert)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", notified
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_follows_from_a_dead_triton_is_not_told(tmp_path: Path) -> None:
    """A real Alertmanager with the shipped rules: the instance and the budget are Triton's fault, a gateway's is not;
    of two alerts that a certificate ends, the urgent one is told, for its instance."""
    fired = [
        {"alertname": "TritonDown"},
        {"alertname": "InstanceDown", "job": "tidegate/triton", "instance": "t1"},
        {"alertname": "InstanceDown", "job": "gateway", "instance": "g1"},
        {"alertname": "ErrorBudgetBurnsFast"},
        {"alertname": "FirstTokenSlow", "model": "generate"},
        {"alertname": "CertificateExpires", "instance": "g1"},
        {"alertname": "CertificateExpiresSoon", "instance": "g1"},
        {"alertname": "CertificateExpiresSoon", "instance": "g2"},
    ]
    (port,) = free_ports(1)
    alerts = f"http://127.0.0.1:{port}/api/v2/alerts"
    body = json.dumps([{"labels": labels} for labels in fired]).encode()
    with webhook() as (url, notified):
        alertmanager = Alertmanager(tmp_path, port, url, {"group_wait": "2s"})
        alertmanager.start()
        try:
            urllib.request.urlopen(urllib.request.Request(alerts, body, {"Content-Type": "application/json"})).close()
            told = [notified.get(timeout=40)["labels"] for _ in range(4)]
            with urllib.request.urlopen(alerts) as response:
                kept = [each["labels"] for each in json.load(response) if each["status"]["inhibitedBy"]]
        finally:
            alertmanager.stop()
    assert all(each in told for each in (fired[0], fired[2], fired[5], fired[7]))
    assert all(each in kept for each in (fired[1], fired[3], fired[4], fired[6]))


def hurried(folder: Path) -> Path:
    """The shipped rules with every ``for`` a second, so that a test need not wait for minutes; nothing else differs."""
    for path in RULES.glob("*.yml"):
        text = re.sub(r"^( +)for: \w+$", r"\1for: 1s", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        (folder / path.name).write_text(text, encoding="utf-8")
    return folder


def test_a_broken_policy_and_a_dead_triton_reach_whoever_is_on_call(tmp_path: Path) -> None:
    """From the gateway and Triton over Prometheus and Alertmanager to a webhook: both fire, and the mended one ends."""
    (port,) = free_ports(1)
    rules = tmp_path / "rules"
    rules.mkdir()
    with webhook() as (url, notified):
        quick = {"group_wait": "0s", "group_interval": "1s"}
        alertmanager = Alertmanager(tmp_path / "alertmanager", port, url, quick)
        alertmanager.start()
        try:
            with everyday(tmp_path, hurried(rules), f"127.0.0.1:{port}") as running:
                good = running.policy_file.read_text(encoding="utf-8")
                running.policy_file.write_text(BROKEN_POLICY, encoding="utf-8")
                told = notified.until("PolicyReloadFailing", "firing")
                assert told["annotations"]["runbook_url"] == "docs/runbooks.md#policyreloadfailing"
                running.policy_file.write_text(good, encoding="utf-8")
                notified.until("PolicyReloadFailing", "resolved")
                running.stack.triton.stop(TRITON_GRACE_SECONDS)
                told = notified.until("TritonDown", "firing")
                assert told["annotations"]["summary"] == "no Triton answers"
                assert told["labels"]["severity"] == "page"
        finally:
            alertmanager.stop()
