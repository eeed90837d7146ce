"""How a channel to Triton is opened."""

from __future__ import annotations

import grpc

MESSAGE_BYTES = 64 << 20
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Behind a name with several addresses every call goes to the next one.
    ("grpc.service_config", '{"loadBalancingConfig":[{"round_robin":{}}]}'),
)


def open_channel(url: str, ca: bytes | None = None, message_bytes: int = MESSAGE_BYTES) -> grpc.aio.Channel:
    """A channel to ``url`` (host:port; a name with several addresses is balanced call by call), over TLS if ``ca`` has
    the certificates (PEM) that Triton's must come from. Inside a running event loop."""
    options = (
        *_OPTIONS,
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.max_send_message_length", message_bytes),
        ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
    )
    if ca is None:
        return grpc.aio.insecure_channel(url, options=options)
    return grpc.aio.secure_channel(url, grpc.ssl_channel_credentials(ca), options=options)
