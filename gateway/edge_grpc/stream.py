"""``ModelStreamInfer``: many requests on one stream, answered as they get ready.

A request's failure is a message of its own and ends nothing else. What fails the whole stream is a status.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import grpc
from tritonclient.grpc import service_pb2 as pb

from gateway.edge_grpc.calls import Call
from gateway.edge_grpc.incoming import Incoming, Kind
from gateway.edge_grpc.intake import Intake
from gateway.edge_grpc.messages import HARMLESS_ID, failed, parsed
from gateway.edge_grpc.passage import Passage
from gateway.errors import ClientClosed, DeadlineExceeded, GatewayError, InternalError, ShuttingDown

LAST_SECONDS = 1.0
"""Beyond a request's deadline, to tell its client. Who has not taken it then does not read: the stream ends."""
STATUS_KEY = "triton_grpc_error"
"""Triton's own metadata: with "true", the first failure of a request ends the stream with that failure's status."""


class Conversation:
    """One client's stream. ``route`` is what its requests are counted as. Made in the task that will hold it."""

    def __init__(self, intake: Intake, call: Call, route: str) -> None:
        self._intake, self._call, self._route = intake, call, route
        self._passage = Passage(intake.forwarder, self._write)
        self._ending: GatewayError = ShuttingDown()
        self._places = asyncio.Semaphore(intake.limits.requests_per_stream)
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._holder = asyncio.current_task()
        self._failure: GatewayError | None = None
        self._reading, self._leaving, self._over, self._gone, self._count = True, False, False, False, 0

    async def hold(self, messages: AsyncIterator[bytes]) -> None:
        """Answer every request until the client says that there are no more. Raises :class:`GatewayError` when the
        stream as a whole must end."""
        try:
            async for raw in messages:
                await self._places.acquire()  # a full stream is not read on: the client's writes wait
                await self._start(raw)
            self._reading = False
            while self._tasks:
                await asyncio.wait(self._tasks)
        except asyncio.CancelledError:
            if self._failure is not None:
                raise self._failure from None
            raise
        finally:
            self._over = True
            for task in self._tasks:
                task.cancel()
            await self._passage.close()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def leave(self, error: GatewayError | None = None) -> None:
        """End as soon as nothing is being answered: with ``error``, or since this gateway is about to stop."""
        self._leaving, self._ending = True, error or self._ending
        self._leave_if_idle()

    def end(self, error: GatewayError) -> None:
        """End with ``error``, whatever is being answered."""
        if self._failure is None and not self._over and self._holder is not None:
            self._failure = error
            self._holder.cancel()

    async def _start(self, raw: bytes) -> None:
        """Begin to answer, and return once the next request can no longer overtake this one."""
        self._count += 1
        placed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._answer(raw, f"{self._call.request_id}-{self._count}", placed))
        self._tasks.add(task)
        task.add_done_callback(self._answered)
        await placed

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._places.release()
        self._leave_if_idle()

    def _leave_if_idle(self) -> None:
        if self._leaving and self._reading and not self._tasks:
            self.end(self._ending)

    async def _answer(self, raw: bytes, request_id: str, placed: asyncio.Future[None]) -> None:
        request = pb.ModelInferRequest()
        record = self._intake.record(self._route, self._call, request_id)
        late: asyncio.TimerHandle | None = None
        try:
            with record:
                record.take_place()
                request = parsed(pb.ModelInferRequest, raw)
                if HARMLESS_ID.fullmatch(request.id):
                    record.request_id = request.id
                one = await self._intake.admit(self._call, record, request, raw)
                late = self._ends_with(one)
                await self._by_kind(one, placed)
        except GatewayError as error:
            await self._fail(request, error)
        except Exception:  # noqa: BLE001 - the process edge: the record has logged it
            await self._fail(request, InternalError())
        finally:
            if late is not None:
                late.cancel()
            _open(placed)

    def _ends_with(self, one: Incoming) -> asyncio.TimerHandle:
        """All that a request waits for ends at its deadline, but for a client that does not read: so the stream ends
        then, and gives its places back."""
        seconds = one.deadline - time.monotonic() + LAST_SECONDS
        return asyncio.get_running_loop().call_later(seconds, self.end, DeadlineExceeded())

    async def _by_kind(self, one: Incoming, placed: asyncio.Future[None]) -> None:
        if one.kind is Kind.TENSORS:
            async with self._intake.lease(one) as lease:
                done = await self._passage.ask(one, lease.priority)
                _open(placed)
                await done
            return
        _open(placed)
        await (self._generated(one) if one.kind is Kind.GENERATES else self._screened(one))

    async def _generated(self, one: Incoming) -> None:
        answers = one.answers()
        answer = await self._intake.generation.start(one.principal, one.ask(self._intake.limits, stream=True))
        try:
            async for delta in answer:
                if delta.text or delta.logprobs or delta.finish_reason:
                    message = answers.message(delta, delta.text, delta.logprobs, final=bool(delta.finish_reason))
                    await self._write(bytes(message.SerializeToString()))
        finally:
            await answer.close()
        one.ended(answer)

    async def _screened(self, one: Incoming) -> None:
        async with (
            self._intake.lease(one) as lease,
            contextlib.aclosing(self._intake.screen.ask(one, lease)) as responses,
        ):
            async for response in responses:
                message = pb.ModelStreamInferResponse(infer_response=response)
                await self._write(bytes(message.SerializeToString()))

    async def _fail(self, request: pb.ModelInferRequest, error: GatewayError) -> None:
        if self._gone:
            return
        if self._call.one(STATUS_KEY) == "true":
            self.end(error)
        else:
            with contextlib.suppress(ClientClosed, DeadlineExceeded):
                await self._write(bytes(failed(error, request).SerializeToString()))

    async def _write(self, message: bytes) -> None:
        """Raises :class:`ClientClosed` or :class:`DeadlineExceeded` when nobody is there any more."""
        async with self._writing:
            try:
                await self._call.context.write(message)
            except grpc.aio.BaseError:
                self._gone = True
                raise (DeadlineExceeded if time.monotonic() >= self._call.ends else ClientClosed) from None


def _open(placed: asyncio.Future[None]) -> None:
    if not placed.done():
        placed.set_result(None)
