"""One run of a cluster under a load and an autoscaler: arrivals, steps, scrapes and decisions in the order of time."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Literal

from benchmarks.cluster import Cluster, Member, Pod, Request
from benchmarks.hpa import SYNC_SECONDS, Autoscaler, Settings
from benchmarks.service_times import ServiceTimes

SCRAPE_SECONDS = 5.0
METRICS_SERVER_SECONDS = 15.0  # how often it reads the kubelets, and over how long it averages
REQUEST_SECONDS = 120.0  # the gateway's limit
SIGMA, LONGEST_TOKENS = 0.6, 512  # of the lognormal lengths
Metric = Literal["requests", "cpu"]


@dataclass(frozen=True)
class Load:
    """``rate(t)`` requests a second until ``seconds``, never more than ``most``; lengths are lognormal around means."""

    name: str
    seconds: float
    most: float
    rate: Callable[[float], float]
    prompt_tokens: float = 80.0
    output_tokens: float = 80.0

    def requests(self, random: Random) -> list[Request]:
        """A Poisson process of that rate, by thinning."""
        found: list[Request] = []
        now = 0.0
        while True:
            now += random.expovariate(self.most)
            if now >= self.seconds:
                return found
            if random.random() * self.most < self.rate(now):
                found.append(Request(now, _length(random, self.prompt_tokens), _length(random, self.output_tokens)))


def _length(random: Random, mean: float) -> int:
    drawn = random.lognormvariate(math.log(mean) - SIGMA**2 / 2, SIGMA)
    return max(1, min(LONGEST_TOKENS, round(drawn)))


@dataclass
class Outcome:
    """``requests`` in order of arrival; ``replicas`` as (time, wanted, ready)."""

    requests: list[Request]
    replicas: list[tuple[float, int, int]] = field(default_factory=list)

    def ttft(self, since: float = 0.0, until: float = float("inf")) -> list[float]:
        """Seconds to the first token of what arrived then; unanswered ones count as the gateway's limit."""
        return [
            REQUEST_SECONDS if each.first is None else min(each.first - each.arrived, REQUEST_SECONDS)
            for each in self.requests
            if since <= each.arrived < until
        ]

    def pod_hours(self) -> float:
        """What ran or was starting."""
        return sum(wanted for _, wanted, _ in self.replicas) * SYNC_SECONDS / 3600


@dataclass(frozen=True)
class Scaling:
    """How pods are scaled: by what, to which settings; ``window`` is what the query averages over."""

    settings: Settings
    metric: Metric
    window_seconds: float
    cores: float

    def value(self, samples: deque[tuple[float, float, float]], now: float) -> float:
        """A pod's metric from its samples (time, requests, CPU seconds so far)."""
        if self.metric == "requests":
            recent = [value for at, value, _ in samples if at > now - self.window_seconds] or [samples[-1][1]]
            return sum(recent) / len(recent)
        readings = [each for each in samples if each[0] % METRICS_SERVER_SECONDS == 0][-2:]
        if len(readings) < 2:
            return 0.0
        (before, _, then), (after, _, later) = readings
        return 100 * (later - then) / (after - before) / self.cores


def run(
    times: ServiceTimes,
    requests: list[Request],
    scaling: Scaling | None,
    *,
    pods: int,
    gateways: int = 3,
    start_seconds: float = 0.0,
    random: Random,
) -> Outcome:
    """Simulate until the last of ``requests`` (in order of arrival) is answered; without ``scaling`` the number of pods
    stays.
    """
    cluster = Cluster(times, gateways, start_seconds, random)
    cluster.resize(0.0, pods, at_once=True)
    scaler = Autoscaler(scaling.settings, pods) if scaling else None
    outcome = Outcome(requests)
    samples: dict[int, deque[tuple[float, float, float]]] = {}
    order = count()
    events: list[tuple[float, int, str, Request | Pod | None]] = []

    def at(time: float, kind: str, what: Request | Pod | None = None) -> None:
        heapq.heappush(events, (time, next(order), kind, what))

    def goes_on(until: float | None, pod: Pod) -> None:
        if until is not None:
            at(until, "stepped", pod)

    for request in requests:
        at(request.arrived, "arrived", request)
    seconds = requests[-1].arrived
    for tick in range(int(seconds / SCRAPE_SECONDS)):
        at(tick * SCRAPE_SECONDS, "scrape")
    for tick in range(int(seconds / SYNC_SECONDS)):
        at(tick * SYNC_SECONDS + SCRAPE_SECONDS * 0.9, "sync")  # the latest scrape is almost a scrape old
    while events:
        now, _, kind, what = heapq.heappop(events)
        if kind == "arrived":
            assert isinstance(what, Request)
            pod = cluster.route(now, what)
            goes_on(pod.steps_from(now) if pod.until is None else pod.cut(now), pod)
        elif kind == "stepped":
            assert isinstance(what, Pod)
            if what.until == now:  # else it was cut, and this is the end that was planned before
                what.end_steps(now)
                goes_on(what.steps_from(now), what)
        elif kind == "scrape":
            for member in cluster.ready(now):
                _sample(samples, member, now)
        elif kind == "sync":
            members = cluster.ready(now)
            if scaler and scaling:
                values = [scaling.value(samples[id(each)], now) for each in members if id(each) in samples]
                cluster.resize(now, scaler.sync(now, values))
            staying = sum(not each.leaving for each in cluster.members)
            outcome.replicas.append((now, staying, len(cluster.ready(now))))
    return outcome


def _sample(samples: dict[int, deque[tuple[float, float, float]]], member: Member, now: float) -> None:
    kept = samples.setdefault(id(member), deque(maxlen=32))
    kept.append((now, float(member.pod.requests), member.pod.cpu_seconds))
