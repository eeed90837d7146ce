"""The requests of a client's stream that carry no text: one stream to Triton, so their order, their sequences and their
responses are exactly Triton's. Their bytes are passed on as they came."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tritonclient.grpc import service_pb2 as pb

from gateway.edge_grpc.incoming import Incoming
from gateway.edge_grpc.messages import FINAL, parsed, refusal
from gateway.errors import DeadlineExceeded, GatewayError, UpstreamError
from gateway.triton import ENDING_SECONDS, Forwarder, Upstream


@dataclass
class _Pending:
    id: str
    wants_empty: bool
    done: asyncio.Future[None]
    timer: asyncio.TimerHandle


class Passage:
    """``send`` takes a response to the client."""

    def __init__(self, forwarder: Forwarder, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._forwarder, self._send = forwarder, send
        self._upstream: Upstream | None = None
        self._reader: asyncio.Task[None] | None = None
        self._pending: list[_Pending] = []

    async def ask(self, one: Incoming, priority: int) -> asyncio.Future[None]:
        """Pass a request on. The future is done with its last response, or fails with the
        :class:`gateway.errors.GatewayError` that ended it."""
        loop = asyncio.get_running_loop()
        if self._upstream is None:
            self._upstream = self._forwarder.open()
            self._reader = asyncio.create_task(self._read(self._upstream))
        upstream = self._upstream
        # A model that hangs holds up whoever waits behind it in this stream, so its stream ends with its time.
        timer = loop.call_later(one.seconds_left(), self._over, upstream, DeadlineExceeded())
        pending = _Pending(one.request.id, one.wants_empty_final, loop.create_future(), timer)
        self._pending.append(pending)
        try:
            await upstream.write(one.wire(priority, stream=True))
        except GatewayError as error:
            self._over(upstream, error)
        return pending.done

    async def close(self) -> None:
        """Cancel what still runs; where nothing does, Triton ends the stream."""
        if self._upstream is None or self._reader is None:
            return
        if not self._pending:
            await self._upstream.no_more()
            await asyncio.wait({self._reader}, timeout=ENDING_SECONDS)
        self._reader.cancel()
        if self._upstream is not None:
            self._over(self._upstream, UpstreamError())
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader

    async def _read(self, upstream: Upstream) -> None:
        error: GatewayError = UpstreamError()
        try:
            async for raw in upstream:
                await self._pass(raw)
        except GatewayError as failure:
            error = failure
        self._over(upstream, error)

    async def _pass(self, raw: bytes) -> None:
        message = parsed(pb.ModelStreamInferResponse, raw, UpstreamError)
        response = message.infer_response
        told = FINAL in response.parameters
        last = response.parameters[FINAL].bool_param if told else bool(message.error_message)
        pending = self._of(response.id)
        if message.error_message:
            error = refusal(message, told=True)
            if pending is not None and last:
                self._finish(pending, error)
                return
            message.error_message = f"{error.code}: {error.message}"
            raw = bytes(message.SerializeToString())
        if response.outputs or message.error_message or pending is None or pending.wants_empty:
            await self._send(raw)
        if pending is not None and last:
            self._finish(pending, None)

    def _of(self, id_: str) -> _Pending | None:
        """Whose response it is. Clients may use an id twice; then the older request's."""
        return next((each for each in self._pending if each.id == id_), None)

    def _finish(self, pending: _Pending, error: GatewayError | None) -> None:
        self._pending.remove(pending)
        pending.timer.cancel()
        if pending.done.done():  # whoever asked has left
            return
        if error is None:
            pending.done.set_result(None)
        else:
            pending.done.set_exception(error)

    def _over(self, upstream: Upstream, error: GatewayError) -> None:
        """This stream to Triton has ended; the next request opens another."""
        if upstream is self._upstream:
            self._upstream = None
            for pending in list(self._pending):
                self._finish(pending, error)
        upstream.cancel()
