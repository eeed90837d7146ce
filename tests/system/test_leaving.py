"""A client that leaves frees its place in the batch, and a full queue is answered at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx
import pytest

from deploy.local.stack import Stack

from .conftest import backend_metric

LONG = {"text_input": "Count to ten thousand: 1, 2, 3,", "max_tokens": 1500, "ignore_eos": True}


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Poll ``condition``; fail when it has not come true in ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_slot(stack: Stack, auth: dict[str, str], stream: bool) -> None:
    """Streaming or not, the sequence leaves the batch long before its 1,500 tokens are made, and is counted."""
    cancelled = backend_metric(stack, "tidegate_backend_cancelled_total")
    async with httpx.AsyncClient(base_url=stack.url, headers=auth, timeout=60) as client:
        request = asyncio.create_task(client.post("/generate", json={**LONG, "stream": stream}))
        await asyncio.to_thread(until, lambda: backend_metric(stack, "tidegate_backend_running_sequences") == 1)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    await asyncio.to_thread(until, lambda: backend_metric(stack, "tidegate_backend_running_sequences") == 0, 2.0)
    assert backend_metric(stack, "tidegate_backend_cancelled_total") == cancelled + 1


async def test_a_full_queue_refuses_at_once_and_recovers(stack: Stack, auth: dict[str, str]) -> None:
    """Past Triton's queue the answer is 503 `overloaded` with Retry-After; when the others leave, it serves again."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=stack.url, headers=auth, timeout=60, limits=limits) as client:
        requests = [asyncio.create_task(client.post("/generate", json=LONG)) for _ in range(130)]
        done, waiting = await asyncio.wait(requests, timeout=8)
        for request in waiting:
            request.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        refused = [task.result() for task in done]
        assert refused, "nothing was refused"
        assert {response.status_code for response in refused} == {503}
        assert {response.json()["error"]["code"] for response in refused} == {"overloaded"}
        assert all(int(response.headers["retry-after"]) >= 1 for response in refused)
        await asyncio.to_thread(until, lambda: backend_metric(stack, "tidegate_backend_running_sequences") == 0)
        assert (await client.post("/generate", json={"text_input": "hi", "max_tokens": 4})).status_code == 200
