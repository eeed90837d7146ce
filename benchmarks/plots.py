"""Pictures for the docs."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

from benchmarks import harness
from benchmarks.simulation import Load, Outcome

mpl.use("Agg")
from matplotlib import pyplot as plt

SLICE_SECONDS = 60


def draw(load: Load, outcomes: dict[str, Outcome], objective: float, path: Path) -> None:
    """Load, pods and time to the first token over time, one line an autoscaler."""
    figure, (rate, pods, ttft) = plt.subplots(3, 1, figsize=(9, 8), sharex=True, height_ratios=(1, 2, 2))
    ticks = list(range(0, int(load.seconds), SLICE_SECONDS))
    minutes = [tick / 60 for tick in ticks]
    seconds = range(int(load.seconds))
    rate.plot([each / 60 for each in seconds], [load.rate(each) for each in seconds], color="black")
    rate.set_ylabel("requests/s")
    for name, outcome in outcomes.items():
        times = [at / 60 for at, _, _ in outcome.replicas]
        (line,) = pods.step(times, [ready for _, _, ready in outcome.replicas], where="post", label=name)
        pods.step(times, [all_ for _, all_, _ in outcome.replicas], where="post", color=line.get_color(), alpha=0.3)
        slices = [outcome.ttft(tick, tick + SLICE_SECONDS) or [0.0] for tick in ticks]
        ttft.plot(minutes, [1000 * harness.percentile(each, 0.99) for each in slices], color=line.get_color())
    pods.set_ylabel("pods: ready, wanted (pale)")
    pods.legend(loc="upper right")
    ttft.axhline(1000 * objective, color="black", linestyle="--", linewidth=1)
    ttft.set_ylabel("p99 of a minute, ms to first token")
    ttft.set_yscale("log")
    ttft.set_xlabel("minutes")
    for each in (rate, pods, ttft):
        each.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
