"""Runs inside Triton: answers at once with as many words as tokens were asked for. With ``service_ms`` it serves
``places`` requests at a time, each for so long; with ``pace_ms`` it lets so much time pass between two responses."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = 1
POLL_SECONDS = 0.02


class TritonPythonModel:
    """What Triton loads."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the model's parameters."""
        parameters = json.loads(args["model_config"])["parameters"]
        self._seconds = float(parameters["service_ms"]["string_value"]) / 1000
        self._pace = float(parameters["pace_ms"]["string_value"]) / 1000
        self._places = threading.Semaphore(int(parameters["places"]["string_value"]))
        self._counts = [_counts(number) for number in range(4097)]
        self._word, self._none = _text("word "), _text("")
        self._reasons = {True: _text("length"), False: self._none}

    def execute(self, requests: list[Any]) -> None:
        """Answer at once, or in a thread of the request's own."""
        for request in requests:
            stream = pb_utils.get_input_tensor_by_name(request, "stream")
            tokens = int(pb_utils.get_input_tensor_by_name(request, "max_tokens").as_numpy().flat[0])
            streams = stream is not None and bool(stream.as_numpy().flat[0])
            sender = request.get_response_sender()
            if not self._seconds and not self._pace:
                self._answer(sender, tokens, streams)
            elif not self._seconds or self._place(sender):
                threading.Thread(target=self._later, args=(sender, tokens, streams), daemon=True).start()

    def _place(self, sender: Any) -> bool:
        """Wait for one; False when the client left first."""
        while not self._places.acquire(timeout=POLL_SECONDS):
            if sender.is_cancelled():
                self._fail(sender)
                return False
        return True

    def _later(self, sender: Any, tokens: int, streams: bool) -> None:
        gone = self._wait(sender, self._seconds)
        if self._seconds:
            self._places.release()
        if gone or not self._answer(sender, tokens, streams):
            self._fail(sender)

    def _wait(self, sender: Any, seconds: float) -> bool:
        """Whether the client left meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(POLL_SECONDS, left))
            if sender.is_cancelled():
                return True
        return False

    def _fail(self, sender: Any) -> None:
        error = pb_utils.TritonError("cancelled: nobody waits", pb_utils.TritonError.CANCELLED)
        sender.send(pb_utils.InferenceResponse([], error), FINAL)

    def _answer(self, sender: Any, tokens: int, streams: bool) -> bool:
        if not streams:
            sender.send(self._response(_text("word " * tokens), tokens, last=True), FINAL)
            return True
        for number in range(1, tokens + 1):
            if self._pace and self._wait(sender, self._pace):
                return False
            last = number == tokens
            sender.send(self._response(self._word, number, last=last), FINAL if last else 0)
        return True

    def _response(self, text: Any, tokens: int, *, last: bool) -> Any:
        tensors = [
            pb_utils.Tensor("text_output", text),
            pb_utils.Tensor("finish_reason", self._reasons[last]),
            pb_utils.Tensor("prompt_tokens", self._counts[8]),
            pb_utils.Tensor("completion_tokens", self._counts[tokens]),
        ]
        return pb_utils.InferenceResponse(tensors)


def _counts(number: int) -> Any:
    return np.array([[number]], np.int32)


def _text(text: str) -> Any:
    return np.array([[text.encode()]], np.object_)
