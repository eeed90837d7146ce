"""Does the shipped autoscaler hold the first token's objective? ``python -m benchmarks.autoscaling``

Measures what a request takes here, checks the simulation against the same requests sent to the real stack, then lets
the load jump to five times itself, and run through a day, before a simulated cluster: scaled by the shipped manifest,
and by CPU. Writes the figures, the plots and the tables of docs/autoscaling.md, in about four minutes. With the
argument ``again`` it takes what was measured before, and simulates what the manifest says now.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import re
import sys
import time
from random import Random
from typing import Any

import yaml

from benchmarks import harness, hpa, plots, service_times
from benchmarks.cluster import Request
from benchmarks.service_times import ServiceTimes
from benchmarks.simulation import Load, Outcome, Scaling, run
from deploy.local.stack import Stack

MANIFEST = harness.ROOT / "deploy" / "k8s" / "base" / "autoscaling.yaml"
ADAPTER = harness.ROOT / "deploy" / "k8s" / "prometheus-adapter" / "values.yaml"
PAGE = harness.ROOT / "docs" / "autoscaling.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

OBJECTIVE_SECONDS = 0.2  # p99 to the first token, in every five minutes: the alert's threshold
LEAST_ROOM = 1.5  # but not less than so many times what it is where nobody else asks: no cluster could hold it
WINDOW_SECONDS = 300
POD_SECONDS = 20.0  # assumed: to schedule a pod and start its container, image on the node, and for its readiness probe
QUIET_SHARE = 0.4  # the quiet hour's load, in what one pod can answer at most
CPU_TARGETS = (70, 90)
REPLAY_SECONDS, REPLAY_SHARE = 60.0, 0.4


def main() -> None:
    """Measure or read, simulate, write."""
    if sys.argv[1:] == ["again"]:
        figures = json.loads((harness.RESULTS / "autoscaling.json").read_text(encoding="utf-8"))
    else:
        figures = measured()
    times, most = ServiceTimes(**figures["service_times"]), figures["most_requests_per_second_and_pod"]
    figures["alone_p99_seconds"] = alone(times)
    figures["objective_seconds"] = objective = max(OBJECTIVE_SECONDS, LEAST_ROOM * figures["alone_p99_seconds"])
    figures["loads"] = {}
    for load in loads(most):
        outcomes = {name: simulate(times, load, scaling) for name, scaling in scalings().items()}
        plots.draw(load, outcomes, objective, harness.ROOT / "docs" / "images" / f"autoscaling-{load.name}.png")
        figures["loads"][load.name] = {name: summary(outcome, load, objective) for name, outcome in outcomes.items()}
    harness.save("autoscaling", figures)
    write_page(figures)


def measured() -> dict[str, Any]:
    """What the simulation starts from, and how it compares with the real stack."""
    began = time.monotonic()
    with harness.running_stack() as stack:
        times = asyncio.run(service_times.measure(stack, time.monotonic() - began))
        most = capacity(times)
        real = asyncio.run(replay(stack, Load("replay", REPLAY_SECONDS, REPLAY_SHARE * most, lambda _: 1e9)))
    again = [dataclasses.replace(each, first=None) for each in real]
    simulated = run(times, again, None, pods=1, gateways=1, random=Random(1))
    return {
        "machine": harness.machine(),
        "service_times": dataclasses.asdict(times),
        "most_requests_per_second_and_pod": most,
        "pod_start_seconds": times.start_seconds + POD_SECONDS,
        "replay": {"requests": len(real), "real": _spread(Outcome(real)), "simulated": _spread(simulated)},
    }


def loads(most: float) -> list[Load]:
    """A quiet hour with twenty minutes of five times its load, at once; and a day within two hours, from the quiet
    hour's load to ten times it.
    """
    quiet = QUIET_SHARE * most
    day = 7200.0
    return [
        Load("step", 2700.0, 5 * quiet, lambda now: 5 * quiet if 600 <= now < 1800 else quiet),
        Load("day", day, 10 * quiet, lambda now: quiet * (1 + 9 * (1 - math.cos(2 * math.pi * now / day)) / 2)),
    ]


def scalings() -> dict[str, Scaling]:
    """The shipped autoscaler; and CPU, with the shipped bounds and behaviour."""
    shipped = hpa.read(MANIFEST, "triton")
    cores = float(harness.machine()["cores"])
    found = {"shipped": Scaling(shipped, "requests", query_window(), cores)}
    for target in CPU_TARGETS:
        found[f"CPU at {target} %"] = Scaling(dataclasses.replace(shipped, target=target), "cpu", 0.0, cores)
    return found


def query_window() -> float:
    """Over how many seconds the adapter's query averages."""
    (rule,) = yaml.safe_load(ADAPTER.read_text(encoding="utf-8"))["rules"]["custom"]
    (seconds,) = set(re.findall(r"\[(\d+)s\]", rule["metricsQuery"]))
    return float(seconds)


def capacity(times: ServiceTimes) -> float:
    """Requests a second that one pod answers when more than it can do wait."""
    random = Random(1)
    load = Load("flood", 120.0, 4.0 / times.step(1, 0) / 10, lambda _: 1e9)
    outcome = run(times, load.requests(random), None, pods=1, gateways=1, random=random)
    return sum(each.first is not None and each.first < load.seconds for each in outcome.requests) / load.seconds


