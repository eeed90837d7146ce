"""What every HTTP surface does with a request that asks the model: its time, and a client that leaves."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from starlette.types import Scope

from gateway.errors import ClientClosed, InvalidField

Result = TypeVar("Result")
TIMEOUT_HEADER = b"x-request-timeout-seconds"
SECONDS = re.compile(rb"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}")


@dataclass(frozen=True)
class Limits:
    """What a request may ask for: tokens, and seconds (those it gets unless it says otherwise, the most, and the most
    for its body to arrive)."""

    max_tokens: int
    timeout_seconds: float
    max_timeout_seconds: float
    body_seconds: float

    def require_tokens(self, asked: int, field: str = "max_tokens") -> None:
        """Raises :class:`InvalidField`."""
        if asked > self.max_tokens:
            raise InvalidField(f"{field}: at most {self.max_tokens} here; ask for fewer", field=field)

    def arrival(self, scope: Scope) -> float:
        """When the body has to be here, in monotonic seconds: the time that the header asks for counts from acceptance
        on. Raises :class:`InvalidField` for a header that is no number."""
        state, asked = scope["state"], _in_header(scope["headers"])
        state["asked_seconds"] = asked
        accepted: float = state["accepted"]
        usual = self.timeout_seconds if asked is None else asked
        return accepted + min(usual, self.max_timeout_seconds, self.body_seconds)

    def deadline(self, request: Request, in_body: float | None = None) -> float:
        """When the request's time is over, in monotonic seconds: by its body and its header, the shorter of both, or as
        usual; never more than the gateway allows. The request has arrived."""
        state = request.scope["state"]
        asked = [each for each in (in_body, state["asked_seconds"]) if each is not None]
        seconds = min(asked, default=self.timeout_seconds)
        deadline: float = state["accepted"] + min(seconds, self.max_timeout_seconds)
        state["deadline"] = deadline  # for the connection, should the client not read
        return deadline


def _in_header(headers: list[tuple[bytes, bytes]]) -> float | None:
    values = [value for name, value in headers if name == TIMEOUT_HEADER]
    if not values:
        return None
    if len(values) == 1 and SECONDS.fullmatch(values[0]) and (seconds := float(values[0])):
        return seconds
    raise InvalidField("X-Request-Timeout-Seconds must be one number above 0", field="X-Request-Timeout-Seconds")


async def unless_client_leaves(request: Request, work: Awaitable[Result]) -> Result:
    """The result of ``work``, which is cancelled when the client closes the connection before. Raises ClientClosed."""
    asking = asyncio.current_task()
    left = False

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        if asking is not None:
            asking.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if left:
            raise ClientClosed from None
        raise
    finally:
        watching.cancel()
