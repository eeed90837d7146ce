"""A real Triton, a gateway with everything switched on (policy, moderators, quotas, prices, record, feedback), and a
real Prometheus that scrapes both every second."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import INT8_REPOSITORY, ROOT, free_ports
from deploy.local import stack as local
from deploy.local.observers import RULES, Prometheus
from deploy.local.triton_server import Ports
from gateway.access import mint

POLICY = """
version: "{version}"
lists:
  - {{name: forbidden, words: [forbidden thing], action: block, category: weapons}}
  - {{name: unspoken, words: [Berlin], action: block, apply: [output], category: secrecy}}
  - {{name: names, words: [Paris], action: redact, apply: [output], category: names}}
  - {{name: topics, words: [France, Germany], action: flag, apply: [input], category: geography}}
patterns:
  - {{use: email, action: redact, category: personal}}
moderators:
  - {{name: calm, kind: python, entry_point: "benchmarks.everyday.judges:calm"}}
  - {{name: shaky, kind: python, entry_point: "benchmarks.everyday.judges:down", options: {{one_in: {one_in}}},
      on_error: allow, apply: [input], breaker: {{failures: 2, cool_down_seconds: 3}}}}
"""
BROKEN_POLICY = "version: broken\nlists: [{name: nothing}]\n"
QUOTAS = """
default: standard
classes: {standard: {}}
tenants:
  bolt: {requests_per_second: 1, concurrent_streams: 1}
  crumb: {tokens_per_minute: 40}
"""
PRICES = "currency: EUR\nmodels: {generate: {input: 200, output: 800}}\n"
TENANTS = ("acme", "bolt", "crumb", "delta")


@dataclass(frozen=True)
class Everyday:
    """What runs, and where its files are."""

    stack: local.Stack
    prometheus: Prometheus
    folder: Path
    one_in: int
    """Of so many checks one moderator fails two."""

    @property
    def policy_file(self) -> Path:
        """The policy in force, which may be replaced."""
        return self.folder / "policy.yaml"

    def take_policy(self, version: str) -> None:
        """Put this version of the policy into force."""
        self.policy_file.write_text(POLICY.format(version=version, one_in=self.one_in), encoding="utf-8")

    def token(self, tenant: str) -> str:
        """Of a person of that tenant, valid for an hour."""
        key = self.stack.key_file().read_text(encoding="utf-8").strip()
        return mint(
            key, audience="tidegate", issuer="tidegate", subject="ann", tenant=tenant, scope="generate",
            lifetime_seconds=3600,
        )  # fmt: skip


@contextlib.contextmanager
def everyday(
    folder: Path,
    rules: Path = RULES,
    alertmanager: str = "",
    *,
    repository: Path = INT8_REPOSITORY,
    one_in: int = 12,
) -> Iterator[Everyday]:
    """All of it, stopped at the end."""
    gateway, http, grpc, metrics, prometheus = free_ports(5)
    stack = local.Stack(repository, folder / "run", gateway, Ports(http, grpc, metrics))
    targets = {"gateway": [f"127.0.0.1:{gateway}"], "triton": [f"127.0.0.1:{metrics}"]}
    watching = Prometheus(folder / "prometheus", prometheus, targets, rules=rules, alertmanager=alertmanager)
    each = Everyday(stack, watching, folder, one_in)
    each.take_policy("2026-11-24")
    try:
        local.start_triton(stack)
        stack.gateway.start([sys.executable, "-m", "gateway", "serve"], _settings(each))
        local.start(stack)
        watching.start()
        yield each
    finally:
        watching.stop()
        local.stop(stack)


def _settings(each: Everyday) -> dict[str, str]:
    folder = each.folder
    (folder / "quotas.yaml").write_text(QUOTAS, encoding="utf-8")
    (folder / "prices.yaml").write_text(PRICES, encoding="utf-8")
    settings = {
        "POLICY_FILE": each.policy_file,
        "POLICY_RELOAD_SECONDS": 0.5,
        "QUOTA_FILE": folder / "quotas.yaml",
        "PRICE_FILE": folder / "prices.yaml",
        "AUDIT_FILE": folder / "audit.jsonl",
    }
    environment = each.stack.gateway_environment()
    environment |= {f"TIDEGATE_{name}": str(value) for name, value in settings.items()}
    return environment | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
