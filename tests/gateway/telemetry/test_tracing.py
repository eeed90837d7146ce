"""Traces as a collector gets them, from a served gateway before a fake Triton."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from gateway.tracing import TracingError, open_tracer
from tests.gateway.conftest import good_token, serve
from tests.gateway.edge_grpc.kserve import infer, kserve

from .collector import Collector, attributes, collecting
from .scraping import scrape

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
STAGES = {"access", "policy.input", "template", "triton", "policy.output"}


def fields_of(caplog: pytest.LogCaptureFixture) -> dict[str, object]:
    """Of the one request's log line."""
    (line,) = (record for record in caplog.records if record.getMessage() == "request")
    fields: dict[str, object] = line.__dict__["fields"]
    return fields


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_a_tree_of_stages(tmp_path: Path, caplog: pytest.LogCaptureFixture, stream: bool) -> None:
    """From the client's span to Triton's: every stage under the request, numbers and names but never text."""
    with collecting() as collector, caplog.at_level(logging.INFO, logger="tidegate"):
        async with serve(tmp_path, tracing_endpoint=collector.url) as served, served.client() as client:
            body = {"messages": [{"role": "user", "content": "MARKER two three"}], "seed": 2**64 - 1, "stream": stream}
            body |= {"max_tokens": 9, "temperature": 0.5, "stop": ["STOPPER"]}
            response = await client.post("/generate", json=body, headers={"traceparent": SAMPLED})
            assert response.status_code == 200
            passed_on = served.triton.metadata[0]["traceparent"]
    request = collector.named("POST /generate")
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, SPAN)
    stages = [each for each in collector.spans if each.parent_span_id == request.span_id]
    assert {each.name for each in stages} == STAGES
    assert len(collector.spans) == 1 + len(STAGES)
    assert all(request.start_time_unix_nano <= each.start_time_unix_nano for each in stages)
    assert all(each.end_time_unix_nano <= request.end_time_unix_nano for each in stages)

    triton = collector.named("triton")
    assert passed_on == f"00-{TRACE}-{triton.span_id.hex()}-01"
    assert [event.name for event in triton.events] == ["first_response"]
    said = attributes(triton)
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.request.model"] == "generate"
    assert said["gen_ai.request.max_tokens"] == 9
    assert said["gen_ai.request.temperature"] == 0.5
    assert said["gen_ai.request.stream"] is stream
    assert said["gen_ai.response.finish_reasons"] == ["stop"]
    assert said["gen_ai.usage.input_tokens"] == 5
    assert isinstance(said["gen_ai.usage.output_tokens"], int)
    assert said["tidegate.model_version"] == "7"
    assert attributes(request) == {
        "http.request.method": "POST", "http.route": "/generate", "http.response.status_code": 200,
    }  # fmt: skip
    assert attributes(collector.named("policy.output"))["tidegate.policy.action"] == "allow"
    assert not any(word in body for body in collector.bodies for word in (b"MARKER", b"STOPPER", b"two", b"acme"))
    assert fields_of(caplog)["trace_id"] == TRACE


async def asked(tmp_path: Path, collector: Collector, text: str, **headers: str) -> httpx.Response:
    """One request to a gateway that traces everything that begins there."""
    settings = {"tracing_endpoint": collector.url, "tracing_sample_rate": 1}
    async with serve(tmp_path, **settings) as served, served.client() as client:
        return await client.post("/generate", json={"text_input": text}, headers=headers)


async def test_a_refusal_ends_where_it_was_refused(tmp_path: Path) -> None:
    """Its code stands at the stage and at the request; it is nobody's fault, and nothing was asked of Triton."""
    with collecting() as collector:
        await asked(tmp_path, collector, "a bad word")
    assert {each.name for each in collector.spans} == {"POST /generate", "access", "policy.input"}
    request = collector.named("POST /generate")
    assert not request.parent_span_id
    assert attributes(request)["http.response.status_code"] == 403
    assert attributes(collector.named("policy.input"))["error.type"] == "prompt_rejected"
    assert request.status.code != Status.STATUS_CODE_ERROR


async def test_a_failure_of_the_model_is_an_error(tmp_path: Path) -> None:
    """At the call to Triton and at the request."""
    with collecting() as collector:
        await asked(tmp_path, collector, "error:engine_failed: secret")
    for name in ("POST /generate", "triton"):
        assert collector.named(name).status.code == Status.STATUS_CODE_ERROR
    assert attributes(collector.named("POST /generate"))["http.response.status_code"] == 502
    assert not any(b"secret" in body for body in collector.bodies)


async def test_a_client_that_leaves_ends_every_span(tmp_path: Path) -> None:
    """In the middle of a stream: the call to Triton says what was used until then."""
    with collecting() as collector:
        async with serve(tmp_path, tracing_endpoint=collector.url, tracing_sample_rate=1) as served:
            body = {"text_input": "say-on:abc", "stream": True}
            async with served.client() as client, client.stream("POST", "/generate", json=body) as response:
                told = 0
                async for line in response.aiter_lines():
                    told += line.startswith("data:")
                    if told == 3:
                        break
            await asyncio.wait_for(served.triton.cancelled.wait(), 5)
    assert {each.name for each in collector.spans} == {"POST /generate", *STAGES}
    said = attributes(collector.named("triton"))
    assert said["gen_ai.response.finish_reasons"] == ["cancelled"]
    assert said["gen_ai.usage.output_tokens"] == 3
    assert attributes(collector.named("POST /generate"))["error.type"] == "client_closed"


