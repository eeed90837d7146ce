"""The end of a gateway's life: not ready any more, then nothing new, then cut what still runs."""

from __future__ import annotations

from collections.abc import Callable


class Drain:
    """``draining`` is true from SIGTERM on. :meth:`close` shuts the doors, each with so many seconds for what runs;
    :meth:`cut` ends what is still running when the time of grace is nearly over."""

    def __init__(self) -> None:
        self.draining = False
        self._cuts: list[Callable[[], None]] = []
        self._closes: list[Callable[[float], None]] = []

    def on_close(self, close: Callable[[float], None]) -> None:
        """Also call ``close``."""
        self._closes.append(close)

    def close(self, grace_seconds: float) -> None:
        """Take nothing new."""
        for each in self._closes:
            each(grace_seconds)

    def on_cut(self, cut: Callable[[], None]) -> None:
        """Also call ``cut``."""
        self._cuts.append(cut)

    def cut(self) -> None:
        """End what still runs."""
        for each in self._cuts:
            each()
