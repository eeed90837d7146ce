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
from build_engine.pipeline import build
from build_engine.recipe import Recipe
from deploy.grafana.shown import Target, boards, document, panels
from deploy.local.demo_model import demo_model
from deploy.local.observers import Prometheus

IMAGES = ROOT / "docs" / "images"
ROOM = 768
"""Tokens that the model's cache has room for: few, so that a crowd has to wait."""
STEPS = 150
SCRAPES = 10
"""Points of a line, and scrapes that a rate looks back over."""
EASE, TROUBLE, ONE_IN = 6.0, 0.3, 2000
"""A picture is of a service that is mostly well: it is not overwhelmed, and answers and checks seldom fail."""


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboard_pictures", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="how long people use the service before the picture")
    parser.add_argument("--to", type=Path, default=IMAGES, help="the folder of the pictures")
    options = parser.parse_args(argv)
    options.to.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as name,
        everyday(Path(name), repository=built(Path(name)), one_in=ONE_IN) as running,
    ):
        began = time.time()
        seen = asyncio.run(live(running, options.seconds, ease=EASE, trouble=TROUBLE, crowd=True))
        sys.stdout.write(f"visits: {dict(seen)}\n")
        for board in boards():
            path = options.to / f"dashboard-{board}.png"
            picture(running.prometheus, board, began + SCRAPES, began + options.seconds, path)
            sys.stdout.write(f"{path}\n")
    return 0


def built(folder: Path) -> Path:
    """A repository with the demo model as fp32, which is what others are compared with and needs no proof."""
    repository = folder / "models"
    source, work = demo_model(), folder / "work"
    build(Recipe(source, "generate", repository, work, precision="fp32", kv_cache_tokens=ROOM), quiet=True)
    return repository


def picture(prometheus: Prometheus, board: str, began: float, ended: float, path: Path) -> None:
    """One dashboard, from ``began`` to ``ended``."""
    span = f"{ended - began:.0f}s"
    variables = {"model": ".*", "tenant": ".*", "__rate_interval": f"{SCRAPES}s", "__range": span}

    def asked(target: Target) -> Answered:
        if target.instant:
            return Answered(target.legend, prometheus.query(target.expression, ended))
        step = (ended - began) / STEPS
        return Answered(target.legend, prometheus.query_range(target.expression, began, ended, step))

    answers = {panel.panel["id"]: [asked(target) for target in panel.targets(variables)] for panel in panels(board)}
    draw(document(board), answers, began, path)


if __name__ == "__main__":
    sys.exit(main())
