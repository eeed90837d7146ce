"""Traces with OpenTelemetry, sent as OTLP over HTTP by a thread. Only imported when tracing is on.

Names are those of the semantic conventions for HTTP and for generative AI. No span is "current" anywhere: each stage is
told its parent, since a request's stages run in several tasks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from types import TracebackType
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace import Tracer as Api
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.errors import ClientClosed, GatewayError
from gateway.tracing import Metadata, Operation, Parameter

SEND_EVERY_MS = 1000
SEND_SECONDS = 5.0
PATH = "/v1/traces"
logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)  # that a batch is lost, not each attempt
PROPAGATOR = TraceContextTextMapPropagator()
REQUEST_ATTRIBUTES = ("max_tokens", "temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed")
"""Parameters that the conventions name, as ``gen_ai.request.NAME``. ``stop`` would be text."""
MOST_SEED = 2**63 - 1


class OtelTracer:
    """Sends to ``endpoint``: a collector's URL, with the path or without. Of the traces that begin here the share
    ``sample_rate`` is recorded; of others what their parent says."""

    def __init__(self, endpoint: str, sample_rate: float) -> None:
        url = endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + PATH
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_rate)), resource=Resource.create({"service.name": "tidegate"})
        )
        exporter = OTLPSpanExporter(url, timeout=SEND_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=SEND_EVERY_MS))
        self._api = self._provider.get_tracer("tidegate")

    def begin(self, name: str, attributes: Mapping[str, str], headers: Mapping[str, str]) -> OtelRequest:
        """See :class:`gateway.tracing.Tracer`."""
        parent = PROPAGATOR.extract(headers, Context())
        span = self._api.start_span(name, parent, SpanKind.SERVER, attributes)
        return OtelRequest(self._api, span)

    def close(self) -> None:
        """See :class:`gateway.tracing.Tracer`."""
        self._provider.shutdown()


class OtelRequest:
    """See :class:`gateway.tracing.RequestTrace`."""

    def __init__(self, api: Api, span: Span) -> None:
        self._api, self._span = api, span
        self._context = set_span_in_context(span, Context())
        context = span.get_span_context()
        self.trace_id = format_trace_id(context.trace_id)
        self.exemplar = {"trace_id": self.trace_id} if context.trace_flags.sampled else None

    def stage(self, name: str) -> Stage:
        """See :class:`gateway.tracing.RequestTrace`."""
        return Stage(self._api.start_span(name, self._context))

    def pieces(self, name: str) -> OtelPieces:
        """See :class:`gateway.tracing.RequestTrace`."""
        return OtelPieces(self._api, self._context, name)

    def triton(self, model: str, operation: Operation, parameters: Mapping[str, Parameter]) -> OtelTriton:
        """See :class:`gateway.tracing.RequestTrace`."""
        attributes: dict[str, Parameter] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "tidegate",
            "gen_ai.request.model": model,
        }
        for name in REQUEST_ATTRIBUTES:
            value = parameters.get(name)
            if value is not None and (name != "seed" or int(str(value)) <= MOST_SEED):
                attributes[f"gen_ai.request.{name}"] = value
        attributes["gen_ai.request.stream"] = bool(parameters.get("stream"))
        span = self._api.start_span("triton", self._context, SpanKind.CLIENT, attributes)
        return OtelTriton(span, self.exemplar)

    def end(self, outcome: str, *, failed: bool, http_status: int | None = None) -> None:
        """See :class:`gateway.tracing.RequestTrace`."""
        if http_status is not None:
            self._span.set_attribute("http.response.status_code", http_status)
        if outcome != "ok":
            _failed(self._span, outcome, error=failed)
        self._span.end()


class Stage:
    """One stage, from its making to the end of its ``with`` block."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            code = error.code if isinstance(error, GatewayError) else ClientClosed.code
            _failed(self._span, code, error=not isinstance(error, GatewayError) or error.http_status >= 500)
        self._span.end()


class OtelPieces:
    """A span from the first piece to the end; how long the pieces took together is an attribute."""

    def __init__(self, api: Api, context: Context, name: str) -> None:
        self._api, self._context, self._name = api, context, name
        self._span: Span | None = None
        self._began, self._seconds = 0.0, 0.0

    def __enter__(self) -> None:
        if self._span is None:
            self._span = self._api.start_span(self._name, self._context)
        self._began = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._seconds += time.perf_counter() - self._began

    def end(self, action: str) -> None:
        """See :class:`gateway.tracing.Pieces`."""
        if self._span is not None:
            self._span.set_attributes({"tidegate.policy.action": action, "tidegate.policy.seconds": self._seconds})
            self._span.end()


class OtelTriton:
    """See :class:`gateway.tracing.TritonSpan`."""

    def __init__(self, span: Span, exemplar: dict[str, str] | None) -> None:
        self._span, self.exemplar = span, exemplar
        carrier: dict[str, str] = {}
        if exemplar is not None:
            # Triton 2.51 records every request with a traceparent, whatever its flags and Triton's own rate say.
            PROPAGATOR.inject(carrier, set_span_in_context(span, Context()))
        self.metadata: Metadata | None = tuple(carrier.items()) or None

    def first_response(self) -> None:
        """See :class:`gateway.tracing.TritonSpan`."""
        self._span.add_event("first_response")

    def end(self, reason: str, version: str, input_tokens: int, output_tokens: int) -> None:
        """See :class:`gateway.tracing.TritonSpan`."""
        self._span.set_attribute("gen_ai.response.finish_reasons", [reason])
        if version:
            self._span.set_attributes(
                {
                    "tidegate.model_version": version,
                    "gen_ai.usage.input_tokens": input_tokens,
                    "gen_ai.usage.output_tokens": output_tokens,
                }
            )
        if reason in ("error", "cancelled"):
            _failed(self._span, reason, error=reason == "error")
        self._span.end()


def _failed(span: Span, code: str, *, error: bool) -> None:
    """What went wrong, by its code; whether it is the server's fault."""
    span.set_attribute("error.type", code)
    if error:
        span.set_status(Status(StatusCode.ERROR))
