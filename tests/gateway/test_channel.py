"""The channel to Triton: which server a call goes to, and how a new one is found."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from gateway.triton.channel import open_channel

from .conftest import free_port
from .fake_triton import FakeTriton

SHORT_LIVED = [("grpc.max_connection_age_ms", 1_000), ("grpc.max_connection_age_grace_ms", 60_000)]
ONE, TWO = "127.0.0.1", "127.0.0.2"


class CountingTriton(FakeTriton):
    """Also knows how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """Counts."""
        self.asked += 1
        return await super().ModelReady(request, context)


class NameServer(asyncio.DatagramProtocol):
    """Answers every question for an IPv4 address with ``addresses`` (RFC 1035), and any other with nothing."""

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses

    def connection_made(self, transport: Any) -> None:
        """Of asyncio."""
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        """One question, one answer."""
        end = data.index(b"\0", 12) + 5
        wants_ipv4 = data[end - 4 : end - 2] == b"\0\1"
        found = self.addresses if wants_ipv4 else []
        answers = [b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(each) for each in found]
        head = data[:2] + struct.pack(">HHHHH", 0x8180, 1, len(found), 0, 0)
        self._transport.sendto(head + data[12:end] + b"".join(answers), address)


@contextlib.asynccontextmanager
async def two_tritons(port: int) -> AsyncIterator[tuple[CountingTriton, CountingTriton]]:
    """On one port of two loopback addresses; connections live a second, as Triton's do half a minute."""
    tritons, servers = (CountingTriton(), CountingTriton()), []
    for triton, address in zip(tritons, (ONE, TWO), strict=True):
        server = grpc.aio.server(options=SHORT_LIVED)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
        assert server.add_insecure_port(f"{address}:{port}")
        await server.start()
        servers.append(server)
    try:
        yield tritons
    finally:
        for server in servers:
            await server.stop(None)


@contextlib.asynccontextmanager
async def named(addresses: list[str], port: int) -> AsyncIterator[Any]:
    """A stub over the channel to a name that stands for ``addresses``, which may be changed."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: NameServer(addresses), local_addr=(ONE, 0))
    channel = open_channel(f"dns://{ONE}:{transport.get_extra_info('sockname')[1]}/triton.test:{port}")
    try:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)
    finally:
        await channel.close()
        transport.close()


async def ask(stub: Any) -> None:
    await stub.ModelReady(pb.ModelReadyRequest(name="generate"), wait_for_ready=True, timeout=10)


async def test_calls_take_turns_over_every_server() -> None:
    """Two servers behind a name get half of the calls each."""
    port = free_port()
    async with two_tritons(port) as tritons, named([ONE, TWO], port) as stub:
        while not all(triton.asked for triton in tritons):
            await ask(stub)
        before = [triton.asked for triton in tritons]
        for _ in range(20):
            await ask(stub)
        assert [triton.asked - asked for triton, asked in zip(tritons, before, strict=True)] == [10, 10]


async def test_a_new_server_is_found() -> None:
    """A server that joins the name gets calls without an error and without a restart, since connections end."""
    port = free_port()
    addresses = [ONE]
    async with two_tritons(port) as (_, new), named(addresses, port) as stub:
        await ask(stub)
        addresses.append(TWO)
        deadline = asyncio.get_running_loop().time() + 30
        while not new.asked:
            assert asyncio.get_running_loop().time() < deadline, "the new server was not found"
            await ask(stub)
            await asyncio.sleep(0.05)


async def test_a_server_that_is_down_is_passed_over() -> None:
    """Calls go to the others while DNS still names one that nobody serves."""
    port = free_port()
    triton, server = CountingTriton(), grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    server.add_insecure_port(f"{ONE}:{port}")
    await server.start()
    async with named([ONE, TWO], port) as stub:
        for _ in range(10):
            await ask(stub)
    await server.stop(None)
    assert triton.asked == 10


@pytest.mark.parametrize(
    "url", ["127.0.0.1:{port}", "localhost:{port}", "dns:///127.0.0.1:{port}", "ipv4:127.0.0.1:{port}"]
)
async def test_a_url_is_host_and_port_or_a_target(url: str) -> None:
    """Whatever names the server reaches it."""
    port = free_port()
    async with two_tritons(port) as (triton, _):
        channel = open_channel(url.format(port=port))
        await ask(service_pb2_grpc.GRPCInferenceServiceStub(channel))
        await channel.close()
        assert triton.asked == 1
