"""The autoscaler and the cluster that docs/autoscaling.md is simulated with do what Kubernetes and the backend do."""

from __future__ import annotations

from random import Random

import pytest

from benchmarks import autoscaling, hpa
from benchmarks.cluster import Request
from benchmarks.hpa import Autoscaler, Direction, Policy, Settings
from benchmarks.service_times import ServiceTimes
from benchmarks.simulation import Load, Scaling, run

FREE = Direction(0.0, (Policy("Percent", 1000, 15.0),))
TIMES = ServiceTimes([1, 2, 64], [0.010, 0.012, 0.136], [1.0, 1.0, 2.0], 0.010, 0.001, 5.0)


def scaler(replicas: int, up: Direction = FREE, down: Direction = FREE, most: int = 100) -> Autoscaler:
    return Autoscaler(Settings(1, most, 10.0, up, down), replicas)


@pytest.mark.parametrize(("values", "wanted"), [([20.0] * 3, 6), ([5.0] * 4, 2), ([10.9] * 5, 5), ([9.1] * 5, 5)])
def test_the_ratio_decides_outside_the_tolerance(values: list[float], wanted: int) -> None:
    """ceil(replicas x value / target), and nothing within a tenth of the target."""
    assert scaler(len(values)).sync(0.0, values) == wanted


def test_pods_that_are_not_ready_dampen() -> None:
    """More are wanted as if they had nothing to do: ten pods, of which five have thrice their target, are fifteen; and
    a change of direction is no change.
    """
    assert scaler(10).sync(0.0, [30.0] * 5) == 15
    assert scaler(10).sync(0.0, [15.0] * 5) == 10
    assert scaler(10).sync(0.0, [1.0] * 5) == 6


def test_down_waits_for_its_window() -> None:
    """What was wanted most within the window counts."""
    each = scaler(10, down=Direction(60.0, (Policy("Percent", 100, 15.0),)))
    assert each.sync(0.0, [10.0] * 10) == 10
    assert each.sync(15.0, [1.0] * 10) == 10
    assert each.sync(59.0, [1.0] * 10) == 10
    assert each.sync(61.0, [1.0] * 10) == 1


def test_policies_bound_a_period() -> None:
    """Of two the one that allows more; and what the period has seen counts."""
    each = scaler(4, up=Direction(0.0, (Policy("Pods", 2, 60.0), Policy("Percent", 100, 60.0))))
    assert each.sync(0.0, [100.0] * 4) == 8
    assert each.sync(15.0, [100.0] * 8) == 8
    assert each.sync(61.0, [100.0] * 8) == 16


def test_bounds_hold() -> None:
    """Between least and most."""
    assert scaler(4, most=6).sync(0.0, [100.0] * 4) == 6
    assert scaler(4).sync(0.0, [0.0] * 4) == 1


def test_a_pod_takes_the_measured_times() -> None:
    """Alone: the prompt's step, then one step a token. A second prompt is fed beside the first's tokens."""
    one = Request(0.0, prompt=50, output=11)
    run(TIMES, [one], None, pods=1, gateways=1, random=Random(1))
    assert one.first == pytest.approx(0.010 + 50 * 0.001)
    first, second = Request(0.0, prompt=50, output=100), Request(0.1001, prompt=50, output=10)
    run(TIMES, [first, second], None, pods=1, gateways=1, random=Random(1))
    assert second.first == pytest.approx(0.110 + 0.010 + 50 * 0.001)


def test_nobody_is_lost_when_pods_come_and_go() -> None:
    """Every request of a load under an autoscaler gets its first token."""
    load = Load("waves", 600.0, 30.0, lambda now: 30.0 if now % 200 < 100 else 1.0)
    scaling = Scaling(Settings(1, 20, 2.0, FREE, FREE), "requests", 15.0, 2.0)
    outcome = run(TIMES, load.requests(Random(1)), scaling, pods=1, start_seconds=10.0, random=Random(2))
    assert len(outcome.requests) > 5000
    assert all(each.first is not None and each.first > each.arrived for each in outcome.requests)
    assert max(wanted for _, wanted, _ in outcome.replicas) > 2


def test_the_shipped_settings_are_read() -> None:
    """The manifest and the adapter's query are what is simulated."""
    shipped = hpa.read(autoscaling.MANIFEST, "triton")
    assert shipped.least < shipped.most
    assert shipped.target > 0
    assert autoscaling.query_window() > 0
