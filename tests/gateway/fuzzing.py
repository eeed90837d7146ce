"""HTTP requests that no client would write, as bytes on a connection, and what must hold for every one of them.

The API's description is schemathesis's to try out; here is what a description cannot say: paths that are another one
once they are read, headers that are there twice or are none, lengths that lie, bodies that are no JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from .conftest import good_token
from .fake_triton import FakeTriton

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "ignored_auth",
    "unsupported_method",
)
FORBIDDEN = "bad word"
CANARY = "canary-7f3a"
"""In paths, headers and values: no refusal repeats it."""
ANSWERED_5XX = {503, 504}
MESSAGES = [{"role": "user", "content": "hi"}]
ASKS: dict[str, dict[str, Any]] = {
    "/generate": {"text_input": "hi", "max_tokens": 3},
    "/generate_stream": {"messages": MESSAGES, "stop": ["x"]},
    "/v1/chat/completions": {"model": "generate", "messages": MESSAGES, "n": 2},
    "/v1/completions": {"model": "generate", "prompt": "hi", "stream": True},
    "/v1/moderations": {"input": "hi"},
    "/feedback": {"request_id": "a", "score": 1},
}
GETS = ("/v1/models", "/v1/models/generate", "/health/ready", "/metrics", "/openapi.json", "/", f"/{CANARY}")
FIELDS = sorted({name for each in ASKS.values() for name in each} | {CANARY, "tools", "logit_bias", "response_format"})
CHANGES = (
    "path",
    "target",
    "method",
    "version",
    "header",
    "no token",
    "no host",
    "no type",
    "chunked",
    "field",
    "body",
)
PIECES = (
    "%0A", "%0D%0A", "//", "/..", "/../", "/.", "%2e%2e", "%2F", "%5C", "%00", "%", "%zz", "%C3%28", ";a=b", "?", "#",
    "?a=%0A&a", "\\", "\xe9", "*", "\t", f"?{CANARY}", "/" * 300, "a" * 3000,
)  # fmt: skip
METHODS = ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "POST ", "BREW", "PRI", "")
HEADERS = (
    "Content-Type: text/plain", "Content-Type: application/json; charset=utf-16", "Content-Type: multipart/form-data",
    "Content-Encoding: gzip", "Accept: text/html", "Accept-Encoding: br;q=x", "Host: a", "Host: b:99999999",
    "Expect: 100-continue", "Expect: tea", "Upgrade: h2c", "Upgrade: websocket", "Connection: upgrade",
    "X-Forwarded-For: 1.2.3.4", "X-Request-Id: \xe9", f"X-Request-Id: {'a' * 5000}", "X-HTTP-Method-Override: DELETE",
    "traceparent: 00-0-0-0", "traceparent: " + "0" * 60, "Authorization: Bearer", "Authorization: Bearer x.y.z",
    f"Authorization: Basic {CANARY}", f"X-API-Key: tg_{CANARY}", "Idempotency-Key: \x7f", f"Cookie: {'c' * 20_000}",
    f"X: {'x' * 40_000}", "Range: bytes=0-1", "no colon", ": no name", "a b: c", "x:\x00", " folded: yes",
    "Content-Length: -1", "Content-Length: 1e3", f"Content-Length: {2**70}", "Content-Length: 1, 2",
    "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked, identity", "TE: trailers",
)  # fmt: skip
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([FORBIDDEN, CANARY, "", "\ud800", [], {}, [[]], {"a": 1}, [None], ["hi"] * 2000, "a" * 5000]),
)
BROKEN = (
    b"", b"{", b"nul", b'{"text_input": "hi"', b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b"[" * 5000, b'{"a":' * 5000,
    b'{"text_input": NaN}', b'{"text_input": "\xc3\x28"}', b'{"text_input": "\\ud800"}', b'{"max_tokens": 1e999}',
    b'{"max_tokens": ' + b"9" * 5000 + b"}", b"text_input=hi", b"\x00" * 40, b"\x1f\x8b\x08\x00", b"hi" * 600_000,
    b'{"text_input": "hi", "text_input": "' + FORBIDDEN.encode() + b'"}', b'"' + FORBIDDEN.encode() + b'"',
)  # fmt: skip


@st.composite
def requests(draw: Any) -> bytes:
    """What a client would write with as much as three things changed, whole as far as its own head says."""
    path = draw(st.sampled_from([*ASKS, *ASKS, *GETS]))
    asked, method, version = dict(ASKS.get(path, {})), "POST" if path in ASKS else "GET", "HTTP/1.1"
    headers = ["Connection: close", "Host: test", "Content-Type: application/json"]
    headers.append(f"Authorization: Bearer {good_token(scope='generate models:read')}")
    changes = draw(st.lists(st.sampled_from(CHANGES), max_size=3))
    for change in changes:
        if change == "path":
            place = draw(st.integers(0, len(path)))
            path = path[:place] + draw(st.sampled_from(PIECES)) + path[place:]
        elif change == "target":
            path = draw(st.sampled_from([f"http://{CANARY}{path}", "", "*", path.upper()]))
        elif change == "method":
            method = draw(st.sampled_from(["POST", *METHODS]))
        elif change == "version":
            version = draw(st.sampled_from(["HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "http/1.1", ""]))
        elif change == "header":
            headers.append(draw(st.sampled_from(HEADERS)))
        elif change.startswith("no "):
            name = {"no token": "Authorization", "no host": "Host", "no type": "Content-Type"}[change]
            headers = [each for each in headers if not each.startswith(name)]
        elif change == "field":
            asked[draw(st.sampled_from(FIELDS))] = draw(VALUES)
    body = json.dumps(asked).encode() if asked else b""
    if "body" in changes:
        body = draw(st.one_of(st.sampled_from(BROKEN), st.binary(max_size=60)))
    if "chunked" in changes:
        headers.append("Transfer-Encoding: chunked")
        size = draw(st.sampled_from([f"{len(body):x}", f"{len(body):x};{CANARY}", "-1", "zz", "f" * 20]))
        body = f"{size}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    else:
        headers.append(f"Content-Length: {len(body)}")
    head = "\r\n".join([f"{method} {path} {version}", *headers])
    return head.encode("latin-1") + b"\r\n\r\n" + body


@dataclass(frozen=True)
class Answer:
    """What came back; nothing for a connection that was closed, or that waits for what the head promised."""

    status: int | None
    body: bytes = b""


async def answer(port: int, request: bytes, seconds: float = 1.0) -> Answer:
    """Send ``request`` and read what comes, until the end or until nothing has come for so many ``seconds``."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = b""
    try:
        writer.write(request)
        while part := await asyncio.wait_for(reader.read(65_536), seconds):
            said += part
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    if not said:
        return Answer(None)
    head, _, body = said.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
    version, status = head.split(b" ", 2)[:2]
    assert version == b"HTTP/1.1", head
    return Answer(int(status), body)


