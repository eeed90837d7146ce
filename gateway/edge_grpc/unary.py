"""``ModelInfer``: one request, one response.

A generation model streams, and Triton itself refuses to answer such a model in one response. Here its whole text is
collected, as ``POST /generate`` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from tritonclient.grpc import service_pb2 as pb

from gateway.edge_grpc.calls import Call, Record
from gateway.edge_grpc.incoming import Incoming, Kind
from gateway.edge_grpc.intake import Intake
from gateway.edge_grpc.messages import parsed
from gateway.errors import MethodNotAllowed, UpstreamError
from gateway.triton import TokenLogprob


async def infer(intake: Intake, call: Call, record: Record, messages: AsyncIterator[bytes]) -> bytes:
    """The response, on the wire. Raises :class:`gateway.errors.GatewayError`."""
    await intake.principal(call)  # before a byte of the message is read
    raw = await intake.message(call, messages)
    record.take_place()
    one = await intake.admit(call, record, parsed(pb.ModelInferRequest, raw), raw)
    if one.kind is Kind.GENERATES:
        return await _generated(intake, call, one)
    if one.model.decoupled:
        raise MethodNotAllowed("this model streams its answers; ask it through ModelStreamInfer")
    if one.kind is Kind.TENSORS:
        async with intake.lease(one) as lease:
            return await intake.forwarder.unary(
                "ModelInfer", one.wire(lease.priority, stream=False), one.seconds_left()
            )
    return await _screened(intake, one)


async def _screened(intake: Intake, one: Incoming) -> bytes:
    """Asked as a stream of one response, which tells Triton's own words from the model's when it fails."""
    async with intake.lease(one) as lease, contextlib.aclosing(intake.screen.ask(one, lease)) as responses:
        async for response in responses:
            return bytes(response.SerializeToString())
    raise UpstreamError


async def _generated(intake: Intake, call: Call, one: Incoming) -> bytes:
    answers = one.answers()
    ask = one.ask(intake.limits, stream=False)
    texts: list[str] = []
    logprobs: list[TokenLogprob] = []
    try:
        answer = await intake.generation.start(one.principal, ask)
        try:
            async for delta in answer:
                texts.append(delta.text)
                logprobs += delta.logprobs
        finally:
            await answer.close()
    finally:
        call.trailing.update(ask.headers)
    message = answers.message(one.ended(answer), "".join(texts), logprobs, final=True)
    return bytes(message.infer_response.SerializeToString())
