"""What metrics, traces and feedback cost: ``python -m benchmarks.metrics_cost``, a minute.

Every series operation of a request and of a streamed token is timed by itself, for one process and for one of several
workers (whose series are files), and compared with a whole request before an instant model: its processor time and its
median latency with one client. Then ``/metrics`` is read while the gateway is as busy as it can be, and rendered for
four workers and a hundred tenants.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import harness
from benchmarks.cores import cpu_seconds
from benchmarks.streams import relay
from benchmarks.throughput import wrk
from deploy.local.stack import Stack
from gateway.feedback import open_rated
from gateway.telemetry import Telemetry, sharing
from gateway.telemetry.prices import Price
from gateway.tracing import open_tracer
from gateway.triton import Delta, ModelInfo

BEGIN, END = "<!-- metrics cost: begin -->", "<!-- metrics cost: end -->"
COMMAND = "python -m benchmarks.metrics_cost"
REPEATS, ROUNDS = 20_000, 5
LOAD_SECONDS, SCRAPES, TENANTS, WORKERS = 8, 24, 100, 4
INFO = ModelInfo("", "", "", (), 4096, precision="int8", accuracy_gate="passed")
LAST = Delta("x", "stop", 30, 16, "1")
PRICE = {"generate": Price(input=1.0, output=2.0)}


def microseconds(work: Callable[[], object]) -> float:
    """Processor time of one call, the median of some rounds."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(REPEATS):
            work()
        rounds.append((time.process_time() - began) / REPEATS * 1e6)
    return harness.median(rounds)


def operations(telemetry: Telemetry, tenant: str = "acme") -> Callable[[], None]:
    """All that is counted for one request that is answered in one piece."""

    def one() -> None:
        telemetry.in_flight.inc()
        telemetry.decided("input", "allow")
        record = telemetry.answering(
            "generate", tenant, time.monotonic(), None, operation="chat", parameters={"max_tokens": 16}
        )
        record.responded()
        telemetry.answered_by("generate", "1", INFO)
        record.sent()
        telemetry.held_back(0)
        telemetry.decided("output", "allow")
        record.ended(LAST, failed=False)
        telemetry.in_flight.dec()
        telemetry.served("/generate", "ok", 0.01)

    return one


def counting(telemetry: Telemetry) -> dict[str, float]:
    """Of a request, and of a token of a stream."""
    record = telemetry.answering("generate", "acme", 0.0, None, operation="chat", parameters={})
    record.sent()
    return {"request_us": microseconds(operations(telemetry)), "token_us": microseconds(record.sent)}


def as_a_worker(folder: Path) -> dict[str, float]:
    """The same where series are files; and one scrape of four workers with a hundred tenants each."""
    os.environ[sharing.VARIABLE] = str(folder)
    sharing.sweep(folder)
    try:
        for place in range(WORKERS):
            sharing.share(place)
            telemetry = Telemetry(prices=PRICE)
            for number in range(TENANTS):
                operations(telemetry, f"tenant-{number}")()
        figures = counting(telemetry)
        renders = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            text, _ = telemetry.exposition()
            renders.append((time.perf_counter() - began) * 1e3)
        return {**figures, "full_render_ms": harness.median(renders), "full_render_samples": text.count(b"\n")}
    finally:
        sharing.keep_to_itself()


async def remembering() -> float:
    """What it costs a request that its answer may be rated."""
    rated = open_rated(Telemetry(), seconds=600, most=1000)
    assert rated is not None, "it is on"
    numbers = iter(range(10**9))
    rounds = []
    for _ in range(ROUNDS):
        began = time.thread_time()  # of this thread alone: another one writes
        for _ in range(1000):
            rated.remember("acme", "ann", str(next(numbers)), "generate", "1")
        rounds.append((time.thread_time() - began) / 1000 * 1e6)
        await asyncio.sleep(0.2)
    await rated.close()
    return harness.median(rounds)


def tracing() -> dict[str, float]:
    """A request's spans made and ended, recorded or not; nobody takes them."""
    figures = {}
    for name, rate in (("recorded", 1.0), ("not_recorded", 0.0)):
        tracer = open_tracer("http://127.0.0.1:1", rate)
        assert tracer is not None, "it is on"

        def request(tracer: Any = tracer) -> None:
            trace = tracer.begin("POST /generate", {"http.request.method": "POST"}, {})
            for stage in ("access", "policy.input", "template"):
                with trace.stage(stage):
                    pass
            pieces, span = trace.pieces("policy.output"), trace.triton("generate", "chat", {"max_tokens": 16})
            with pieces:
                pass
            span.first_response()
            span.end("stop", "1", 30, 16)
            pieces.end("allow")
            trace.end("ok", failed=False, http_status=200)

        began = time.thread_time()
        for _ in range(1000):
            request()
        figures[f"{name}_us"] = (time.thread_time() - began) / 1000 * 1e6
    return figures