def alone(times: ServiceTimes) -> float:
    """Seconds to the first token of the 99th of 100 requests if each had a pod to itself."""
    asked = Load("alone", 1000.0, 10.0, lambda _: 1e9).requests(Random(5))
    return harness.percentile([times.step(0, each.prompt) for each in asked], 0.99)


def simulate(times: ServiceTimes, load: Load, scaling: Scaling) -> Outcome:
    """One autoscaler under one load; the same arrivals for each."""
    return run(
        times,
        load.requests(Random(7)),
        scaling,
        pods=scaling.settings.least,
        start_seconds=times.start_seconds + POD_SECONDS,
        random=Random(11),
    )


async def replay(stack: Stack, load: Load) -> list[Request]:
    """Send the load to the real stack. Returns what was asked, with the prompts' real lengths and first tokens."""
    asked = load.requests(Random(3))

    async def one(session: Any, number: int, request: Request) -> Request:
        await asyncio.sleep(began + request.arrived - time.monotonic())
        arrived = time.monotonic()
        texts, tokens = await service_times.stream(
            session, service_times.prompt(request.prompt, number), request.output
        )
        return Request(arrived - began, tokens, request.output, first=texts[0] - began)

    async with harness.gateway_client(stack) as session:
        began = time.monotonic() + 1
        found = await asyncio.gather(*(one(session, number, request) for number, request in enumerate(asked)))
    return sorted(found, key=lambda each: each.arrived)


def summary(outcome: Outcome, load: Load, objective: float) -> dict[str, Any]:
    """What counts: the objective in every window, and what it cost."""
    windows = [outcome.ttft(start, start + WINDOW_SECONDS) for start in range(0, int(load.seconds), WINDOW_SECONDS)]
    late, late_for_alert = (sum(each > most for each in outcome.ttft()) for most in (objective, OBJECTIVE_SECONDS))
    worst = max(harness.percentile(each, 0.99) for each in windows)
    return {
        "requests": len(outcome.requests),
        "late_share": late / len(outcome.requests),
        "late_for_alert_share": late_for_alert / len(outcome.requests),
        "p99_seconds": harness.percentile(outcome.ttft(), 0.99),
        "worst_window_p99_seconds": worst,
        "held": worst <= objective,
        "pod_hours": outcome.pod_hours(),
        "most_pods": max(wanted for _, wanted, _ in outcome.replicas),
    }


def _spread(outcome: Outcome) -> dict[str, float]:
    found = outcome.ttft()
    return {f"p{share * 100:.0f}_seconds": harness.percentile(found, share) for share in (0.5, 0.9, 0.99)}


def write_page(figures: dict[str, Any]) -> None:
    """Renew the tables of the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(before + table(figures) + rest.partition(END)[2], encoding="utf-8")


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    times, replayed, machine = figures["service_times"], figures["replay"], figures["machine"]
    lines = [
        BEGIN,
        f"Measured on {machine['cores']} cores of {machine['cpu']}, {machine['date']}. A pod answers "
        f"{figures['most_requests_per_second_and_pod']:.1f} requests a second at most; it is ready "
        f"{figures['pod_start_seconds']:.0f} s after it is wanted.",
        "",
        "| sequences that decode together | " + " | ".join(str(each) for each in times["rows"]) + " |",
        "|---|" + "---|" * len(times["rows"]),
        "| a step, ms | " + " | ".join(f"{1000 * each:.1f}" for each in times["decode_seconds"]) + " |",
        "| cores used | " + " | ".join(f"{each:.1f}" for each in times["cpu_cores"]) + " |",
        "",
        f"A prompt's token adds {1000 * times['prefill_token_seconds']:.2f} ms to a step. If each request had a pod to "
        f"itself, 99 of 100 would have their first token within {1000 * figures['alone_p99_seconds']:.0f} ms. The "
        f"objective: within {1000 * figures['objective_seconds']:.0f} ms.",
        "",
        f"| first tokens of {replayed['requests']} requests in {REPLAY_SECONDS:.0f} s on one pod | p50 | p90 | p99 |",
        "|---|---|---|---|",
    ]
    for name in ("real", "simulated"):
        lines.append(f"| {name} | " + " | ".join(f"{1000 * each:.0f} ms" for each in replayed[name].values()) + " |")
    lines += [
        "",
        "| load | scaled by | worst p99 of 5 minutes | later than the objective | than the alert's 200 ms "
        "| holds | pod-hours | most pods |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for load, outcomes in figures["loads"].items():
        for name, each in outcomes.items():
            late = f"{each['late_share']:.2%} | {each['late_for_alert_share']:.2%}"
            lines.append(
                f"| {load} | {name} | {1000 * each['worst_window_p99_seconds']:.0f} ms | {late} | "
                f"{'yes' if each['held'] else '**no**'} | {each['pod_hours']:.1f} | {each['most_pods']} |"
            )
    lines += ["", *(f"![{name}](images/autoscaling-{name}.png)" for name in figures["loads"])]
    return "\n".join([*lines, END])


if __name__ == "__main__":
    main()
