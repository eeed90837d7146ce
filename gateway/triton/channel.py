"""How a channel to Triton is opened: every call goes to the next ready server that the name stands for.

A plain channel keeps to the first address that answers, and so one gateway to one Triton. With ``round_robin`` it
connects to all addresses of the name (a headless service in Kubernetes). A name is resolved again when a connection
ends, so servers end theirs now and then (``--grpc-max-connection-age``, calls in peace): so a new one is found.
"""

from __future__ import annotations

import json

import grpc

SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
OPTIONS = (
    ("grpc.service_config", SERVICE_CONFIG),
    ("grpc.service_config_disable_resolution", 1),  # no look-up of a configuration in DNS
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)


def open_channel(url: str) -> grpc.aio.Channel:
    """A channel to ``url``: host:port, resolved by DNS, or a target of gRPC's own (``ipv4:...``, ``unix:...``). Made
    inside a running event loop.
    """
    return grpc.aio.insecure_channel(url if _has_scheme(url) else f"dns:///{url}", options=OPTIONS)


def _has_scheme(url: str) -> bool:
    scheme, colon, rest = url.partition(":")
    return bool(colon) and scheme.isalnum() and not rest.partition("/")[0].isdigit()
