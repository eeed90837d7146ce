"""Uvicorn's HTTP/1.1 protocol with bounds that it lacks: bytes and seconds of a request's head, connections, and how
long a client may leave an answer unread.

A head that breaks one is no request yet that could be answered, so the refusal is written to the connection and the
connection is closed. A client that does not read is cut off.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.edge.problems import error_body
from gateway.errors import (
    DeadlineExceeded,
    GatewayError,
    HeadersTooLarge,
    InvalidRequest,
    RequestTimeout,
    TooManyConnections,
)
from gateway.telemetry import LOGGER

LAST_SECONDS = 1.0
"""For who reads again just before the deadline: a stream's last event then says what happened."""
UNREAD_SECONDS = 30.0
"""For an answer that is complete, or has no deadline."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    most_header_bytes: ClassVar[int]
    header_seconds: ClassVar[float]
    most_connections: ClassVar[int]

    _in_head, _ended = True, False
    _head_bytes = 0
    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there; one too many is told so."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            self._refuse(TooManyConnections())
        else:
            self._timer = self.loop.call_later(self.header_seconds, self._late)

    def data_received(self, data: bytes) -> None:
        """Bytes; those of a head are counted."""
        if self.transport.is_closing():
            return
        self._ended = False
        super().data_received(data)
        if self._in_head:
            if not self._ended:  # else most of these bytes may be another request's
                self._head_bytes += len(data)
            if self._head_bytes > self.most_header_bytes:
                self._refuse(HeadersTooLarge(f"the headers are larger than {self.most_header_bytes} bytes; send fewer"))
            elif self._timer is None:
                self._timer = self.loop.call_later(self.header_seconds, self._late)

    def on_message_begin(self) -> None:
        """The first byte of a head. Between two requests uvicorn's own keep-alive timer counts."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is here."""
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request is here."""
        self._ended = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """It is no HTTP."""
        self._refuse(InvalidRequest("this is not an HTTP/1.1 request"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop_timer()
        self._stop_unread()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read, and what may wait for it is full."""
        super().pause_writing()
        deadline = None
        if self.cycle is not None and not self.cycle.response_complete:
            deadline = self.cycle.scope["state"].get("deadline")
        seconds = UNREAD_SECONDS if deadline is None else max(deadline - time.monotonic(), 0.0) + LAST_SECONDS
        self._stop_unread()
        self._unread = self.loop.call_later(seconds, self._cut_off)

    def resume_writing(self) -> None:
        """It does again."""
        self._stop_unread()
        super().resume_writing()

    def _cut_off(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.scope["state"]["outcome"] = DeadlineExceeded.code
        self.transport.abort()

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        self._refuse(RequestTimeout(f"the headers took longer than {self.header_seconds:g} seconds; send them again"))

    def _refuse(self, error: GatewayError) -> None:
        if self.transport.is_closing():
            return
        request_id = uuid.uuid4().hex
        body = json.dumps(error_body(error, request_id)).encode()
        head = f"HTTP/1.1 {error.http_status} {error.code}\r\ncontent-type: application/json\r\n"
        if error.retry_after_seconds is not None:
            head += f"retry-after: {error.retry_after_seconds}\r\n"
        head += f"x-request-id: {request_id}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()
        fields = {"request_id": request_id, "route": "other", "status": error.http_status, "outcome": error.code}
        LOGGER.info("request", extra={"fields": fields})


def bounded(header_bytes: int, seconds: float, connections: int) -> type[BoundedProtocol]:
    """The protocol with these bounds."""

    class Bounded(BoundedProtocol):
        most_header_bytes, header_seconds, most_connections = header_bytes, seconds, connections

    return Bounded
