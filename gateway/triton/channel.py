"""How a channel to Triton is opened: every call goes to the next ready server that the name stands for.

A plain channel keeps to the first address that answers, and so one gateway to one Triton. With ``round_robin`` it
connects to all addresses of the name (a headless service in Kubernetes). A name is resolved again when a connection
ends, so servers end theirs now and then (``--grpc-max-connection-age``, calls in peace): so a new one is found.
"""

from __future__ import annotations

import json

import grpc

MESSAGE_BYTES = 64 << 20
SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
OPTIONS = (
    ("grpc.service_config", SERVICE_CONFIG),
    ("grpc.service_config_disable_resolution", 1),  # no look-up of a configuration in DNS
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
)


def open_channel(url: str, ca: bytes | None = None, message_bytes: int = MESSAGE_BYTES) -> grpc.aio.Channel:
    """A channel to ``url``: host:port, resolved by DNS, or a target of gRPC's own (``ipv4:...``, ``unix:...``); over
    TLS if ``ca`` has the certificates (PEM) that Triton's must come from. Made inside a running event loop."""
    options = (
        *OPTIONS,
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.max_send_message_length", message_bytes),
    )
    target = url if _has_scheme(url) else f"dns:///{url}"
    if ca is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(ca), options=options)


def _has_scheme(url: str) -> bool:
    scheme, colon, rest = url.partition(":")
    return bool(colon) and scheme.isalnum() and not rest.partition("/")[0].isdigit()
