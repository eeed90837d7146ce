"""A request's way through the gateway, for whoever traces. Off, a request's trace is None, and nothing of OpenTelemetry
is imported.

    request ── access, policy.input, template, triton, policy.output

Spans carry numbers, names and codes, never text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import TracebackType
from typing import Literal, Protocol

Parameter = str | int | float | bool | list[str] | list[int] | list[float]
Operation = Literal["chat", "text_completion"]
"""As the conventions for generative AI name it."""
Metadata = tuple[tuple[str, str], ...]
NO_STAGE: contextlib.AbstractContextManager[None] = contextlib.nullcontext()


class TritonSpan(Protocol):
    """The call to Triton."""

    metadata: Metadata | None
    """``traceparent`` (and ``tracestate``), so that Triton goes on with the trace; None for one that nobody records,
    since Triton records whatever is named to it."""
    exemplar: dict[str, str] | None

    def first_response(self) -> None:
        """Triton has answered something."""

    def end(self, reason: str, version: str, input_tokens: int, output_tokens: int) -> None:
        """The answer is over."""


class Pieces(Protocol):
    """A stage that comes in many pieces, among those of another one. A piece is a ``with`` block."""

    def __enter__(self) -> object:
        """A piece begins."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A piece ends."""

    def end(self, action: str) -> None:
        """No piece follows; ``action`` is what the policy decided."""


class RequestTrace(Protocol):
    """The trace of one request."""

    trace_id: str
    exemplar: dict[str, str] | None
    """The trace's id, for a metric; None for a trace that nobody records."""

    def stage(self, name: str) -> contextlib.AbstractContextManager[None]:
        """A stage that begins and ends here."""

    def pieces(self, name: str) -> Pieces:
        """A stage in pieces."""

    def triton(self, model: str, operation: Operation, parameters: Mapping[str, Parameter]) -> TritonSpan:
        """The call to Triton begins."""

    def end(self, outcome: str, *, failed: bool, http_status: int | None = None) -> None:
        """The request is over, as ``outcome``; ``failed`` if that is the server's fault."""


class Tracer(Protocol):
    """Begins traces."""

    def begin(self, name: str, attributes: Mapping[str, str], headers: Mapping[str, str]) -> RequestTrace:
        """A request has come. It is part of the trace that its ``traceparent`` names, if it has one."""

    def close(self) -> None:
        """Send what is waiting. May take seconds."""


def stage(trace: RequestTrace | None, name: str) -> contextlib.AbstractContextManager[None]:
    """A stage of ``trace``, if there is one."""
    return NO_STAGE if trace is None else trace.stage(name)


class _NoPieces:
    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def end(self, action: str) -> None:
        pass


NO_PIECES = _NoPieces()


def pieces(trace: RequestTrace | None, name: str) -> Pieces:
    """A stage in pieces of ``trace``, if there is one."""
    return NO_PIECES if trace is None else trace.pieces(name)


class TracingError(Exception):
    """Traces cannot be sent; the message names the setting."""


def open_tracer(endpoint: str | None, sample_rate: float) -> Tracer | None:
    """Sends traces to ``endpoint`` (OTLP over HTTP, the URL of the collector); None without one. Raises
    :class:`TracingError`."""
    if endpoint is None:
        return None
    if not endpoint.startswith(("http://", "https://")):
        raise TracingError("TIDEGATE_TRACING_ENDPOINT must be a URL: http://collector:4318")
    try:
        from gateway.tracing.otel import OtelTracer  # noqa: PLC0415 - off costs nothing, not even the import
    except ImportError:
        raise TracingError("TIDEGATE_TRACING_ENDPOINT needs OpenTelemetry: pip install 'tidegate[tracing]'") from None
    return OtelTracer(endpoint, sample_rate)
