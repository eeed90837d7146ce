"""How Triton is asked: one gRPC channel per process, one stream per request.

The raw stubs of Triton's own client package are used; its convenience class costs more than the rest of a call.
Cancelling a stream cancels the request in Triton, and the backend frees its place in the batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from gateway.errors import TritonUnavailable, UpstreamError
from gateway.triton import contract
from gateway.triton.contract import Delta, ModelInfo, Value
from gateway.triton.translate import from_status, from_text

PROBE_SECONDS = 1.0
MODEL_INFO_SECONDS = 5.0
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)


class TritonClient:
    """The model ``model`` behind Triton at ``url`` (host:port). Made inside a running event loop."""

    def __init__(self, url: str, model: str) -> None:
        self.model = model
        self._channel = grpc.aio.insecure_channel(url, options=CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._info: ModelInfo | None = None
        self._info_until = 0.0
        self._info_lock = asyncio.Lock()
        self._endings: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Close the channel; running calls are cancelled."""
        await self._channel.close()

    async def not_ready(self) -> str | None:
        """Why Triton cannot serve the model now; None when it can."""
        try:
            request = pb.ModelReadyRequest(name=self.model)
            ready = await self._stub.ModelReady(request, timeout=PROBE_SECONDS)
        except grpc.RpcError as error:
            return f"Triton cannot be reached ({_status_name(error)})"
        return None if ready.ready else f"Triton does not have the model '{self.model}' ready"

    async def info(self) -> ModelInfo:
        """The model's description of itself, asked again after a few seconds: a new version may have another template.
        Raises :class:`TritonUnavailable` or :class:`UpstreamError`."""
        async with self._info_lock:
            if self._info is None or time.monotonic() > self._info_until:
                try:
                    request = pb.ModelConfigRequest(name=self.model)
                    config = await self._stub.ModelConfig(request, timeout=PROBE_SECONDS)
                except grpc.RpcError as error:
                    self._info = None
                    if error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.NOT_FOUND):
                        raise TritonUnavailable from None
                    # Triton says INVALID_ARGUMENT or UNAVAILABLE of a model that is not loaded.
                    if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                        raise TritonUnavailable from None
                    raise from_status(error) from None
                try:
                    self._info = contract.model_info(config)
                except contract.ContractError as error:
                    raise UpstreamError(str(error)) from None
                self._info_until = time.monotonic() + MODEL_INFO_SECONDS
            return self._info

    async def generate(
        self, request_id: str, values: Mapping[str, Value], timeout_seconds: float
    ) -> AsyncIterator[Delta]:
        """Ask, and yield the responses as they come; the last one has a ``finish_reason``. Closing the iterator cancels
        the request in Triton. Raises :class:`gateway.errors.GatewayError`."""
        request = contract.infer_request(self.model, request_id, values)
        call = self._stub.ModelStreamInfer(timeout=timeout_seconds)
        answered = False
        try:
            await call.write(request)
            await call.done_writing()
            async for message in call:
                if message.error_message:
                    raise from_text(message.error_message)
                delta = contract.read_response(message.infer_response)
                if delta is not None:
                    answered = bool(delta.finish_reason)
                    yield delta
                    if delta.finish_reason:
                        return
                if contract.is_final(message.infer_response):
                    break
            raise UpstreamError("the model ended without a finish reason")
        except grpc.RpcError as error:
            raise from_status(error) from None
        except asyncio.InvalidStateError:
            # Writing to a call that has already failed: its status says why.
            raise from_status(await _failure(call)) from None
        except contract.ContractError as error:
            raise UpstreamError(str(error)) from None
        finally:
            if answered:
                self._let_end(call)
            else:
                call.cancel()

    def _let_end(self, call: grpc.aio.StreamStreamCall) -> None:
        """Read an answered call to its end, which is a moment away. A cancellation that meets the end of its request
        makes Triton 2.51 keep the request, and with it the model's version, for ever (server pull request 8078)."""
        ending = asyncio.create_task(_to_its_end(call))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)


async def _to_its_end(call: grpc.aio.StreamStreamCall) -> None:
    with contextlib.suppress(grpc.RpcError):
        async for _ in call:
            pass


async def _failure(call: grpc.aio.StreamStreamCall) -> grpc.RpcError:
    status = await call.code()
    return grpc.aio.AioRpcError(status, grpc.aio.Metadata(), grpc.aio.Metadata())


def _status_name(error: grpc.RpcError) -> str:
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else "unknown"
