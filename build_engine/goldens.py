"""Goldens: what a version is asked before it serves, and what it is known to answer.

A user's file is JSON lines: ``{"text": "..."}`` or ``{"messages": [...]}``, and if wanted ``max_tokens`` (16),
``contains`` (a text that the answer must hold) and ``text_output`` (the whole answer). ``build --goldens FILE`` asks
the engine that it has just built, through the scheduler that serves it, and keeps prompts and answers in the version
as ``goldens.jsonl``, whose lines carry ``prompt``, ``prompt_tokens`` and ``text_output``."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence as Many
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from build_engine.backend.detokenizer import TextStream
from build_engine.backend.engine import Engine, EngineError
from build_engine.backend.engines import open_engine
from build_engine.backend.logprobs import TokenLogprob
from build_engine.backend.request import Prompts, parse
from build_engine.backend.sampling import RowSampler, SamplingParams
from build_engine.backend.scheduler import FinishReason, Scheduler, Sequence, Totals
from build_engine.errors import RecipeError, TextError
from build_engine.source import TokenizerFiles
from build_engine.template import rendered
from build_engine.texts import json_lines

GOLDENS = "goldens.jsonl"
MAX_TOKENS = 16
MOST = 64
FIELDS = {
    "prompt": str,
    "add_special_tokens": bool,
    "max_tokens": int,
    "contains": str,
    "text_output": str,
    "prompt_tokens": int,
}
QUESTIONS = (
    "The capital of France is",
    "Once upon a time there was",
    "1, 2, 3, 4, 5, 6,",
    "def add(a, b):\n    return",
)
"""For a version without goldens: nothing is known of the answers but that they come, and come again."""


@dataclass(frozen=True)
class Golden:
    """One question. ``prompt`` is rendered; what is None is not known."""

    prompt: str
    add_special_tokens: bool = True
    max_tokens: int = MAX_TOKENS
    contains: str | None = None
    text_output: str | None = None
    prompt_tokens: int | None = None


def goldens_of(version: Path, own: Path | None, tokenizer: TokenizerFiles) -> tuple[str, list[Golden]]:
    """Where the goldens come from (``file``, ``version`` or ``default``), and what ``own`` holds, else what the version
    carries, else :data:`QUESTIONS`. Raises :class:`TextError`."""
    if own is not None:
        return "file", read_goldens(own, tokenizer)
    if (version / GOLDENS).exists():
        return "version", read_goldens(version / GOLDENS, tokenizer)
    return "default", [Golden(question) for question in QUESTIONS]


def read_goldens(path: Path, tokenizer: TokenizerFiles) -> list[Golden]:
    """The goldens of a file. Raises :class:`TextError` naming file and line."""
    found = [_golden(where, entry, tokenizer) for where, entry in json_lines(path)]
    if not 1 <= len(found) <= MOST:
        raise TextError(f"{path} holds {len(found)} goldens; give 1 to {MOST}, one JSON object a line")
    return found


def _golden(where: str, entry: dict[str, Any], tokenizer: TokenizerFiles) -> Golden:
    if isinstance(entry.get("text"), str):
        entry["prompt"] = entry.pop("text")
    elif isinstance(entry.get("messages"), list):
        entry["prompt"] = rendered(where, entry.pop("messages"), tokenizer, ask=True)
        entry["add_special_tokens"] = False
    known = {name: value for name, value in entry.items() if value is not None}
    if "prompt" not in known:
        raise TextError(f"{where}: neither text (a string) nor messages (a list)")
    for name, value in known.items():
        if name not in FIELDS or type(value) is not FIELDS[name]:
            raise TextError(f"{where}: {name} is not known here, or not {FIELDS.get(name, str).__name__}")
    golden = Golden(**known)
    if not golden.prompt or golden.max_tokens < 1:
        raise TextError(f"{where}: the text must not be empty, and max_tokens at least 1")
    return golden


def record(version: Path, asked: Many[Golden], serving: dict[str, int]) -> None:
    """Ask the engine in the folder ``version``, one question at a time, and write ``goldens.jsonl``. ``serving`` is
    what the backend is told (:meth:`build_engine.recipe.Recipe.serving`). Raises :class:`RecipeError` when the engine
    does not run on this host."""
    try:
        engine = open_engine(
            version,
            threads=serving["threads"] or len(os.sched_getaffinity(0)),
            cache_tokens=serving["kv_cache_tokens"],
            step_tokens=2 * serving["step_tokens"],  # as the backend does
            max_sequences=serving["max_sequences"],
        )
    except EngineError as error:
        raise RecipeError(f"--goldens are recorded with the engine itself, which does not run here: {error}") from None
    answered = [
        replace(golden, **answer) for golden, answer in zip(asked, _answers(version, engine, asked), strict=True)
    ]
    lines = [json.dumps(_known(golden), ensure_ascii=False) for golden in answered]
    (version / GOLDENS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _answers(version: Path, engine: Engine, asked: Many[Golden]) -> list[dict[str, Any]]:
    prompts = Prompts(version / "tokenizer")
    scheduler = Scheduler(engine, _Silence())
    try:
        answers = []
        for number, golden in enumerate(asked, 1):
            answer = _Answer()
            request = replace(parse({}), text_input=golden.prompt, add_special_tokens=golden.add_special_tokens)
            prompt = prompts.encode(request)
            if prompt.size + golden.max_tokens > scheduler.max_sequence_tokens:
                most = scheduler.max_sequence_tokens
                raise TextError(f"--goldens: number {number} and its answer take more than the {most} tokens there are")
            text = TextStream(prompts.tokenizer, prompts.special_ids, ())
            sampler = RowSampler(SamplingParams(), prompt)
            scheduler.submit(Sequence(prompt, golden.max_tokens, sampler, text, prompts.stop_ids, answer))
            answer.ended.wait()
            if answer.failure:
                raise RecipeError(f"--goldens: the engine fails on number {number}: {answer.failure}")
            answers.append({"text_output": answer.text, "prompt_tokens": int(prompt.size)})
        return answers
    finally:
        scheduler.stop()


def _known(golden: Golden) -> dict[str, Any]:
    return {name: value for name, value in asdict(golden).items() if value is not None}


class _Answer:
    """A sink that keeps the text."""

    def __init__(self) -> None:
        self.text, self.failure = "", ""
        self.ended = threading.Event()

    def emit(
        self,
        text: str,
        reason: FinishReason,
        prompt_tokens: int,
        completion_tokens: int,
        logprobs: Many[TokenLogprob] = (),
    ) -> None:
        self.text += text
        if reason:
            self.ended.set()

    def fail(self, code: str, text: str) -> None:
        self.failure = f"{code}: {text}"
        self.ended.set()

    def cancelled(self) -> bool:
        return False


class _Silence:
    """A meter that nobody reads."""

    def publish(self, totals: Totals, *, idle: bool) -> None:
        pass
