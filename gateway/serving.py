"""The process: listen, drain at SIGTERM, exit with 0.

Told to stop, a gateway first says that it is not ready and keeps serving for ``shutdown_delay_seconds``, while whoever
balances the load looks elsewhere. Then it stops listening and lets what runs end; what still runs shortly before
``shutdown_grace_seconds`` are over is cut with an error of its own, so that nobody is left without an answer.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import tempfile
import time
from pathlib import Path
from types import FrameType

import uvicorn

from gateway.app import create_app
from gateway.protocol import bounded
from gateway.settings import Settings
from gateway.telemetry import configure_logging, sharing
from gateway.tls import Certificate
from gateway.traffic.drain import Drain
from gateway.workers import Seat, Workers, listen

CUT_BEFORE_SECONDS = 1.0
"""What runs is cut this long before the end, so that its last event still leaves."""
YOUNG_OBJECTS = 10_000
"""So many new containers, and not 700, before Python looks for cycles among them: a few requests' worth."""


class Server(uvicorn.Server):
    """Uvicorn's server with a drain before its end."""

    def __init__(self, config: uvicorn.Config, drain: Drain, delay_seconds: float, grace_seconds: float) -> None:
        super().__init__(config)
        self._drain, self._delay, self._grace = drain, delay_seconds, grace_seconds
        self._asked_at: float | None = None
        self.parent: int | None = None
        """Of a worker: the process that it ends with."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """What is there when serving begins stays: the collector need not go through it again while somebody waits."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends at once. Neither is raised again: a drained gateway exits with 0."""
        if self._asked_at is not None:
            self.should_exit = self.force_exit = True
        else:
            self._drain.draining = True
            self._asked_at = time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second. A worker whose parent is gone stops too, so that none keeps the port."""
        if self._asked_at is None and self.parent is not None and os.getppid() != self.parent:
            self.handle_exit(signal.SIGTERM, None)
        if self._asked_at is not None and time.monotonic() - self._asked_at >= self._delay:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, wait for what runs, cut it before the grace is over."""
        self._drain.close(self._grace)
        seconds = max(self._grace - CUT_BEFORE_SECONDS, 0.0)
        cutting = asyncio.get_running_loop().call_later(seconds, self._drain.cut)
        await super().shutdown(sockets)
        cutting.cancel()


def serve(settings: Settings, seat: Seat | None = None) -> int:
    """Serve until told to stop; the exit status. ``seat`` is a worker's. Raises what :func:`gateway.app.create_app`
    raises, and OSError for a port that cannot be had."""
    configure_logging(settings.log_level)
    if settings.workers > 1 and seat is None:
        ending = settings.shutdown_delay_seconds + settings.shutdown_grace_seconds + CUT_BEFORE_SECONDS
        with tempfile.TemporaryDirectory(prefix="tidegate-") as folder:
            shared = {
                name: f"{folder}/{kind}"
                for name, kind, own in (
                    ("TIDEGATE_QUOTA_DIRECTORY", "quotas", settings.quota_directory),
                    ("TIDEGATE_FEEDBACK_DIRECTORY", "feedback", settings.feedback_directory),
                )
                if own is None
            }
            metrics = Path(os.environ.get(sharing.VARIABLE, f"{folder}/metrics"))
            listener = listen(settings.host, settings.port)
            return Workers(listener, settings.workers, ending, environment=shared, metrics=metrics).run()
    sharing.keep_to_itself() if seat is None else sharing.share(seat.place)
    drain, certificate = Drain(), _certificate(settings)
    config = uvicorn.Config(
        create_app(settings, drain, certificate),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=bounded(settings.max_header_bytes, settings.header_timeout_seconds, settings.max_connections),
        access_log=False,
        server_header=False,
        proxy_headers=False,
        log_config=None,
        ssl_context_factory=None if certificate is None else lambda *_: certificate.context(),
        timeout_graceful_shutdown=settings.shutdown_grace_seconds,
    )
    server = Server(config, drain, settings.shutdown_delay_seconds, settings.shutdown_grace_seconds)
    if seat is None:
        server.run()
    else:
        server.parent = seat.parent
        server.run(sockets=[socket.socket(fileno=seat.listen_fd)])
    return 0


def _certificate(settings: Settings) -> Certificate | None:
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return Certificate(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)
