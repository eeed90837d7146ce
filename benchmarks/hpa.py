"""The HorizontalPodAutoscaler as Kubernetes documents it (autoscaling/v2): the ratio with its tolerance, pods that are
not ready yet, the stabilization windows and the policies of ``behavior``. Settings come from the shipped manifest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SYNC_SECONDS = 15.0
TOLERANCE = 0.1


@dataclass(frozen=True)
class Policy:
    """At most ``value`` pods, or percent of the pods, within ``period_seconds``."""

    kind: str
    value: int
    period_seconds: float


@dataclass(frozen=True)
class Direction:
    """One half of ``behavior``; of several policies the one that allows most counts."""

    stabilization_seconds: float
    policies: tuple[Policy, ...]


@dataclass(frozen=True)
class Settings:
    """``target`` is the metric's average a pod."""

    least: int
    most: int
    target: float
    up: Direction
    down: Direction


def read(manifest: Path, name: str) -> Settings:
    """The settings of the HorizontalPodAutoscaler ``name`` with one metric of type Pods."""
    documents = yaml.safe_load_all(manifest.read_text(encoding="utf-8"))
    spec = next(each["spec"] for each in documents if each["metadata"]["name"] == name)
    (metric,) = spec["metrics"]
    return Settings(
        least=spec["minReplicas"],
        most=spec["maxReplicas"],
        target=_quantity(metric["pods"]["target"]["averageValue"]),
        up=_direction(spec["behavior"]["scaleUp"]),
        down=_direction(spec["behavior"]["scaleDown"]),
    )


def _quantity(text: str) -> float:
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def _direction(found: dict[str, Any]) -> Direction:
    if found.get("selectPolicy", "Max") != "Max":
        raise ValueError("only selectPolicy: Max is simulated")
    policies = tuple(Policy(each["type"], each["value"], each["periodSeconds"]) for each in found["policies"])
    return Direction(found["stabilizationWindowSeconds"], policies)


@dataclass
class Autoscaler:
    """Decides every :data:`SYNC_SECONDS`. ``replicas`` is what it wants now."""

    settings: Settings
    replicas: int
    _recommended: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def sync(self, now: float, values: list[float]) -> int:
        """The pods wanted from now on. ``values`` are the metric's of the pods that are ready; the others count as
        nothing when there is to be more, and as exactly on target when there is to be less.
        """
        wanted = self._ratio(values)
        self._recommended.append((now, wanted))
        wanted = self._stabilized(now, wanted)
        wanted = min(max(self._limited(now, wanted), self.settings.least), self.settings.most)
        if wanted != self.replicas:
            self._changes.append((now, wanted - self.replicas))
            self.replicas = wanted
        return wanted

    def _ratio(self, values: list[float]) -> int:
        if not values:
            return self.replicas
        target, missing = self.settings.target, max(0, self.replicas - len(values))
        ratio = sum(values) / len(values) / target
        if abs(ratio - 1) <= TOLERANCE:
            return self.replicas
        if not missing:
            return math.ceil(ratio * len(values))
        filled = values + [0.0 if ratio > 1 else target] * missing
        again = sum(filled) / len(filled) / target
        if abs(again - 1) <= TOLERANCE or (again > 1) != (ratio > 1):
            return self.replicas
        return math.ceil(again * len(filled))

    def _stabilized(self, now: float, wanted: int) -> int:
        """Up: the least that was wanted within the window; down: the most."""
        up, down = self.settings.up.stabilization_seconds, self.settings.down.stabilization_seconds
        self._recommended = [each for each in self._recommended if each[0] > now - max(up, down)]
        least = min([wanted, *(count for at, count in self._recommended if at > now - up)])
        most = max([wanted, *(count for at, count in self._recommended if at > now - down)])
        return min(max(self.replicas, least), most)

    def _limited(self, now: float, wanted: int) -> int:
        if wanted > self.replicas:
            return min(wanted, max(self._allowed(now, each, 1) for each in self.settings.up.policies))
        if wanted < self.replicas:
            return max(wanted, min(self._allowed(now, each, -1) for each in self.settings.down.policies))
        return wanted

    def _allowed(self, now: float, policy: Policy, sign: int) -> int:
        changed = sum(change for at, change in self._changes if at > now - policy.period_seconds)
        before = self.replicas - changed
        if policy.kind == "Pods":
            return before + sign * policy.value
        exact = before * (1 + sign * policy.value / 100)
        return math.ceil(exact) if sign > 0 else math.floor(exact)
