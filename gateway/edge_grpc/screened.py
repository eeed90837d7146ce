"""Text models of others: every text of the request is checked before Triton sees it, every text of the responses is
guarded while it comes.

Nothing is known of such a model but its tensors, so a text is an element of one: each (tensor, place in the batch) of a
request is a stream of its own. What is held back and cleared only by the end leaves with the last response, or with
one more before an empty last one.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from dataclasses import replace

from tritonclient.grpc import service_pb2 as pb

from gateway.answer import BYTES_A_TOKEN, CONTENT_FILTER, QUOTA
from gateway.edge_grpc.incoming import Incoming
from gateway.edge_grpc.messages import EMPTY_FINAL, FINAL, FINISH, parsed, refusal
from gateway.edge_grpc.texts import LENGTH_BYTES, MOST_TEXTS, RequestTexts, elements, packed
from gateway.errors import PromptRejected, UpstreamError
from gateway.policy.engine import PolicyEngine
from gateway.policy.output import OutputGuard
from gateway.policy.verdict import Context
from gateway.traffic.quotas import Lease
from gateway.triton import Description, Forwarder


class Screen:
    """The policy between a client and a text model of somebody else's."""

    def __init__(self, forwarder: Forwarder, policy: PolicyEngine, text_bytes: int) -> None:
        """``text_bytes`` bounds a tensor of text in a response, as it does a request."""
        self._forwarder, self._policy, self._text_bytes = forwarder, policy, text_bytes

    async def ask(self, one: Incoming, lease: Lease) -> AsyncGenerator[pb.ModelInferResponse, None]:
        """The responses as they may leave, with the text that the policy lets in as what is asked. Closing it cancels
        the request in Triton. Raises :class:`gateway.errors.GatewayError`."""
        await self._check(one)
        wants_empty, request = one.wants_empty_final, one.request
        request.parameters["priority"].uint64_param = lease.priority  # the tenant's, not the client's to choose
        request.parameters[EMPTY_FINAL].bool_param = True
        context = replace(one.context(), direction="output")
        guards = _Guards(self._policy, context, one.model, self._text_bytes)
        upstream = self._forwarder.ask(request.SerializeToString(), one.seconds_left())
        last = False
        try:
            async for response in _said(upstream):
                last = response.parameters[FINAL].bool_param
                if response.outputs:
                    used_up = (
                        not lease.take(one.prompt_tokens + guards.bytes_said(response) // BYTES_A_TOKEN) and not last
                    )
                    await guards.feed(response, last=last or used_up)
                    if used_up and not guards.blocked:
                        _end(response, QUOTA)
                    yield response
                    if guards.blocked or used_up:
                        return
                elif (rest := await guards.rest()) is not None:
                    yield rest
                    if guards.blocked:
                        return
                if last:
                    if wants_empty and not response.outputs:
                        yield response
                    return
            raise UpstreamError("the model ended without a final response")
        finally:
            guards.close()
            upstream.let_end() if last else upstream.cancel()

    async def _check(self, one: Incoming) -> None:
        """Leaves in the request what may be asked. Raises :class:`PromptRejected`, or
        :class:`gateway.errors.InvalidField` for bytes that cannot be read as text."""
        one.request.DiscardUnknownFields()  # what is not read is not passed on
        texts = RequestTexts(one.request, one.model)
        decision = await self._policy.check_input(texts.texts, one.context())
        if decision.action == "block":
            raise PromptRejected(field="inputs")
        if decision.texts != texts.texts:
            texts.replace(decision.texts)


async def _said(upstream: AsyncIterable[bytes]) -> AsyncIterator[pb.ModelInferResponse]:
    async for raw in upstream:
        message = parsed(pb.ModelStreamInferResponse, raw, UpstreamError)
        if message.error_message:
            raise refusal(message, told=False)
        yield message.infer_response


class _Guards:
    """A guard for each text of one request's responses."""

    def __init__(self, policy: PolicyEngine, context: Context, model: Description, text_bytes: int) -> None:
        self._policy, self._context, self._model, self._text_bytes = policy, context, model, text_bytes
        self._guards: dict[tuple[str, int], OutputGuard] = {}
        self._latest: pb.ModelInferResponse | None = None
        self._bytes = 0

    def bytes_said(self, response: pb.ModelInferResponse) -> int:
        """Of text so far, this response's included."""
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=False):
            if self._model.is_text(output.name, output.datatype, self._model.text_outputs):
                self._bytes += max(len(raw) - LENGTH_BYTES * math.prod(output.shape), 0)
        return self._bytes

    @property
    def blocked(self) -> bool:
        """Whether the answer has to end here."""
        return any(guard.blocked for guard in self._guards.values())

    def close(self) -> None:
        """The answer is over. Safe to call again."""
        for guard in self._guards.values():
            guard.close()

    async def feed(self, response: pb.ModelInferResponse, *, last: bool) -> None:
        """Leave in ``response`` what may leave now."""
        if len(response.raw_output_contents) != len(response.outputs):
            raise UpstreamError
        for name in [key for key, each in response.parameters.items() if each.string_param]:
            del response.parameters[name]  # a text that nothing else would look at
        for place, output in enumerate(response.outputs):
            output.ClearField("parameters")
            if self._model.is_text(output.name, output.datatype, self._model.text_outputs):
                texts = self._texts(response.raw_output_contents[place])
                left = [await self._one(output.name, number, text, last=last) for number, text in enumerate(texts)]
                response.raw_output_contents[place] = packed(text.encode() for text in left)
        self._latest = response
        if self.blocked:
            _end(response, CONTENT_FILTER)

    async def rest(self) -> pb.ModelInferResponse | None:
        """What was held back, when no further response carries it: the latest one again, with that as its texts."""
        texts: dict[str, list[str]] = {}
        for (name, _), guard in self._guards.items():  # places of a tensor stand in order
            texts.setdefault(name, []).append("" if guard.blocked else await guard.finish())
        if self._latest is None or not (self.blocked or any(map(any, texts.values()))):
            return None
        response = pb.ModelInferResponse()
        response.CopyFrom(self._latest)
        for place, output in enumerate(response.outputs):
            if output.name in texts:
                values = texts[output.name]
                if math.prod(output.shape) != len(values):
                    output.shape[:] = [len(values)]
                response.raw_output_contents[place] = packed(text.encode() for text in values)
        if self.blocked:
            _end(response, CONTENT_FILTER)
        return response

    def _texts(self, raw: bytes) -> list[str]:
        if len(raw) > self._text_bytes:
            raise UpstreamError(f"the model said more than {self._text_bytes} bytes in one response")
        try:
            return [each.decode() for each in elements(raw)]
        except ValueError:  # UnicodeDecodeError is one; what cannot be read cannot be checked
            raise UpstreamError("the model said something that is not UTF-8 text") from None

    async def _one(self, name: str, number: int, text: str, *, last: bool) -> str:
        guard = self._guards.get((name, number))
        if guard is None:
            if len(self._guards) >= MOST_TEXTS:
                raise UpstreamError
            guard = self._guards[name, number] = self._policy.output(self._context)
        if guard.blocked:
            return ""
        return await guard.feed(text, last=last)


def _end(response: pb.ModelInferResponse, reason: str) -> None:
    response.parameters[FINAL].bool_param = True
    response.parameters[FINISH].string_param = reason
