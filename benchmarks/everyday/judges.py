"""Moderators for a stack that is to show everything: one that works, one that is down."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from gateway.policy.verdict import Context, Verdict


class Calm:
    """Takes some milliseconds, now and then a few more, and allows everything."""

    async def check(self, segment: str, context: Context) -> Verdict:
        """Allow."""
        await asyncio.sleep(random.lognormvariate(-5, 0.6))
        return Verdict()


class Down:
    """Fails whenever it is asked about one text in so many."""

    def __init__(self, one_in: int) -> None:
        self._one_in = one_in

    async def check(self, segment: str, context: Context) -> Verdict:
        """Allow, or fail."""
        if random.randrange(self._one_in) == 0:
            raise ConnectionError
        return Verdict()


def calm(options: dict[str, Any]) -> Calm:
    """A factory."""
    return Calm()


def down(options: dict[str, Any]) -> Down:
    """A factory; ``one_in`` says how often it fails."""
    return Down(options["one_in"])
