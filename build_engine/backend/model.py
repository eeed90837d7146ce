"""Triton's border: tensors in, responses out, nothing else.

``execute`` returns when the engine has taken the request, not when it is answered, and until then it
blocks: Triton's own queue stays the only one, with its priorities, its time-outs and its limit.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from .detokenizer import TextStream
from .engines import open_engine, warm_up
from .grammar import Grammar, SchemaError, open_grammars
from .logprobs import TokenBytes, TokenLog, TokenLogprob, to_json
from .metrics import TritonMeter
from .request import GenerateRequest, Prompts, RequestError, fit, parse, require_tokens
from .sampling import RowSampler
from .scheduler import FinishReason, Scheduler
from .scheduler import Sequence as Generating

log = logging.getLogger(__name__)

INPUTS = (
    "text_input",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "stop",
    "stream",
    "ignore_eos",
    "add_special_tokens",
    "logprobs",
    "logit_bias_tokens",
    "logit_bias_values",
    "json_schema",
)
COMPILING = 2
"""Schemas that are compiled at once; while as many are, Triton's queue waits."""

_STATUS = {
    "prompt_too_long": "INVALID_ARG",
    "invalid_input": "INVALID_ARG",
    "engine_failed": "INTERNAL",
    "cancelled": "CANCELLED",
}
"""Names in ``TritonError``; while Triton only inspects the file, that class does not exist yet."""


class TritonSink:
    """A :class:`~.scheduler.Sink` on one request's response sender."""

    def __init__(self, sender: Any) -> None:
        self.stream = True
        self._sender = sender
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._gone = False

    def emit(
        self,
        text: str,
        reason: FinishReason,
        prompt_tokens: int,
        completion_tokens: int,
        logprobs: Sequence[TokenLogprob] = (),
    ) -> None:
        """Send the text and its tokens, or keep them until the last when the request does not stream."""
        if not self.stream:
            self._text.append(text)
            self._logprobs += logprobs
            if not reason:
                return
            text, logprobs = "".join(self._text), self._logprobs
        tensors = [
            _bytes_tensor("text_output", text),
            _bytes_tensor("finish_reason", reason),
            pb_utils.Tensor("prompt_tokens", np.array([[prompt_tokens]], dtype=np.int32)),
            pb_utils.Tensor("completion_tokens", np.array([[completion_tokens]], dtype=np.int32)),
        ]
        if logprobs:
            tensors.append(_bytes_tensor("token_logprobs", to_json(logprobs)))
        self._send(pb_utils.InferenceResponse(tensors), final=bool(reason))

    def fail(self, code: str, text: str) -> None:
        """Send the error as the last response."""
        error = pb_utils.TritonError(f"{code}: {text}", getattr(pb_utils.TritonError, _STATUS[code]))
        self._send(pb_utils.InferenceResponse([], error), final=True)

    def cancelled(self) -> bool:
        """Whether the client has cancelled, or no response can reach it."""
        return self._gone or bool(self._sender.is_cancelled())

    def _send(self, response: Any, *, final: bool) -> None:
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        try:
            self._sender.send(response, flags)
        except pb_utils.TritonModelException as error:
            log.warning("a response could not be sent: %s", error)
            self._gone = True


def _bytes_tensor(name: str, text: str) -> Any:
    return pb_utils.Tensor(name, np.array([[text.encode("utf-8")]], dtype=np.object_))


class TritonPythonModel:
    """What Triton loads. One instance owns one engine."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version's engine and tokenizer and warm it up. ``args`` is Triton's; raises what loading raises, and
        Triton then reports the version as not loaded.
        """
        logging.basicConfig(format="tidegate %(levelname)s %(name)s: %(message)s", level=logging.INFO)
        config = json.loads(args["model_config"])["parameters"]
        folder = Path(args["model_repository"]) / args["model_version"]
        self._prompts = Prompts(folder / "tokenizer")
        engine = open_engine(
            folder,
            threads=int(config["threads"]["string_value"]) or len(os.sched_getaffinity(0)),
            cache_tokens=int(config["kv_cache_tokens"]["string_value"]),
            step_tokens=2 * int(config["step_tokens"]["string_value"]),  # halved while text streams
            max_sequences=int(config["max_sequences"]["string_value"]),
        )
        warm_up(engine)
        meter = TritonMeter(args["model_name"], args["model_version"], engine.total_tokens())
        self._vocab_size = engine.vocab_size
        self._token_bytes = TokenBytes(self._prompts.tokenizer)
        self._grammars = open_grammars(self._prompts.tokenizer, self._prompts.stop_ids, engine.vocab_size)
        self._compilers = ThreadPoolExecutor(COMPILING, "grammar")
        self._compiling = threading.Semaphore(COMPILING)
        self._scheduler = Scheduler(engine, meter)

    def execute(self, requests: list[Any]) -> None:
        """Admit each request, in order, or answer it with an error. Blocks while the engine is full."""
        for request in requests:
            sink = TritonSink(request.get_response_sender())
            self._answering(sink, self._take, request)

    def _answering(self, sink: TritonSink, work: Callable[[Any, TritonSink], None], request: Any) -> None:
        """Do ``work``; what it refuses is the request's answer."""
        try:
            work(request, sink)
        except RequestError as error:
            sink.fail(error.code, str(error))
        except Exception as error:  # the process edge: an exception out of execute() leaks the request
            log.exception("a request could not be read")
            sink.fail("engine_failed", f"the request could not be read: {error!r}")

    def _take(self, request: Any, sink: TritonSink) -> None:
        found = {name: pb_utils.get_input_tensor_by_name(request, name) for name in INPUTS}
        asked = parse({name: tensor.as_numpy() for name, tensor in found.items() if tensor is not None})
        sink.stream = asked.stream
        if asked.json_schema is None or self._grammars is None or self._grammars.remembers(asked.json_schema):
            self._admit(asked, sink)
        else:  # compiling takes its time, and the next request need not wait for it
            self._compiling.acquire()
            compiled = self._compilers.submit(self._answering, sink, self._admit, asked)
            compiled.add_done_callback(lambda _: self._compiling.release())

    def _admit(self, asked: GenerateRequest, sink: TritonSink) -> None:
        """Hand the request to the scheduler. Waits while the engine is full. Raises RequestError."""
        self._scheduler.submit(self._sequence(asked, sink))

    def _sequence(self, asked: GenerateRequest, sink: TritonSink) -> Generating:
        prompt = self._prompts.encode(asked)
        require_tokens(asked.sampling.logit_bias, self._vocab_size)
        return Generating(
            prompt=prompt,
            max_tokens=fit(prompt, asked.max_tokens, self._scheduler.max_sequence_tokens),
            sampler=RowSampler(asked.sampling, prompt, self._grammar(asked.json_schema)),
            text=TextStream(self._prompts.tokenizer, self._prompts.special_ids, asked.stop),
            stop_ids=frozenset() if asked.ignore_eos else self._prompts.stop_ids,
            sink=sink,
            log=None if asked.logprobs is None else TokenLog(asked.logprobs, self._token_bytes),
        )

    def _grammar(self, schema: str | None) -> Grammar | None:
        if schema is None:
            return None
        if self._grammars is None:
            raise RequestError(
                "invalid_input",
                "json_schema needs the package llguidance beside this Triton, which is not installed; "
                "leave response_format out, or ask for it (the extra `triton` installs it)",
            )
        try:
            return self._grammars.begin(schema)
        except SchemaError as error:
            raise RequestError("invalid_input", f"json_schema {error}") from None

    def finalize(self) -> None:
        """Triton unloads the version."""
        self._scheduler.stop()
        self._compilers.shutdown()
