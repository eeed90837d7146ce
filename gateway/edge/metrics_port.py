"""``/metrics`` on a port of its own, and nothing else there: who may ask a model need not read what it costs others.

In threads, as on the HTTP port: who is asked renders for a while, and a stream need not wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from threading import Thread
from typing import Any

from gateway.telemetry import Telemetry

IDLE_SECONDS = 10.0
POLL_SECONDS = 0.1


class MetricsServer(ThreadingTCPServer):
    """Listens on ``host`` and ``port``; with ``shared`` beside others on the same port. Raises OSError."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, telemetry: Telemetry, *, shared: bool) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.telemetry, self._shared = telemetry, shared
        super().__init__((host, port), _Request)

    def server_bind(self) -> None:
        """With the port to share, if it is."""
        if self._shared:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who scrapes has left: nobody need know."""


class _Request(BaseHTTPRequestHandler):
    server: MetricsServer
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        content, media_type = self.server.telemetry.exposition(self.headers.get("accept", ""))
        self.send_response_only(200)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are no news."""


@contextlib.asynccontextmanager
async def serving_metrics(host: str, port: int, telemetry: Telemetry, *, shared: bool) -> AsyncIterator[None]:
    """While the block runs; not at all, if ``port`` is 0. Raises OSError."""
    if not port:
        yield
        return
    with MetricsServer(host, port, telemetry, shared=shared) as server:
        Thread(target=server.serve_forever, args=(POLL_SECONDS,), name="metrics", daemon=True).start()
        try:
            yield
        finally:
            await asyncio.to_thread(server.shutdown)
