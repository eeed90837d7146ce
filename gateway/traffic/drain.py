"""The end of a gateway's life: not ready any more, then cut what still runs."""

from __future__ import annotations

from collections.abc import Callable


class Drain:
    """``draining`` is true from SIGTERM on; :meth:`cut` ends what is still running when the time of grace is over."""

    def __init__(self) -> None:
        self.draining = False
        self._cuts: list[Callable[[], None]] = []

    def on_cut(self, cut: Callable[[], None]) -> None:
        """Also call ``cut``."""
        self._cuts.append(cut)

    def cut(self) -> None:
        """End what still runs."""
        for each in self._cuts:
            each()
