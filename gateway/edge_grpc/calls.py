"""One call: who, until when, what it is counted as, and how it is refused."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import anyio
import grpc

from gateway.access import Authenticator, Principal
from gateway.edge_grpc.messages import HARMLESS_ID
from gateway.errors import (
    ClientClosed,
    DeadlineExceeded,
    GatewayError,
    InternalError,
    InvalidRequest,
    QuotaExceeded,
    RequestTimeout,
    Unauthenticated,
)
from gateway.telemetry import LOGGER, Telemetry
from gateway.tracing import RequestTrace
from gateway.traffic.admission import Admission, Place


@dataclass(frozen=True)
class Limits:
    """What a request may ask for. ``text_bytes`` bounds a request that carries text, ``message_bytes`` any message."""

    text_bytes: int
    message_bytes: int
    max_tokens: int
    timeout_seconds: float
    max_timeout_seconds: float
    requests_per_stream: int
    streams: int
    connections: int

    def deadline(self, call: Call, accepted: float, asked_seconds: float | None = None) -> float:
        """When a request's time is over, in monotonic seconds: by the call's deadline and by what the request itself
        asks for, the shorter of both, or as usual; never more than the gateway allows."""
        asked = [each for each in (asked_seconds, call.ends - accepted) if each is not None and each < math.inf]
        return accepted + min(min(asked, default=self.timeout_seconds), self.max_timeout_seconds)


class Call:
    """A call as its handler sees it. ``ends`` is its own deadline, in monotonic seconds; infinite without one."""

    def __init__(self, context: Any) -> None:
        self.context, self.accepted = context, time.monotonic()
        self.metadata: tuple[tuple[str, str | bytes], ...] = tuple(context.invocation_metadata() or ())
        remaining = context.time_remaining()
        self.ends = math.inf if remaining is None else self.accepted + remaining
        given = self.one("x-request-id") or ""
        self.trailing: dict[str, str] = {}
        """What the end of the call is to say beyond its id."""
        self.request_id = given if HARMLESS_ID.fullmatch(given) else uuid.uuid4().hex

    def one(self, key: str) -> str | None:
        """The value of a metadata key; the first one if there are several."""
        return next((value for name, value in self.metadata if name == key and isinstance(value, str)), None)

    async def principal(self, authenticator: Authenticator) -> Principal:
        """Who calls. Raises :class:`Unauthenticated` and its kin."""
        return await authenticator.authenticate(self._only("authorization"), self._only("x-api-key"))

    def _only(self, key: str) -> str | None:
        """Two credentials are none: who is meant would depend on who reads."""
        if sum(name == key for name, _ in self.metadata) > 1:
            raise Unauthenticated(f"send one {key} in the metadata, not several")
        return self.one(key)

    async def message(self, requests: AsyncIterator[bytes], deadline: float) -> bytes:
        """The one message of a unary call. Raises :class:`RequestTimeout` when it is late, :class:`InvalidRequest` when
        there is none."""
        try:
            with anyio.fail_after(max(deadline - time.monotonic(), 0.0)):
                return await anext(aiter(requests))
        except TimeoutError:
            raise RequestTimeout("the message did not arrive within the request's time; send it again") from None
        except StopAsyncIteration:
            raise InvalidRequest("the call carried no message; send one") from None

    async def refuse(self, error: GatewayError) -> None:
        """End the call with the error's status; its code stands in the trailing metadata."""
        if isinstance(error, QuotaExceeded):
            self.trailing.update(error.headers)
        trailing = [("tidegate-code", error.code), *self._told()]
        if error.retry_after_seconds is not None:
            trailing.append(("retry-after", str(error.retry_after_seconds)))
        if error.field is not None and HARMLESS_ID.fullmatch(error.field):
            trailing.append(("tidegate-field", error.field))
        await self.context.abort(grpc.StatusCode[error.grpc_status], error.message, tuple(trailing))

    def answer_id(self) -> None:
        """Tell the request's id behind a good answer."""
        self.context.set_trailing_metadata(self._told())

    def _told(self) -> tuple[tuple[str, str], ...]:
        return (("x-request-id", self.request_id), *((key.lower(), each) for key, each in self.trailing.items()))


@dataclass
class Record:
    """One request: its place among those in flight (if ``admission`` is given and it takes one), its metrics and its
    log line. A context manager; how the block ends is the outcome, unless ``outcome`` was set."""

    telemetry: Telemetry
    admission: Admission | None
    route: str
    call: Call
    request_id: str
    quiet: bool = False
    accepted: float = field(default_factory=time.monotonic)
    fields: dict[str, Any] = field(default_factory=dict)
    outcome: str | None = None
    trace: RequestTrace | None = None
    place: Place | None = None

    def __enter__(self) -> Record:
        """Nothing to do yet."""
        return self

    def take_place(self) -> None:
        """The request is here. Raises :class:`gateway.errors.TooManyRequests`."""
        if self.admission is not None:
            self.place = self.admission.enter()
            self.telemetry.in_flight.inc()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count, time and log."""
        outcome = self.outcome or self._outcome(error)
        if self.place is not None:
            self.place.leave(served=outcome == "ok")
            self.telemetry.in_flight.dec()
        self.note(outcome, failed=error is not None and _is_ours(error))

    def _outcome(self, error: BaseException | None) -> str:
        if error is None:
            return "ok"
        if isinstance(error, GatewayError):
            return error.code
        if isinstance(error, asyncio.CancelledError):
            return (DeadlineExceeded if time.monotonic() >= self.call.ends else ClientClosed).code
        LOGGER.error("request failed", exc_info=error, extra={"fields": {"request_id": self.request_id}})
        return InternalError.code

    def note(self, outcome: str, *, failed: bool = False) -> None:
        seconds = time.monotonic() - self.accepted
        if not self.quiet:
            self.telemetry.served(self.route, outcome, seconds, self.trace)
        if self.trace is not None:
            self.fields["trace_id"] = self.trace.trace_id
            self.trace.end(outcome, failed=failed)
        level = logging.DEBUG if self.quiet and outcome == "ok" else logging.INFO
        if LOGGER.isEnabledFor(level):
            fields = {"request_id": self.request_id, "route": self.route, "outcome": outcome}
            LOGGER.log(level, "request", extra={"fields": {**fields, "seconds": round(seconds, 4), **self.fields}})


def _is_ours(error: BaseException) -> bool:
    """Whether it is the server's fault, and not the client's."""
    return (
        error.http_status >= 500 if isinstance(error, GatewayError) else not isinstance(error, asyncio.CancelledError)
    )
