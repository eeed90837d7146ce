"""Several processes that answer on one port: a parent that listens, starts them, and replaces one that dies.

The workers inherit the listening socket, so nothing is refused while one is being replaced. A worker whose settings do
not hold says so with its status, and another one would too: then all end with it, and whoever runs the gateway decides.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from gateway.telemetry import sharing

LOGGER = logging.getLogger("tidegate")
POLL_SECONDS = 0.1
RESTART_SECONDS = 1.0
"""Between two starts in the same place."""
CANNOT_START = 2
"""The status of a worker whose settings or policy do not hold."""
BACKLOG = 2048


class Seat(NamedTuple):
    """What a worker is given: the listening socket, its place among the others, and who its parent is. It is told and
    does not ask, since the parent may be gone by then."""

    listen_fd: int
    place: int
    parent: int

    def options(self) -> list[str]:
        """For the command line."""
        return [f"--{name.replace('_', '-')}={value}" for name, value in self._asdict().items()]


class Workers:
    """``count`` workers on ``listener``; ``grace_seconds`` is what they may take to end when told to, ``environment``
    what they are given beside the parent's. They count together in the folder ``metrics``."""

    def __init__(
        self,
        listener: socket.socket,
        count: int,
        grace_seconds: float,
        *,
        environment: dict[str, str],
        metrics: Path,
    ) -> None:
        self._listener, self._grace, self._metrics = listener, grace_seconds, metrics
        self._environment = {**os.environ, **environment, sharing.VARIABLE: str(metrics)}
        sharing.sweep(metrics)
        self._running = [self._start(place) for place in range(count)]
        self._told_at: float | None = None

    def run(self) -> int:
        """Until told to stop; the exit status."""
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._tell)
        status = 0
        while self._running:
            time.sleep(POLL_SECONDS)
            if self._told_at is None:
                status = self._replace()
            else:
                self._running = [each for each in self._running if each[0].poll() is None]
                if time.monotonic() - self._told_at > self._grace:
                    for worker, _ in self._running:
                        worker.kill()
        return status

    def _replace(self) -> int:
        """Start again what has ended; the status of a worker that cannot start, or 0."""
        for place, (worker, since) in enumerate(self._running):
            code = worker.poll()
            if code == CANNOT_START:
                self._stop()
                return code
            if code is None:
                continue
            sharing.ended(place, self._metrics)
            if time.monotonic() - since > RESTART_SECONDS:
                LOGGER.error("a worker ended", extra={"fields": {"worker": worker.pid, "status": code}})
                self._running[place] = self._start(place)
        return 0

    def _start(self, place: int) -> tuple[subprocess.Popen[bytes], float]:
        number = self._listener.fileno()
        command = [sys.executable, "-m", "gateway", "serve", *Seat(number, place, os.getpid()).options()]
        worker = subprocess.Popen(command, pass_fds=[number], env=self._environment)  # noqa: S603 - our own command
        return worker, time.monotonic()

    def _tell(self, sig: int, frame: FrameType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        self._told_at = self._told_at or time.monotonic()
        for worker, _ in self._running:
            if worker.poll() is None:
                worker.terminate()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket that children may inherit. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    listener.set_inheritable(True)
    return listener
