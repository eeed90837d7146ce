"""The process with two doors: its workers, its end, its port."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from ..conftest import KEY, free_port
from .kserve import bearer, infer, texts_of
from .process import running, started


def stub_of(channel: grpc.aio.Channel) -> Any:
    """The raw stub."""
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def listeners(port: int) -> int:
    """Sockets that listen on the port (state 0A in the kernel's table)."""
    tables = [Path("/proc/net", name).read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


async def test_every_worker_answers_on_the_one_port(tmp_path: Path) -> None:
    """Each listens by itself (SO_REUSEPORT), the kernel shares connections out, and SIGTERM ends them all with 0."""
    async with running(tmp_path, "--workers", "2") as process:
        for _ in range(200):
            if listeners(process.grpc_port) == 2:
                break
            await asyncio.sleep(0.05)
        assert listeners(process.grpc_port) == 2
        for _ in range(12):
            async with grpc.aio.insecure_channel(
                process.address, options=(("grpc.use_local_subchannel_pool", 1),)
            ) as channel:
                response = await stub_of(channel).ModelInfer(infer("numbers", 1.0), metadata=bearer())
                assert response.outputs[0].name == "doubled"
        process.child.terminate()
        assert await asyncio.wait_for(process.child.wait(), 20) == 0
    assert listeners(process.grpc_port) == 0


async def open_stream(channel: grpc.aio.Channel, *requests: Any) -> Any:
    """A stream on which these requests were sent."""
    call = stub_of(channel).ModelStreamInfer(metadata=bearer())
    for request in requests:
        await call.write(request)
    return call


async def ended(call: Any) -> grpc.aio.AioRpcError:
    """The status a stream ends with."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return caught.value


async def test_at_sigterm_what_runs_may_end_and_the_rest_is_told(tmp_path: Path) -> None:
    """Not ready at once; idle streams end with a status that says why; what runs longer than the grace is cut with an
    error of its own; the process exits with 0 within its time."""
    async with (
        running(tmp_path, shutdown_grace_seconds="3", shutdown_delay_seconds="0.5") as process,
        grpc.aio.insecure_channel(process.address) as channel,
    ):
        idle = await open_stream(channel, infer("numbers", 1.0))
        await idle.read()
        slow = await open_stream(channel, infer("generate", "slow", id="s"))
        assert texts_of((await slow.read()).infer_response.raw_output_contents[0]) == ["one"]
        hanging = await open_stream(channel, infer("numbers", -1.0, id="h"))
        while len(process.triton.asked) < 3:
            await asyncio.sleep(0.01)
        process.child.send_signal(signal.SIGTERM)
        began = time.monotonic()
        while (await stub_of(channel).ServerReady(pb.ServerReadyRequest())).ready:
            assert time.monotonic() - began < 0.4
        error = await ended(idle)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(error.trailing_metadata() or ())["tidegate-code"] == "shutting_down"
        for call in (slow, hanging):
            assert (await call.read()).error_message.startswith("shutting_down: ")
            assert (await ended(call)).code() is grpc.StatusCode.UNAVAILABLE
        assert await asyncio.wait_for(process.child.wait(), 10) == 0
        assert time.monotonic() - began < 6


async def test_a_stream_that_ends_in_time_is_not_cut(tmp_path: Path) -> None:
    """What runs at SIGTERM is answered to its end, and the process does not wait any longer."""
    text = "abcdefghij" * 60
    async with (
        running(tmp_path, shutdown_grace_seconds="20") as process,
        grpc.aio.insecure_channel(process.address) as channel,
    ):
        call = await open_stream(channel, infer("letters", text))
        said = [(await call.read()).infer_response]
        process.child.send_signal(signal.SIGTERM)
        while "".join(texts_of(each.raw_output_contents[0])[0] for each in said) != text:
            said.append((await call.read()).infer_response)
        assert (await ended(call)).code() is grpc.StatusCode.UNAVAILABLE
        assert await asyncio.wait_for(process.child.wait(), 5) == 0


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    """One process alone does not share its port with whoever is there already."""
    async with running(tmp_path) as process:
        settings = {"jwt_key": KEY, "policy_file": str(tmp_path / "policy.yaml"), "port": str(free_port())}
        second = await started({**settings, "grpc_port": str(process.grpc_port)})
        output, _ = await asyncio.wait_for(second.communicate(), 20)
        assert second.returncode not in (0, None)
        assert b"TIDEGATE_GRPC_PORT: cannot listen" in output
