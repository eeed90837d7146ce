"""How an answered call ends: by itself, a moment later, and not by a cancellation.

A cancellation that meets the end of its request makes Triton 2.51 keep the request, and with it the model's version,
for ever (server pull request 8078).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc

ENDING_SECONDS = 5.0


class Endings:
    """Calls that have been answered and are read to their end, at most for so long."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def let_end(self, call: Any) -> None:
        """Read a call of which nothing more is expected."""
        ending = asyncio.create_task(_to_its_end(call))
        self._tasks.add(ending)
        ending.add_done_callback(self._tasks.discard)


async def _to_its_end(call: Any) -> None:
    overdue = asyncio.get_running_loop().call_later(ENDING_SECONDS, call.cancel)
    with contextlib.suppress(grpc.RpcError, asyncio.CancelledError):
        async for _ in call:
            pass
    overdue.cancel()
