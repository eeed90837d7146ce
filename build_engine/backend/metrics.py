"""The backend's own series, on Triton's metrics port.

Setting one value is a round trip to the server process, so values are collected and handed over a few times
a second.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import triton_python_backend_utils as pb_utils

from .scheduler import Totals

log = logging.getLogger(__name__)

PUBLISH_SECONDS = 0.25

_COUNTERS = {
    "tidegate_backend_engine_errors_total": "Steps or rows that the engine failed.",
    "tidegate_backend_cancelled_total": "Requests that were left before their last token.",
    "tidegate_backend_wasted_tokens_total": "Tokens fed and sampled for requests that were left.",
}
_GAUGES = {
    "tidegate_backend_running_sequences": "Sequences that hold room in the KV cache.",
    "tidegate_backend_kv_tokens_free": "Tokens that the KV cache can still reserve.",
    "tidegate_backend_kv_tokens_capacity": "Tokens that the whole KV cache can hold.",
    "tidegate_backend_step_rows": "Rows of the last step.",
}
_TOKENS = "tidegate_backend_tokens_total"


class TritonMeter:
    """A :class:`~.scheduler.Meter` that publishes through Triton. Where Triton has its metrics switched off
    it says so once in the log and counts nothing.
    """

    def __init__(self, model: str, version: str, kv_tokens_capacity: int) -> None:
        self._labels = {"model": model, "version": version}
        self._families: list[Any] = []
        self._series: dict[str, Any] = {}
        self._sent: dict[str, float] = {}
        self._next = 0.0
        try:
            self._register()
        except pb_utils.TritonModelException as error:
            log.error("no tidegate_backend_* metrics: Triton refused to register them: %s", error)
            self._series = {}
        self._set("tidegate_backend_kv_tokens_capacity", kv_tokens_capacity)

    def _register(self) -> None:
        family = pb_utils.MetricFamily
        for name, text in _COUNTERS.items():
            self._add(name, family(name=name, description=text, kind=family.COUNTER))
        for name, text in _GAUGES.items():
            self._add(name, family(name=name, description=text, kind=family.GAUGE))
        tokens = family(name=_TOKENS, description="Tokens fed and sampled.", kind=family.COUNTER)
        for kind in ("prompt", "completion"):
            self._add(_TOKENS + kind, tokens, kind=kind)

    def _add(self, key: str, family: Any, **labels: str) -> None:
        self._families.append(family)
        self._series[key] = family.Metric(labels={**self._labels, **labels})

    def _set(self, key: str, value: float) -> None:
        """Publish ``value``, for a counter by what it grew, unless it is what Triton already has."""
        grown = value - self._sent.get(key, 0.0)
        if key not in self._series or (grown == 0 and key in self._sent):
            return
        if key in _GAUGES:
            self._series[key].set(value)
        else:
            self._series[key].increment(grown)
        self._sent[key] = value

    def publish(self, totals: Totals, *, idle: bool) -> None:
        """See :meth:`~.scheduler.Meter.publish`."""
        now = time.monotonic()
        if now < self._next and not idle:
            return
        self._next = now + PUBLISH_SECONDS
        self._set("tidegate_backend_engine_errors_total", totals.engine_errors)
        self._set("tidegate_backend_cancelled_total", totals.cancelled)
        self._set("tidegate_backend_wasted_tokens_total", totals.wasted_tokens)
        self._set("tidegate_backend_running_sequences", totals.running)
        self._set("tidegate_backend_kv_tokens_free", totals.kv_tokens_free)
        self._set("tidegate_backend_step_rows", totals.step_rows)
        self._set(_TOKENS + "prompt", totals.prompt_tokens)
        self._set(_TOKENS + "completion", totals.completion_tokens)
