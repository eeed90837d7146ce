"""Moderators for a stack that is to show everything: one that works, one that does not always."""

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
    """Fails two times on end, whenever it has been asked about so many texts."""

    def __init__(self, one_in: int) -> None:
        self._one_in, self._asked = one_in, 0

    async def check(self, segment: str, context: Context) -> Verdict:
        """Allow, or fail."""
        self._asked += 1
        if self._asked % self._one_in < 2:
            raise ConnectionError
        return Verdict()


def calm(options: dict[str, Any]) -> Calm:
    """A factory."""
    return Calm()


def down(options: dict[str, Any]) -> Down:
    """A factory; ``one_in`` says how often it fails."""
    return Down(options["one_in"])
