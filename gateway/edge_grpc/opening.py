"""The gRPC door, put together and held open."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

from gateway.edge_grpc.control import Control
from gateway.edge_grpc.credentials import server_credentials
from gateway.edge_grpc.door import Door
from gateway.edge_grpc.intake import Intake
from gateway.edge_grpc.parts import Parts
from gateway.edge_grpc.screened import Screen
from gateway.tls import Certificate
from gateway.triton import Describer, Forwarder, open_channel


@contextlib.asynccontextmanager
async def opened(
    address: str,
    parts: Parts,
    *,
    triton_url: str,
    triton_ca: bytes | None,
    text_tensors: Mapping[str, Sequence[str]],
    certificate: Certificate | None,
    shared: bool,
) -> AsyncIterator[int]:
    """A door on ``address``, open while the block runs; its port. ``text_tensors`` as
    :class:`gateway.triton.Describer` takes it, ``shared`` as :class:`Door`. Raises OSError."""
    # A channel of its own: large tensors do not stand before anybody's text.
    channel = open_channel(triton_url, triton_ca, parts.limits.message_bytes)
    forwarder, describer = Forwarder(channel), Describer(channel, text_tensors)
    intake = Intake(parts, Screen(forwarder, parts.policy, parts.limits.text_bytes), forwarder, describer)
    door = Door(parts, intake, Control(parts, forwarder, describer), shared=shared)
    parts.drain.on_close(door.leave)
    parts.drain.on_cut(forwarder.cut)
    parts.drain.on_cut(door.cut)
    try:
        credentials = None if certificate is None else server_credentials(certificate)
        yield await door.start(address, credentials)
        await door.stop()
    finally:
        await channel.close()
