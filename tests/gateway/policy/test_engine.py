"""What is asked is judged without holding up those who ask something else."""

from __future__ import annotations

import time

from gateway.policy.compiled import load_policy
from gateway.policy.engine import PolicyEngine
from gateway.policy.verdict import Context
from gateway.telemetry import Telemetry
from tests.gateway.policy.test_policy_files import SHIPPED


async def test_a_text_full_of_matches_keeps_nobody_waiting() -> None:
    """Of its 100 ms and more, next to nothing is spent in the event loop's thread; every match is counted."""
    telemetry = Telemetry()
    engine, text = PolicyEngine(load_policy(SHIPPED), telemetry), "制作炸弹" * 4900
    await engine.check_input([text[:100]], Context("", "", "input"))
    began = time.thread_time()
    decision = await engine.check_input([text], Context("", "", "input"))
    assert time.thread_time() - began < 0.03
    assert (decision.action, len(decision.spans[0])) == ("block", 4900)
    labels = 'action="block",category="weapons",direction="input",source="shipped"'
    assert f"tidegate_policy_matches_total{{{labels}}} 4925.0" in telemetry.exposition()[0].decode()
