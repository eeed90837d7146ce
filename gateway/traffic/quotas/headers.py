"""The fields ``RateLimit-Policy`` and ``RateLimit``: draft-ietf-httpapi-ratelimit-headers-11 (2026-05).

The draft registers the units ``requests`` and ``concurrent-requests``. Ours of tokens is called ``tokens``, which is
not registered; left out it would say ``requests``, which is wrong.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from gateway.traffic.quotas.account import NEVER, WINDOWS, Reply
from gateway.traffic.quotas.config import KINDS, Kind, Limits

WORDS: dict[Kind, str] = {
    "requests_per_second": "{} requests a second have come already; send them more slowly",
    "concurrent_streams": "{} requests run at once already; wait until one of them has ended",
    "tokens_per_minute": "the {} tokens of a minute are used up; wait until some of them are a minute old",
    "tokens_per_day": "the {} tokens of a day are used up; wait until some of them are a day old",
}


@functools.lru_cache(maxsize=1024)
def policy_field(limits: Limits) -> str:
    """``RateLimit-Policy``: one item for each limit."""
    items = []
    for kind, limit in zip(KINDS, limits.values(), strict=True):
        if limit is None:
            continue
        if kind == "requests_per_second":
            items.append(f'"{kind}";q={limit};w=1')
        elif kind == "concurrent_streams":
            items.append(f'"{kind}";q={limit};qu="concurrent-requests"')
        else:
            items.append(f'"{kind}";q={limit};qu="tokens";w={WINDOWS[kind].seconds}')
    return ", ".join(items)


def limit_field(reply: Reply) -> str:
    """``RateLimit``: what is left by limit. A refusal names only the limit that refused, so that no effective window is
    longer than ``Retry-After`` says."""
    items = []
    for kind, left, frees in zip(KINDS, reply.left, reply.frees, strict=True):
        if left is not None and reply.refused in (None, kind):
            items.append(f'"{kind}";r={left}' + ("" if frees is None else f";t={math.ceil(frees)}"))
    return ", ".join(items)


def fields(limits: Limits, reply: Reply) -> dict[str, str]:
    """Both, by name; none where there is no limit, or nobody knows what is left."""
    both = {"RateLimit-Policy": policy_field(limits), "RateLimit": limit_field(reply)}
    return {name: field for name, field in both.items() if field}


def refusal(limits: Limits, reply: Reply) -> dict[str, Any]:
    """The arguments of :class:`gateway.errors.QuotaExceeded`. ``Retry-After`` is rounded up, so that it is true."""
    kind = reply.refused
    assert kind is not None, "only a refusal is refused"  # noqa: S101 - a contract of this package
    limit = limits.values()[KINDS.index(kind)]
    if reply.wait == NEVER:
        message = f"{kind}: the prompt alone is longer than the {limit} tokens that your tenant may use; shorten it"
        return {"message": message, "headers": fields(limits, reply)}
    message = f"{kind}: {WORDS[kind].format(limit)}"
    return {
        "message": message,
        "retry_after_seconds": max(1, math.ceil(reply.wait)),
        "headers": fields(limits, reply),
    }