def whole_request(stack: Stack, script: Path) -> dict[str, float]:
    """Processor time of a request with 16 clients, and the median latency with one."""
    pid, token = harness.pid_of(stack.gateway), stack.token()
    wrk(stack.url, token, 16, 1, script)
    cpu, alone = [], []
    for _ in range(ROUNDS):
        before = cpu_seconds(pid)
        row = wrk(stack.url, token, 16, 2, script)
        cpu.append((cpu_seconds(pid) - before) / row["requests"] * 1e6)
        alone.append(wrk(stack.url, token, 1, 1, script)["p50_ms"])
    return {"cpu_us": harness.median(cpu), "p50_one_client_ms": harness.median(alone)}


def scrapes(stack: Stack, script: Path) -> dict[str, float]:
    """``/metrics`` while 16 clients ask as fast as they can."""
    load = threading.Thread(target=wrk, args=(stack.url, stack.token(), 16, LOAD_SECONDS, script))
    load.start()
    try:
        taken = asyncio.run(_scraped(stack))
    finally:
        load.join()
    return {"median_ms": harness.median(taken), "max_ms": max(taken)}


async def _scraped(stack: Stack) -> list[float]:
    taken = []
    async with aiohttp.ClientSession(stack.url) as session:
        await asyncio.sleep(0.5)
        for _ in range(SCRAPES):
            began = time.perf_counter()
            async with session.get("/metrics") as response:
                await response.read()
            taken.append((time.perf_counter() - began) * 1e3)
            await asyncio.sleep(0.25)
    return taken


def main(folder: Path) -> dict[str, Any]:
    """All of it, and the shares."""
    one, worker = counting(Telemetry(prices=PRICE)), as_a_worker(folder / "metrics")
    with harness.instant_stack() as stack:
        request = whole_request(stack, folder / "ask.lua")
        streamed = asyncio.run(relay(stack))
        scraped = scrapes(stack, folder / "ask.lua")
    shares = {
        f"{kind}_{what}": figures["request_us"] / request[of] / (1000 if of.endswith("ms") else 1)
        for kind, figures in (("one_process", one), ("worker", worker))
        for what, of in (("share_of_p50", "p50_one_client_ms"), ("share_of_cpu", "cpu_us"))
    }
    shares |= {
        f"{kind}_share_of_streamed_token": figures["token_us"] / streamed["cpu_us_per_response"]
        for kind, figures in (("one_process", one), ("worker", worker))
    }
    return {
        "one_process": one,
        "worker": worker,
        "request": request,
        "stream_cpu_us_per_response": streamed["cpu_us_per_response"],
        "shares": shares,
        "scrape_at_full_load": scraped,
        "remember_us": asyncio.run(remembering()),
        "trace": tracing(),
    }


def table(figures: dict[str, Any]) -> str:
    """The figures of docs/metrics.md as Markdown."""
    one, worker, shares = figures["one_process"], figures["worker"], figures["shares"]
    request, scraped, trace = figures["request"], figures["scrape_at_full_load"], figures["trace"]
    rows = [
        ("all series of a request", f"{one['request_us']:.0f} us", f"{worker['request_us']:.0f} us"),
        (
            f"of its median latency alone before an instant model ({request['p50_one_client_ms']:.1f} ms)",
            f"{shares['one_process_share_of_p50']:.1%}",
            f"{shares['worker_share_of_p50']:.1%}",
        ),
        (
            f"of its processor time at full load ({request['cpu_us']:.0f} us)",
            f"{shares['one_process_share_of_cpu']:.1%}",
            f"{shares['worker_share_of_cpu']:.1%}",
        ),
        ("a streamed token", f"{one['token_us']:.1f} us", f"{worker['token_us']:.1f} us"),
        ("`/metrics` at full load, median", f"{scraped['median_ms']:.0f} ms", ""),
        (f"rendering {WORKERS} workers with {TENANTS} tenants", "", f"{worker['full_render_ms']:.0f} ms"),
        ("remembering an answer for feedback", f"{figures['remember_us']:.1f} us", "the same"),
        ("a request's spans, recorded", f"{trace['recorded_us']:.0f} us", "the same"),
        ("a request's spans, not recorded", f"{trace['not_recorded_us']:.0f} us", "the same"),
    ]
    lines = [f"| {what} | {alone} | {shared} |" for what, alone, shared in rows]
    return "\n".join(
        [BEGIN, f"`{COMMAND}`:", "", "| | one process | one of several workers |", "|---|---|---|", *lines, END]
    )


def write_page(figures: dict[str, Any]) -> None:
    """Put the table into docs/metrics.md."""
    page = harness.ROOT / "docs" / "metrics.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(before + table(figures) + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="tidegate-metrics-") as name:
        measured = main(Path(name))
    harness.save("metrics_cost", measured)
    write_page(measured)
