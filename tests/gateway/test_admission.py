"""Who gets in: the bound, the rate that things drain at, and one deadline for everything."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import anyio
import httpx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.errors import Overloaded, TooManyRequests
from gateway.traffic.admission import Admission, Place

from .conftest import Served, good_token, serve
from .test_errors import refusal


class Clock:
    """A clock that is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def busy(rate: float, running: int, most: int = 1000) -> tuple[Admission, Clock, list[Place]]:
    """``running`` in flight, in their places, of which ``rate`` a second have been served lately."""
    clock = Clock()
    admission = Admission(most, clock)
    places = [admission.enter() for _ in range(running)]
    for _ in range(40):
        clock.now += 1 / rate
        admission.enter().leave(served=True)
    return admission, clock, places


def test_the_bound_is_exact_and_retry_after_follows_the_drain() -> None:
    """The last place is given, the next one is refused; half the queue at ten a second takes so many seconds."""
    admission, _, _ = busy(rate=10, running=100, most=102)
    admission.enter()
    admission.enter()
    with pytest.raises(TooManyRequests) as refused:
        admission.enter()
    assert refused.value.retry_after_seconds == pytest.approx(102 / 2 / 10, abs=1)


@given(rate=st.floats(0.1, 500), running=st.integers(2, 500), seconds=st.floats(0.1, 600))
def test_who_cannot_be_answered_in_time_is_refused(rate: float, running: int, seconds: float) -> None:
    """By Little's law with a margin, and only then; Retry-After is at least a second and at most a minute."""
    assume(rate > 0.5 or running >= 8)  # so slow a rate says nothing of a few
    admission, _, _ = busy(rate, running)
    needed = 1.25 * admission.running / rate
    if needed > seconds * 1.05:
        with pytest.raises(Overloaded) as refused:
            admission.require_time(seconds)
        assert 1 <= (refused.value.retry_after_seconds or 0) <= 60
    elif needed < seconds * 0.95:
        admission.require_time(seconds)


def test_an_unknown_rate_refuses_nobody() -> None:
    """At the start, after an idle gap, or when all that happened is long ago, nothing is known."""
    admission, clock, places = busy(rate=1, running=500)
    clock.now += 120
    admission.require_time(0.1)
    for place in places * 2:
        place.leave()
    assert admission.running == 0
    admission.enter()
    assert admission.rate() is None


def test_a_few_long_answers_shut_nobody_out() -> None:
    """Answers of many seconds end rarely, also where nobody waits."""
    admission, _, _ = busy(rate=0.1, running=7)
    admission.require_time(1)


@pytest.mark.parametrize("where", ["body", "header", "both", "capped"])
async def test_a_request_has_one_deadline(tmp_path: Path, where: str) -> None:
    """From the body or the header, the shorter of both, never beyond the gateway's own: 504 in time, Triton is told."""
    body = {"text_input": "hang", **({"timeout_seconds": 0.3 if where == "body" else 60} if where != "header" else {})}
    headers = {"X-Request-Timeout-Seconds": "0.3" if where in ("header", "both") else "60"}
    limits = {"max_request_timeout_seconds": 0.3} if where == "capped" else {}
    async with serve(tmp_path, **limits) as served, served.client() as client:
        began = asyncio.get_running_loop().time()
        response = await client.post("/generate", json=body, headers=headers)
        assert asyncio.get_running_loop().time() - began < 5
        refusal(response, 504, "deadline_exceeded")
        await asyncio.wait_for(served.triton.cancelled.wait(), 2)


@pytest.mark.parametrize("stream", [False, True])
async def test_choices_whose_time_is_over_leave_no_place_taken(tmp_path: Path, stream: bool) -> None:
    """However late within its few milliseconds a request of several answers fails, all places are free again."""
    body = {"model": "generate", "prompt": "hang", "n": 4, "stream": stream}
    async with serve(tmp_path, max_concurrent_requests=4) as served, served.client() as client:
        for tenths in range(10, 100, 2):
            headers = {"X-Request-Timeout-Seconds": str(tenths / 10_000)}
            assert (await client.post("/v1/completions", json=body, headers=headers)).status_code == 504
        assert (await client.post("/v1/completions", json={**body, "prompt": "hi"})).status_code == 200


async def test_who_does_not_read_is_cut_off_after_the_deadline(tmp_path: Path) -> None:
    """The stream is full, its client takes nothing: the place is free again, Triton is told, the reason is counted."""
    body = json.dumps({"model": "generate", "prompt": "a " * 30_000, "stream": True, "logprobs": 20}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {good_token()}\r\n"
        f"x-request-timeout-seconds: 3\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    async with serve(tmp_path, max_concurrent_requests=1) as served, served.client() as client:
        with socket.socket() as unread:
            unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            unread.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(unread, ("127.0.0.1", httpx.URL(served.url).port))
            await loop.sock_sendall(unread, head.encode() + body)
            await asyncio.wait_for(served.triton.cancelled.wait(), 8)
            with anyio.fail_after(5):
                while (await client.post("/generate", json={"text_input": "hi"})).status_code == 429:
                    await asyncio.sleep(0.01)
        text = (await client.get("/metrics")).text
    assert 'tidegate_requests_total{outcome="deadline_exceeded",route="/v1/completions"} 1.0' in text


@pytest.mark.parametrize("setting", ["header", "body_timeout_seconds"])
async def test_slow_bodies_hold_up_nobody(tmp_path: Path, setting: str) -> None:
    """A request takes its place when its body is here, and that has to be within its own time and the body's."""
    header = "x-request-timeout-seconds: 0.5\r\n" if setting == "header" else ""
    limits = {} if header else {setting: 0.5}
    sent = f"POST /generate HTTP/1.1\r\nauthorization: Bearer {good_token()}\r\n{header}content-length: 9\r\n\r\n{{"
    async with serve(tmp_path, max_concurrent_requests=1, **limits) as served, served.client() as client:
        port = httpx.URL(served.url).port
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        for _, writer in slow:
            writer.write(sent.encode())
        assert (await client.post("/generate", json={"text_input": "hi"})).status_code == 200
        for reader, writer in slow:
            answer = await asyncio.wait_for(reader.readuntil(b"}}"), 3)
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"request_timeout" in answer
            writer.close()


@pytest.mark.parametrize("value", ["soon", "-1", "0", "0.0", "nan", "inf", "1_0", "1,2"])
async def test_a_deadline_that_is_no_number_is_422(served: Served, value: str) -> None:
    """The header is named."""
    async with served.client() as client:
        response = await client.post(
            "/generate", json={"text_input": "x"}, headers={"X-Request-Timeout-Seconds": value}
        )
    assert refusal(response, 422, "invalid_field")["field"] == "X-Request-Timeout-Seconds"


async def test_a_model_that_is_not_there_is_404(served: Served) -> None:
    """By name; nothing is asked."""
    served.triton.only = "generate"
    async with served.client() as client:
        response = await client.post("/generate", json={"text_input": "x", "model": "other"})
        assert refusal(response, 404, "model_not_found")["field"] == "model"
        assert (await client.post("/generate", json={"text_input": "x", "model": "generate"})).status_code == 200
    assert len(served.triton.requests) == 1
