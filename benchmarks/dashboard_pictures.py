"""``python -m benchmarks.dashboard_pictures [--seconds N]``: docs/images/dashboard-*.png, from a real stack under load.

The panels, their places, queries, legends and units are those of deploy/grafana/dashboards; the numbers are what a real
Prometheus answered. Grafana itself is not run.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.drawn import Answered, draw
from benchmarks.everyday.people import live
from benchmarks.everyday.setting import everyday
from benchmarks.harness import ROOT
from deploy.grafana.shown import Target, boards, document, panels
from deploy.local.observers import Prometheus

IMAGES = ROOT / "docs" / "images"
STEPS = 150
SCRAPES = 10
"""Points of a line, and scrapes that a rate looks back over."""
EASE = 4.0
"""A picture is of a service that is not overwhelmed."""


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboard_pictures", description=__doc__)
    parser.add_argument("--seconds", type=int, default=300, help="how long people use the service before the picture")
    options = parser.parse_args(argv)
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, everyday(Path(folder)) as running:
        began = time.time()
        seen = asyncio.run(live(running, options.seconds, ease=EASE))
        sys.stdout.write(f"visits: {dict(seen)}\n")
        for board in boards():
            path = IMAGES / f"dashboard-{board}.png"
            picture(running.prometheus, board, began + SCRAPES, began + options.seconds, path)
            sys.stdout.write(f"{path.relative_to(ROOT)}\n")
    return 0


def picture(prometheus: Prometheus, board: str, began: float, ended: float, path: Path) -> None:
    """One dashboard, from ``began`` to ``ended``."""
    span = f"{ended - began:.0f}s"
    variables = {"model": ".*", "tenant": ".*", "__rate_interval": f"{SCRAPES}s", "__range": span}

    def asked(target: Target) -> Answered:
        if target.instant:
            return Answered(target.legend, prometheus.query(target.expression))
        step = (ended - began) / STEPS
        return Answered(target.legend, prometheus.query_range(target.expression, began, ended, step))

    answers = {panel.panel["id"]: [asked(target) for target in panel.targets(variables)] for panel in panels(board)}
    draw(document(board), answers, began, path)


if __name__ == "__main__":
    sys.exit(main())
