"""A small OpenTelemetry collector: a real HTTP server that takes OTLP and remembers the spans."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

IDS = ("trace_id", "span_id", "parent_span_id")


class Collector:
    """What was sent so far: spans, and the bodies as they came."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Span] = []
        self.bodies: list[bytes] = []

    def take(self, path: str, kind: str, body: bytes) -> None:
        """A request. Triton sends its spans as JSON, with ids in hexadecimal."""
        assert path == "/v1/traces"
        self.bodies.append(body)
        if kind == "application/json":
            for resource in json.loads(body)["resourceSpans"]:
                for each in (span for scope in resource["scopeSpans"] for span in scope["spans"]):
                    ids = (bytes.fromhex(each.get(name, "")) for name in ("traceId", "spanId", "parentSpanId"))
                    self.spans.append(Span(name=each["name"], **dict(zip(IDS, ids, strict=True))))
            return
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def named(self, name: str) -> Span:
        """The one span of that name."""
        (span,) = (each for each in self.spans if each.name == name)
        return span


def attributes(span: Span) -> dict[str, object]:
    """By name; an array as a list."""
    found: dict[str, object] = {}
    for each in span.attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, str(kind))
        found[each.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            collector.take(
                self.path, self.headers["content-type"], self.rfile.read(int(self.headers["content-length"]))
            )
            content = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
