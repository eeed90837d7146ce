"""``python -m deploy.prometheus`` writes the rules as the Prometheus Operator's objects, for `monitors`."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

RULES = Path(__file__).resolve().parent / "rules"
TARGET = RULES.parents[1] / "k8s" / "components" / "monitors" / "rules.yaml"
HEAD = "# Written by `python -m deploy.prometheus` from deploy/prometheus/rules: change them there.\n"


def generated() -> str:
    """One PrometheusRule for each file of rules."""
    documents = [
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": f"tidegate-{file.stem}", "namespace": "tidegate"},
            "spec": yaml.safe_load(file.read_text(encoding="utf-8")),
        }
        for file in sorted(RULES.glob("*.yml"))
    ]
    return HEAD + yaml.safe_dump_all(documents, sort_keys=False, width=118, allow_unicode=True)


def main() -> int:
    """Entry point."""
    TARGET.write_text(generated(), encoding="utf-8")
    sys.stdout.write(f"{TARGET}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