async def holds(port: int, triton: FakeTriton, request: bytes) -> int | None:
    """The status of the answer, which is no failure of the gateway; what it refuses it does not repeat, and no text
    reaches Triton that the policy has not seen."""
    triton.requests.clear()
    got = await answer(port, request)
    if got.status is not None:
        assert got.status < 500 or got.status in ANSWERED_5XX, (got, request[:2000])
        assert got.status < 400 or CANARY.encode() not in got.body, (got, request[:2000])
    asked = [tensors.get("text_input", b"") for tensors in triton.requests]
    assert not any(FORBIDDEN.encode() in each for each in asked), request[:2000]
    return got.status


async def described(url: str, draws: int, report: Path) -> Counter[str]:
    """Schemathesis against a gateway, so many draws an operation: how often each status came. Raises AssertionError,
    with its words, when it finds something. It is told not to vary the credentials: with a second one all is 401."""
    fuzzer = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json",
        "--header", f"Authorization: Bearer {good_token(scope='generate models:read')}", "--checks", ",".join(CHECKS),
        "--phases", "examples,coverage,fuzzing", "--mode", "all", "--max-examples", str(draws),
        "--generation-database", "none", "--suppress-health-check", "all", "--no-color",
        "--generation-with-security-parameters", "false", "--report-ndjson-path", str(report),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output = (await fuzzer.communicate())[0].decode()
    assert fuzzer.returncode == 0, output[-6000:]
    statuses: Counter[str] = Counter()
    with report.open(encoding="utf-8") as lines:
        for line in lines:
            recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
            for each in recorder.get("interactions", {}).values():
                statuses[str((each["response"] or {}).get("status_code", "none"))] += 1
    return statuses


def tried(cases: int, *, reproducible: bool) -> settings:
    """So many cases, however long they take and whatever they are drawn from; ``reproducible``: the same each time."""
    return settings(
        max_examples=cases,
        deadline=None,
        derandomize=reproducible,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


def fuzz(
    port: int, triton: FakeTriton, loop: asyncio.AbstractEventLoop, cases: int, *, reproducible: bool
) -> Counter[str]:
    """Try so many cases from another thread than ``loop``'s, which is Triton's; how often each status came.
    ``reproducible``: the same each time."""
    statuses: Counter[str] = Counter()

    @tried(cases, reproducible=reproducible)
    @given(request=requests())
    def every(request: bytes) -> None:
        status = asyncio.run_coroutine_threadsafe(holds(port, triton, request), loop).result(60)
        statuses["none" if status is None else str(status)] += 1

    every()
    return statuses
