"""A text classifier in Triton: whatever the dynamic batcher puts together is one run of the graph."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer

from .runner import Scores, open_runner


class TritonPythonModel:
    """Triton's contract: ``initialize`` once, ``execute`` with a batch of requests."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version that Triton names. Raises when a file is missing or is not what the others say."""
        version = Path(args["model_repository"]) / args["model_version"]
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._labels = np.array([label.encode() for label in json.loads(parameters["labels"])], dtype=object)
        self._tokenizer = Tokenizer.from_file(str(version / "tokenizer.json"))
        self._runner = open_runner(version / "engine", int(parameters["threads"]) or os.cpu_count() or 1)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, in order. ``text`` ``[n, 1]`` -> ``label`` and ``score`` ``[n, 1]``, ``scores``
        ``[n, labels]``."""
        texts: list[str] = []
        sizes = []
        for request in requests:
            rows = pb_utils.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
            texts += [row.decode("utf-8", "replace") for row in rows]
            sizes.append(len(rows))
        scores = self._scores(texts)
        responses, place = [], 0
        for size in sizes:
            responses.append(self._response(scores[place : place + size]))
            place += size
        return responses

    def _scores(self, texts: list[str]) -> Scores:
        encoded = self._tokenizer.encode_batch(texts)
        ids = np.array([each.ids for each in encoded], np.int64)
        return self._runner.run(ids, np.array([each.attention_mask for each in encoded], bool))

    def _response(self, scores: Scores) -> Any:
        best = scores.argmax(axis=1)
        tensors = [
            pb_utils.Tensor("label", self._labels[best][:, None]),
            pb_utils.Tensor("score", scores[np.arange(len(best)), best][:, None]),
            pb_utils.Tensor("scores", scores),
        ]
        return pb_utils.InferenceResponse(output_tensors=tensors)
