"""From what was measured to what is tried: the ladder of int8 plans, most int8 first.

Small divergences add up, so the sum over the activations that stay int8 predicts a plan's divergence. Each rung allows
a share of the one before and keeps the costliest activations out of int8 until the sum is below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from build_engine.calibrate import Smoothing
from build_engine.decoder import DecoderConfig
from build_engine.emit_onnx_int8 import Int8Plan
from build_engine.smooth import Site, sites

STEP = 0.6


@dataclass(frozen=True)
class Rung:
    """One thing to try. ``kept`` are the projections that stay as they are, by the name of their weight."""

    what: str
    precision: str
    plan: Int8Plan
    kept: tuple[str, ...] = ()


def ladder(
    config: DecoderConfig, smoothing: Smoothing, sensitivity: dict[str, float], most_kl: float
) -> Iterator[Rung]:
    """int8 with ever more kept back, as long as something is int8. ``sensitivity``, by site, and the gate's ``most_kl``
    are in nats."""
    every = sites(config)
    budget, seen = most_kl / 2, set()  # the weights' own rounding takes its part of the gate
    while budget > most_kl / 64:
        kept = _kept(every, sensitivity, budget)
        if len(kept) == len(every):  # int8 by name alone
            return
        if kept not in seen:
            seen.add(kept)
            yield _rung(every, smoothing, kept)
        budget *= STEP


def _kept(every: list[Site], sensitivity: dict[str, float], budget: float) -> frozenset[str]:
    """The fewest sites, costliest first, without which the others cost at most ``budget``."""
    left = sum(sensitivity.values())
    kept = set()
    for site in sorted(every, key=lambda each: -sensitivity[each.name]):
        if left <= budget:
            break
        kept.add(site.name)
        left -= sensitivity[site.name]
    return frozenset(kept)


def _rung(every: list[Site], smoothing: Smoothing, kept: frozenset[str]) -> Rung:
    inputs = {name: smoothing.inputs[name] for site in every if site.name not in kept for name in site.readers}
    back = tuple(name for site in every if site.name in kept for name in site.readers)
    what = f"int8, {len(back)} of {len(smoothing.inputs)} projections kept" if back else "int8 throughout"
    return Rung(what, "int8", Int8Plan(inputs), back)