@pytest.mark.parametrize("traceparent", [NOT_SAMPLED, "nonsense", None])
async def test_what_is_not_sampled_is_not_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, traceparent: str | None
) -> None:
    """The client's word counts before the rate; the log names the trace all the same, but Triton, which would record
    whatever is named to it, hears nothing."""
    headers = {} if traceparent is None else {"traceparent": traceparent}
    with collecting() as collector, caplog.at_level(logging.INFO, logger="tidegate"):
        async with serve(tmp_path, tracing_endpoint=collector.url, tracing_sample_rate=0) as served:
            async with served.client() as client:
                await client.post("/generate", json={"text_input": "hi"}, headers=headers)
                text = (await client.get("/metrics", headers={"Accept": "application/openmetrics-text"})).text
            assert "traceparent" not in served.triton.metadata[0]
    assert collector.spans == []
    trace = fields_of(caplog)["trace_id"]
    assert (trace == TRACE) == (traceparent == NOT_SAMPLED)
    assert re.fullmatch("[0-9a-f]{32}", str(trace))
    assert "trace_id" not in text


async def test_durations_carry_the_trace_as_exemplar(tmp_path: Path) -> None:
    """In OpenMetrics, at the buckets of request and first token; Prometheus's own text has no room for it."""
    with collecting() as collector:
        async with serve(tmp_path, tracing_endpoint=collector.url) as served, served.client() as client:
            await client.post("/generate", json={"text_input": "hi"}, headers={"traceparent": SAMPLED})
            plain = (await client.get("/metrics")).text
            text = (await client.get("/metrics", headers={"Accept": "application/openmetrics-text"})).text
    marked = [line for line in text.splitlines() if f'# {{trace_id="{TRACE}"}}' in line]
    assert {line.split("{")[0] for line in marked} == {
        "tidegate_request_duration_seconds_bucket", "tidegate_time_to_first_token_seconds_bucket",
    }  # fmt: skip
    assert TRACE not in plain


async def test_a_collector_that_is_away_costs_nobody_a_request(tmp_path: Path) -> None:
    """Requests are answered, and the gateway ends in its time."""
    settings = {"tracing_endpoint": "http://127.0.0.1:1", "tracing_sample_rate": 1}
    async with serve(tmp_path, **settings) as served, served.client() as client:
        assert (await client.post("/generate", json={"text_input": "hi"})).status_code == 200


def test_off_imports_nothing() -> None:
    """A gateway without an endpoint does not even load OpenTelemetry's SDK."""
    code = "import sys, gateway.app, gateway.tracing as t; assert t.open_tracer(None, 1) is None; "
    code += "sys.exit('opentelemetry.sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    """By the setting's name."""
    with pytest.raises(TracingError, match="TIDEGATE_TRACING_ENDPOINT"):
        open_tracer("collector:4318", 0.1)


async def test_the_grpc_door_traces_too(tmp_path: Path) -> None:
    """The same stages, and the answer is counted by model and may be rated over HTTP."""
    with collecting() as collector:
        settings = {"tracing_endpoint": collector.url, "tracing_sample_rate": 0}
        async with kserve(tmp_path, **settings) as both, both.stub() as stub:
            metadata = (("authorization", f"Bearer {good_token()}"), ("traceparent", SAMPLED), ("x-request-id", "g-1"))
            await stub.ModelInfer(infer("generate", "one two"), metadata=metadata)
            async with both.served.client() as client:
                rating = await client.post("/feedback", json={"request_id": "g-1", "score": 5})
                assert rating.status_code == 200, rating.text
            found = await scrape(both.served.url)
    request = collector.named("grpc:ModelInfer")
    assert request.parent_span_id.hex() == SPAN
    assert {each.name for each in collector.spans if each.parent_span_id == request.span_id} == STAGES
    assert attributes(request) == {"rpc.system": "grpc", "rpc.method": "ModelInfer"}
    assert found("tokens_total", model="generate", token_type="output") == 2
    assert found("answers_total", model="generate", model_version="7", finish_reason="stop") == 1


async def test_each_choice_of_openais_surface_is_a_call_of_its_own(tmp_path: Path) -> None:
    """Two choices: one check of the prompt, two calls to Triton, two answers counted, one score."""
    body = {"model": "generate", "messages": [{"role": "user", "content": "hello"}], "n": 2}
    with collecting() as collector:
        settings = {"tracing_endpoint": collector.url, "tracing_sample_rate": 0}
        async with serve(tmp_path, **settings) as served, served.client() as client:
            headers = {"traceparent": SAMPLED, "X-Request-ID": "o-1"}
            response = await client.post("/v1/chat/completions", json=body, headers=headers)
            assert len(response.json()["choices"]) == 2
            codes = [
                (await client.post("/feedback", json={"request_id": "o-1", "score": 2})).status_code for _ in range(2)
            ]
            found = await scrape(served.url)
    names = sorted(each.name for each in collector.spans)
    assert names == sorted([*STAGES, "triton", "policy.output", "POST /v1/chat/completions"])
    assert codes == [200, 409]
    assert found("answers_total", model="generate", model_version="7", finish_reason="stop") == 2
    assert found("feedback_total", model="generate", model_version="7", score="2") == 1
