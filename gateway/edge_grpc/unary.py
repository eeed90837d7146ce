"""``ModelInfer``: one request, one response.

A generation model streams, and Triton itself refuses to answer such a model in one response. Here its whole text is
collected, as ``POST /generate`` does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from tritonclient.grpc import service_pb2 as pb

from gateway.edge_grpc.calls import Call, Record
from gateway.edge_grpc.intake import Incoming, Intake, Kind
from gateway.edge_grpc.messages import parsed
from gateway.errors import MethodNotAllowed, UpstreamError


async def infer(intake: Intake, call: Call, record: Record, messages: AsyncIterator[bytes]) -> bytes:
    """The response, on the wire. Raises :class:`gateway.errors.GatewayError`."""
    await intake.principal(call)  # before a byte of the message is read
    raw = await intake.message(call, messages)
    one = await intake.admit(call, record, parsed(pb.ModelInferRequest, raw), raw)
    if one.kind is Kind.GENERATES:
        return await _generated(intake, one)
    if one.model.decoupled:
        raise MethodNotAllowed("this model streams its answers; ask it through ModelStreamInfer")
    if one.kind is Kind.TENSORS:
        return await intake.forwarder.unary("ModelInfer", one.wire(stream=False), one.seconds_left())
    return await _screened(intake, one)


async def _screened(intake: Intake, one: Incoming) -> bytes:
    """Asked as a stream of one response, which tells Triton's own words from the model's when it fails."""
    context = one.context()
    await intake.screen.check(one.request, one.model, context)
    responses = intake.screen.stream(one.request, one.model, context, one.seconds_left())
    try:
        async for response in responses:
            return bytes(response.SerializeToString())
        raise UpstreamError
    finally:
        await responses.aclose()


async def _generated(intake: Intake, one: Incoming) -> bytes:
    answers = one.answers()
    answer = await intake.generation.start(one.principal, one.ask(intake.limits, stream=False))
    try:
        text = "".join([delta.text async for delta in answer])
    finally:
        await answer.close()
    return bytes(answers.response(one.ended(answer), text, final=True).SerializeToString())
