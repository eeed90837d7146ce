"""Calls that are passed on as they came: bytes in, bytes out, nothing read. For the KServe door."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from gateway.errors import GatewayError, ShuttingDown
from gateway.triton.endings import Endings
from gateway.triton.translate import from_forwarded

SERVICE = "/inference.GRPCInferenceService/"


class Forwarder:
    """Passes calls on over ``channel``. Cancelling whoever waits for a call cancels the call.
    Failures are :class:`gateway.errors.GatewayError`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._methods: dict[str, grpc.aio.UnaryUnaryMultiCallable] = {}
        self._one = channel.unary_stream(SERVICE + "ModelStreamInfer")
        self._many = channel.stream_stream(SERVICE + "ModelStreamInfer")
        self._calls: set[Any] = set()
        self.endings = Endings()
        self.was_cut = False

    def cut(self) -> None:
        """End every running call; who waits for one gets :class:`ShuttingDown`."""
        self.was_cut = True
        for call in list(self._calls):
            call.cancel()

    async def unary(self, method: str, request: bytes, timeout_seconds: float, *, told: bool = False) -> bytes:
        """One request, one response. ``told`` passes on whatever Triton says of a failure."""
        if method not in self._methods:  # names come from the door's closed table
            self._methods[method] = self._channel.unary_unary(SERVICE + method)
        call = self._methods[method](request, timeout=timeout_seconds)
        self._calls.add(call)
        try:
            response: bytes = await call
            return response
        except grpc.RpcError as error:
            raise from_forwarded(error, told=told) from None
        except asyncio.CancelledError:
            if self.was_cut and call.cancelled():
                raise ShuttingDown from None
            raise
        finally:
            self._calls.discard(call)

    def ask(self, request: bytes, timeout_seconds: float) -> Upstream:
        """One infer request, to be read to its end, let end or cancelled."""
        return Upstream(self, self._one(request, timeout=timeout_seconds))

    def open(self) -> Upstream:
        """A stream for many infer requests."""
        return Upstream(self, self._many())

    def started(self, call: Any) -> None:
        """Remember a stream, until it is over."""
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)


class Upstream:
    """One stream to Triton. Its methods raise :class:`gateway.errors.GatewayError`."""

    def __init__(self, forwarder: Forwarder, call: Any) -> None:
        self._forwarder, self._call = forwarder, call
        forwarder.started(call)

    async def write(self, request: bytes) -> None:
        """One more request."""
        try:
            await self._call.write(request)
        except grpc.RpcError as error:
            raise from_forwarded(error) from None
        except asyncio.InvalidStateError:
            raise await self._failure() from None
        except asyncio.CancelledError:
            self._if_cut()
            raise

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The responses, as they come."""
        try:
            async for response in self._call:
                yield response
        except grpc.RpcError as error:
            raise from_forwarded(error) from None
        except asyncio.CancelledError:
            self._if_cut()
            raise

    async def no_more(self) -> None:
        """Everything was asked. Once it is answered, Triton ends the stream."""
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            await self._call.done_writing()

    def let_end(self) -> None:
        """Everything is answered: Triton ends it."""
        self._forwarder.endings.let_end(self._call)

    def cancel(self) -> None:
        """End it; Triton stops what it was asked."""
        self._call.cancel()

    def _if_cut(self) -> None:
        if self._forwarder.was_cut and self._call.cancelled():
            raise ShuttingDown from None

    async def _failure(self) -> GatewayError:
        """Writing to a call that has already failed: its status says why."""
        if self._forwarder.was_cut:
            return ShuttingDown()
        status, nothing = await self._call.code(), grpc.aio.Metadata()
        return from_forwarded(grpc.aio.AioRpcError(status, nothing, nothing, await self._call.details()))
