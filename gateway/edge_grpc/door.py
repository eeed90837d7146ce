"""The door: a gRPC server in the event loop of the HTTP one.

Methods come from a closed table and everything else is UNIMPLEMENTED. Every method is served as a stream on this side,
which is the same on the wire: so who calls is known before a byte of the message is read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc

from gateway.access import Principal
from gateway.edge_grpc import unary
from gateway.edge_grpc.calls import Call, Record
from gateway.edge_grpc.control import HEALTH_SERVICE, PASSED_ON, Control
from gateway.edge_grpc.intake import Intake
from gateway.edge_grpc.parts import Parts
from gateway.edge_grpc.stream import Conversation
from gateway.errors import GatewayError, InternalError, MethodNotAllowed, ShuttingDown, TooManyRequests, Unauthenticated
from gateway.triton.forward import SERVICE

Messages = AsyncIterator[bytes]
Work = Callable[[Call, Messages], Awaitable[bytes]]
INFER, STREAM = "grpc:ModelInfer", "grpc:ModelStreamInfer"
"""Those that ask a model, as metrics name them."""
METADATA_BYTES = 16 << 10
STREAMS_PER_CONNECTION = 1024
WATCH_SECONDS = 60.0
"""Between two looks at whether who opened a stream would still be let in."""
LAST_SECONDS = 0.5
"""Between cutting what runs and ending whoever has still not got an answer."""


class Door(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """The server and its methods. Made inside a running event loop."""

    def __init__(self, parts: Parts, intake: Intake, control: Control, *, shared: bool) -> None:
        """``shared``: other processes answer on the same port."""
        self._intake, self._telemetry, self._limits = intake, parts.telemetry, parts.limits
        self._conversations: dict[Conversation, str] = {}
        """And their tenants."""
        self._stopping: asyncio.Task[None] | None = None
        self._methods = self._table(control)
        self._unknown = grpc.stream_unary_rpc_method_handler(self._refuse_unknown)
        options = (
            ("grpc.max_receive_message_length", self._limits.message_bytes),
            ("grpc.so_reuseport", int(shared)),
            ("grpc.max_metadata_size", METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", METADATA_BYTES),
            ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
            ("grpc.max_allowed_incoming_connections", self._limits.connections),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        )
        self._server = grpc.aio.server(handlers=(self,), options=options)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """gRPC's: who answers a method."""
        return self._methods.get(details.method, self._unknown)

    async def start(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Listen on ``address`` (host:port; port 0 takes a free one); returns the port. Raises OSError."""
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:  # grpc's: it names the address and the reason
            raise OSError(f"TIDEGATE_GRPC_PORT: cannot listen on {address}") from error
        await self._server.start()
        return int(port)

    def leave(self, grace_seconds: float) -> None:
        """Take no new calls. What runs may end within ``grace_seconds``; streams that are idle end now."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._server.stop(grace_seconds))
            for each in list(self._conversations):
                each.leave()

    def cut(self) -> None:
        """End what still runs; the calls to Triton have been ended."""
        self.leave(LAST_SECONDS)
        asyncio.get_running_loop().call_later(LAST_SECONDS / 2, self._end_all)

    def _end_all(self) -> None:
        for each in list(self._conversations):
            each.end(ShuttingDown())

    async def stop(self) -> None:
        """Return when it is over: after its grace if it was given one, else at once."""
        if self._stopping is None:
            self.cut()
        assert self._stopping is not None, "cut() begins to stop"  # noqa: S101 - two lines above
        await self._stopping

    def _table(self, control: Control) -> dict[str, grpc.RpcMethodHandler]:
        quiet: dict[str, Work] = {
            f"{SERVICE}ServerLive": control.server_live,
            f"{SERVICE}ServerReady": control.server_ready,
            f"{SERVICE}ModelReady": control.model_ready,
            f"{HEALTH_SERVICE}Check": control.health_check,
        }
        handlers = {path: self._handler(path, work, quiet=True) for path, work in quiet.items()}
        for method in PASSED_ON:
            path = SERVICE + method.name
            handlers[path] = self._handler(path, partial(control.pass_on, method))
        for route in (INFER, STREAM):
            self._telemetry.serves(route)
        handlers[f"{SERVICE}ModelInfer"] = grpc.stream_unary_rpc_method_handler(self._infer)
        handlers[f"{SERVICE}ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        return handlers

    def _handler(self, path: str, work: Work, *, quiet: bool = False) -> grpc.RpcMethodHandler:
        route = f"grpc:{path.rsplit('/', 1)[1]}"
        if not quiet:
            self._telemetry.serves(route)

        async def answer(messages: Messages, context: Any) -> bytes:
            call = Call(context)
            record = Record(self._telemetry, None, route, call, call.request_id, quiet)
            return await self._recorded(record, lambda: work(call, messages))

        return grpc.stream_unary_rpc_method_handler(answer)

    async def _infer(self, messages: Messages, context: Any) -> bytes:
        call = Call(context)
        record = self._intake.record(INFER, call, call.request_id)
        return await self._recorded(record, lambda: unary.infer(self._intake, call, record, messages))

    async def _recorded(self, record: Record, work: Callable[[], Awaitable[bytes]]) -> bytes:
        """The answer, or the call's end with a status."""
        try:
            with record:
                response = await work()
        except GatewayError as error:
            await record.call.refuse(error)
        except Exception:  # noqa: BLE001 - the process edge: the record has logged it
            await record.call.refuse(InternalError())
        record.call.answer_id()
        return response

    async def _stream(self, messages: Messages, context: Any) -> None:
        call, route = Call(context), STREAM
        try:
            principal = await self._admitted(call, route)
            conversation = Conversation(self._intake, call, route)
            self._conversations[conversation] = principal.tenant
            self._telemetry.grpc_streams.inc()
            watch = asyncio.create_task(self._watch(call, principal.expires_at, conversation))
            try:
                await conversation.hold(messages)
            finally:
                watch.cancel()
                del self._conversations[conversation]
                self._telemetry.grpc_streams.dec()
        except GatewayError as error:
            await call.refuse(error)
        call.answer_id()

    async def _admitted(self, call: Call, route: str) -> Principal:
        """Who opens a new stream. A refusal is counted as a request's, since no request will be."""
        try:
            principal = await self._intake.principal(call)
            if len(self._conversations) >= self._limits.streams:
                raise TooManyRequests("too many streams are open; close one, or retry after a moment")
            held = sum(tenant == principal.tenant for tenant in self._conversations.values())
            if held >= max(self._limits.streams // 2, 1):
                raise TooManyRequests("the tenant has half of all streams open; close one, or retry after a moment")
        except GatewayError as error:
            Record(self._telemetry, None, route, call, call.request_id).note(error.code)
            raise
        return principal

    async def _watch(self, call: Call, expires_at: float, conversation: Conversation) -> None:
        """Who would not be let in any more can ask for nothing more, so the stream does not keep its place."""
        while True:
            await asyncio.sleep(min(max(expires_at - time.time(), 1.0), WATCH_SECONDS))
            try:
                await self._intake.principal(call)
            except Unauthenticated as error:
                conversation.leave(error)
                return
            except GatewayError:
                pass  # nobody can tell now

    async def _refuse_unknown(self, messages: Messages, context: Any) -> None:
        await Call(context).refuse(MethodNotAllowed("this door does not serve this method"))
