"""The process: SIGTERM, several workers, and the bounds on what a client may send before it has asked anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import httpx
import pytest

from .conftest import KEY, free_port, good_token, serve
from .processes import Running, running


async def children(pid: int) -> list[int]:
    """The workers of a parent."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in text.split()]


async def test_sigterm_lets_what_runs_end_and_exits_with_0(tmp_path: Path) -> None:
    """Not ready at once, still serving during the delay, closing connections; the running stream reaches its end."""
    async with running(tmp_path, shutdown_delay_seconds=1.0, shutdown_grace_seconds=5) as gateway:
        async with gateway.client() as client:
            body = {"text_input": "say-on:" + "x" * 300, "stream": True, "timeout_seconds": 3}
            async with client.stream("POST", "/generate", json=body) as stream:
                lines = stream.aiter_lines()
                await anext(lines)
                gateway.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.3)
                refused = await client.get("/health/ready")
                assert (refused.status_code, refused.json()["reason"]) == (503, "this gateway is shutting down")
                late = await client.post("/generate", json={"text_input": "one two"})
                assert (late.status_code, late.headers["connection"]) == (200, "close")
                text = [line async for line in lines if line.startswith("data:")]
        assert await asyncio.wait_for(gateway.process.wait(), 10) == 0
    # The model never ended; what ended the stream is the request's own deadline, inside the grace.
    assert json.loads(text[-1][5:])["error"]["code"] == "deadline_exceeded"


async def test_what_outlives_the_grace_is_cut_with_an_event(tmp_path: Path) -> None:
    """Streams end with `shutting_down`, whole answers with 503 and Retry-After, and Triton is told."""
    async with running(tmp_path, shutdown_grace_seconds=2) as gateway, gateway.client() as client:
        whole = asyncio.create_task(client.post("/generate", json={"text_input": "hang"}))
        async with client.stream("POST", "/generate", json={"text_input": "slow", "stream": True}) as stream:
            lines = stream.aiter_lines()
            await anext(lines)
            gateway.process.send_signal(signal.SIGTERM)
            text = [line async for line in lines if line.startswith("data:")]
        assert json.loads(text[-1][5:])["error"]["code"] == "shutting_down"
        answer = await whole
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
        assert int(answer.headers["retry-after"]) >= 1
        assert await asyncio.wait_for(gateway.process.wait(), 10) == 0
        await asyncio.wait_for(gateway.triton.cancelled.wait(), 2)


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """Who is in a hurry does not wait for the grace."""
    async with running(tmp_path, shutdown_grace_seconds=60) as gateway, gateway.client() as client:
        hanging = asyncio.create_task(client.post("/generate", json={"text_input": "hang"}))
        while not gateway.triton.requests:
            await asyncio.sleep(0.01)
        gateway.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        gateway.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(gateway.process.wait(), 10)
        with contextlib.suppress(httpx.TransportError):  # the process may be gone before it has answered
            assert (await hanging).status_code >= 500


async def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    """Two workers on one port; `kill -9` of one leaves the other serving, and a new one comes; SIGTERM ends all, 0."""
    async with running(tmp_path, workers=2) as gateway:
        before = await children(gateway.process.pid)
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        async with gateway.client() as client:
            for _ in range(20):
                assert (await client.post("/generate", json={"text_input": "one two"})).status_code == 200
        while len(after := set(await children(gateway.process.pid)) - {before[0]}) < 2:
            await asyncio.sleep(0.05)
        assert before[1] in after
        gateway.process.terminate()
        assert await asyncio.wait_for(gateway.process.wait(), 15) == 0


async def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    """`kill -9` of the parent: its workers drain and end by themselves, and the port is free."""
    async with running(tmp_path, workers=2, shutdown_grace_seconds=1) as gateway:
        workers = await children(gateway.process.pid)
        gateway.process.kill()
        await gateway.process.wait()
        while any(Path(f"/proc/{each}").exists() for each in workers):
            await asyncio.sleep(0.05)


async def test_workers_that_cannot_start_end_the_parent(tmp_path: Path) -> None:
    """A broken policy is no reason to start workers for ever: the parent ends with their status and their words."""
    values = {"JWT_KEY": KEY, "POLICY_FILE": tmp_path / "none.yaml", "WORKERS": 2, "PORT": free_port()}
    environment = {**os.environ, **{f"TIDEGATE_{name}": str(value) for name, value in values.items()}}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "serve", env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert b"TIDEGATE_POLICY_FILE" in said


