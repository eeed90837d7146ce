"""The proof of a loaded version: it answers, says the same again, and says what it is known to say.

What can honestly be held to the letter depends on what is compared. Counts of prompt tokens and a text that must occur
hold on every machine. Greedy text was recorded on the build host: fp32 repeats it; a rounded engine may round
otherwise on another processor, so of its texts only a share must be equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from build_engine.errors import Refused
from build_engine.goldens import Golden
from build_engine.triton_control import Reply, Triton

LEAST_EQUAL = {"fp32": 1.0}
LEAST_EQUAL_ROUNDED = 0.75


def smoke(
    triton: Triton,
    model: str,
    goldens: Sequence[Golden],
    *,
    precision: str,
    answer_seconds: float,
    on_answer: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Ask ``model`` every golden twice, streaming and whole. Returns the figures. Raises :class:`Refused` with what is
    wrong; an answer is never quoted."""
    wrong: list[str] = []
    equal, replies = 0, []
    for number, golden in enumerate(goldens, 1):
        asked: dict[str, str | int | bool] = {
            "text_input": golden.prompt,
            "max_tokens": golden.max_tokens,
            "add_special_tokens": golden.add_special_tokens,
        }
        streamed = triton.ask(model, {**asked, "stream": True}, answer_seconds)
        whole = triton.ask(model, {**asked, "stream": False}, answer_seconds)
        replies.append((streamed, whole))
        wrong += [f"golden {number}: {each}" for each in _impossible(golden, whole)]
        equal += whole.text == streamed.text and golden.text_output in (None, whole.text)
        on_answer()
    least = LEAST_EQUAL.get(precision, LEAST_EQUAL_ROUNDED)
    if equal < least * len(goldens):
        wrong.append(
            f"{equal} of {len(goldens)} goldens have, twice, the text that is known; {precision} needs {least:.0%}"
        )
    if not any(whole.text.strip() for _, whole in replies):
        wrong.append("every answer is empty")
    if wrong:
        raise Refused("; ".join(wrong[:5]))
    tokens = sum(whole.completion_tokens for _, whole in replies)
    return {
        "goldens": len(goldens),
        "equal": equal,
        "first_response_seconds": round(max(streamed.first_seconds for streamed, _ in replies), 3),
        "tokens_per_second": round(tokens / sum(whole.seconds for _, whole in replies), 1),
    }


def _impossible(golden: Golden, reply: Reply) -> list[str]:
    """What is wrong with a reply on any machine."""
    lines = []
    if golden.prompt_tokens is not None and reply.prompt_tokens != golden.prompt_tokens:
        lines.append(f"{reply.prompt_tokens} prompt tokens, not {golden.prompt_tokens}: another tokenizer")
    if reply.finish_reason not in ("stop", "length"):
        lines.append(f"it ended with {reply.finish_reason!r}")
    if not 1 <= reply.completion_tokens <= golden.max_tokens:
        lines.append(f"{reply.completion_tokens} completion tokens of at most {golden.max_tokens}")
    if reply.finish_reason == "length" and reply.completion_tokens != golden.max_tokens:
        lines.append(f"it ended for length after {reply.completion_tokens} of {golden.max_tokens} tokens")
    if golden.contains is not None and golden.contains not in reply.text:
        lines.append("the answer lacks the text that it must contain")
    return lines