async def raw(gateway: Running, sent: bytes, *, seconds: float = 10) -> bytes:
    """What comes back on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), seconds)
    writer.close()
    return answer


async def test_the_head_of_a_request_is_bounded(tmp_path: Path) -> None:
    """Too many bytes: 431, in one header or in many. Too slow: 408. Both close the connection."""
    async with running(tmp_path, max_header_bytes=4096, header_timeout_seconds=0.5) as gateway:
        start = b"GET /health/live HTTP/1.1\r\nhost: x\r\n"
        assert (await raw(gateway, start + b"a: " + b"b" * 9000)).startswith(b"HTTP/1.1 431")
        assert (await raw(gateway, start + b"a: b\r\n" * 3000)).startswith(b"HTTP/1.1 431")
        assert (await raw(gateway, start)).startswith(b"HTTP/1.1 408")
        assert (await raw(gateway, b"")).startswith(b"HTTP/1.1 408")
        whole = await raw(gateway, start + b"connection: close\r\n\r\n")
        assert whole.startswith(b"HTTP/1.1 200")


async def test_what_is_no_request_gets_the_one_body(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A head too large and a line that is no HTTP: an id that the log knows too, and no time to come again."""
    async with serve(tmp_path, max_header_bytes=1024) as served:
        large = b"GET / HTTP/1.1\r\na: " + b"b" * 2000
        for sent, code in ((b"nonsense\r\n\r\n", "invalid_request"), (large, "headers_too_large")):
            with caplog.at_level("INFO", logger="tidegate"):
                head, _, body = (await sent_raw(served.url, sent)).partition(b"\r\n\r\n")
            error = json.loads(body)["error"]
            assert error["code"] == code
            assert f"x-request-id: {error['request_id']}".encode() in head
            assert b"retry-after" not in head
            assert caplog.records[-1].fields["request_id"] == error["request_id"]


async def test_the_next_head_is_not_what_was_before_it(tmp_path: Path) -> None:
    """The end of a large body and the beginning of the next request in one segment: both are answered."""
    async with serve(tmp_path, max_header_bytes=1024) as served:
        body = json.dumps({"text_input": "a " * 5000}).encode()
        first = f"POST /generate HTTP/1.1\r\nauthorization: Bearer {good_token()}\r\n"
        first += f"content-length: {len(body)}\r\n\r\n"
        start, rest = b"GET /health/live HTTP/1.1\r\nho", b"st: x\r\nconnection: close\r\n\r\n"
        answers = await sent_raw(served.url, first.encode(), body + start, rest)
    assert answers.count(b"HTTP/1.1 200 OK") == 2


async def sent_raw(url: str, *segments: bytes) -> bytes:
    """What comes back when these are sent, each when the one before has arrived."""
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
    for each in segments:
        writer.write(each)
        await writer.drain()
        await asyncio.sleep(0.1)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


async def test_only_the_head_is_bounded(tmp_path: Path) -> None:
    """A body larger than that, and an answer that takes longer, are no head; nor is the second request's."""
    settings = {"max_header_bytes": 1024, "header_timeout_seconds": 0.3}
    async with running(tmp_path, **settings) as gateway, gateway.client() as client:
        for _ in range(2):
            answer = await client.post("/generate", json={"text_input": "a " * 30_000})
            assert answer.status_code == 200
        body = {"text_input": "slow", "stream": True, "timeout_seconds": 1.5}
        text = (await client.post("/generate", json=body)).text
    assert "deadline_exceeded" in text
    assert "408" not in text


async def test_connections_are_bounded(tmp_path: Path) -> None:
    """One too many is told so at once; when another leaves, there is room again."""
    async with running(tmp_path, max_connections=3) as gateway:
        await asyncio.sleep(0.1)
        held = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(3)]
        await asyncio.sleep(0.1)
        assert (await raw(gateway, b"")).startswith(b"HTTP/1.1 503")
        for _, writer in held:
            writer.close()
        await asyncio.sleep(0.2)
        async with gateway.client() as client:
            assert (await client.get("/health/live")).status_code == 200


async def test_a_body_that_does_not_come_is_408(tmp_path: Path) -> None:
    """The body is read inside the request's own time."""
    async with running(tmp_path, request_timeout_seconds=0.5) as gateway, gateway.client() as client:

        async def never() -> object:
            yield b"{"
            await asyncio.sleep(5)

        response = await client.post("/generate", content=never())
    assert (response.status_code, response.json()["error"]["code"]) == (408, "request_timeout")


async def test_a_body_that_still_comes_at_the_end_is_told_so(tmp_path: Path) -> None:
    """The grace is over and the request has not arrived: 503 in the one body, and no defect in the log."""
    async with running(tmp_path, shutdown_grace_seconds=1) as gateway, gateway.client() as client:

        async def never() -> object:
            yield b"{"
            gateway.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(5)

        response = await client.post("/generate", content=never())
        assert (response.status_code, response.json()["error"]["code"]) == (503, "shutting_down")
        assert response.headers["retry-after"] == "1"
        assert await asyncio.wait_for(gateway.process.wait(), 10) == 0
    assert "Exception" not in (tmp_path / "gateway.log").read_text()
