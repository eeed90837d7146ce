"""The answers of the OpenAI-compatible surface, as its clients expect them. Dictionaries, made once, dumped once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from pydantic import BaseModel

from gateway.answer import Answer
from gateway.triton import TokenLogprob

Json = dict[str, Any]
REASONS = ("stop", "length", "content_filter")
"""OpenAI's words for why an answer ended. Any other reason of ours is a limit."""


class Kind(Protocol):
    """Chat or text."""

    prefix: str
    whole: str
    piece: str

    def message(self, text: str) -> Json:
        """A whole answer's text."""

    def delta(self, text: str, *, first: bool) -> Json:
        """A piece of it; the ``first`` one may say more."""

    def logprobs(self, tokens: Sequence[TokenLogprob]) -> Json:
        """How likely tokens were."""


class Chat:
    """``/v1/chat/completions``."""

    prefix, whole, piece = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def message(self, text: str) -> Json:
        """See :class:`Kind`."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def delta(self, text: str, *, first: bool) -> Json:
        """See :class:`Kind`."""
        said: Json = {"role": "assistant"} if first else {}
        return {"delta": {**said, "content": text} if text or first else said}

    def logprobs(self, tokens: Sequence[TokenLogprob]) -> Json:
        """See :class:`Kind`."""
        content = [
            {
                **_chat_token(each.token, each.logprob),
                "top_logprobs": [_chat_token(token, logprob) for token, logprob in each.alternatives],
            }
            for each in tokens
        ]
        return {"content": content, "refusal": None}


def _chat_token(token: bytes, logprob: float) -> Json:
    return {"token": token.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(token)}


class Text:
    """``/v1/completions``."""

    prefix, whole, piece = "cmpl", "text_completion", "text_completion"

    def message(self, text: str) -> Json:
        """See :class:`Kind`."""
        return {"text": text}

    def delta(self, text: str, *, first: bool) -> Json:
        """See :class:`Kind`."""
        return {"text": text}

    def logprobs(self, tokens: Sequence[TokenLogprob]) -> Json:
        """See :class:`Kind`."""
        return {
            "tokens": [_text_token(each.token) for each in tokens],
            "token_logprobs": [each.logprob for each in tokens],
            "top_logprobs": [{_text_token(token): logprob for token, logprob in each.alternatives} for each in tokens],
            "text_offset": [each.end - len(each.token.decode("utf-8", "ignore")) for each in tokens],
        }


def _text_token(token: bytes) -> str:
    """OpenAI's way to write a token that is no text of its own."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def envelope(kind: Kind, answer: Answer, *, streams: bool) -> Json:
    """What stands around every answer and every chunk."""
    version = answer.last.model_version if answer.last is not None else ""
    policy = answer.policy_version.rpartition("@")[2]
    return {
        "id": f"{kind.prefix}-{answer.request_id}",
        "object": kind.piece if streams else kind.whole,
        "created": int(time.time()),
        "model": answer.model,
        "system_fingerprint": f"fp_{version}_{policy}",
    }


def ending(reason: str) -> Json:
    """Why a choice ended, in OpenAI's words; what is not one of them stands beside it."""
    if reason in REASONS:
        return {"finish_reason": reason}
    return {"finish_reason": "length", "stop_reason": reason} if reason else {"finish_reason": None}


def usage_of(answers: Sequence[Answer], choices_a_prompt: int) -> Json:
    """Tokens spent. A prompt counts once, however many answers it has."""
    last = [answer.last for answer in answers if answer.last is not None]
    prompt = sum(each.prompt_tokens for each in last[::choices_a_prompt])
    completion = sum(each.completion_tokens for each in last)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class Usage(BaseModel):
    """Tokens spent."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatLikely(BaseModel):
    """A token and how likely it was."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(ChatLikely):
    """A token of the answer."""

    top_logprobs: list[ChatLikely]


class ChatLogprobs(BaseModel):
    """The answer's tokens."""

    content: list[ChatToken]
    refusal: None = None


class AssistantMessage(BaseModel):
    """The answer's text."""

    role: Literal["assistant"]
    content: str
    refusal: None = None


class _Choice(BaseModel):
    index: int
    finish_reason: Literal["stop", "length", "content_filter"]
    stop_reason: str | None = None


class ChatChoice(_Choice):
    """One answer. ``stop_reason`` says what OpenAI has no word for: `quota`."""

    message: AssistantMessage
    logprobs: ChatLogprobs | None = None


class TextLogprobs(BaseModel):
    """The answer's tokens."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(_Choice):
    """One answer. ``stop_reason`` says what OpenAI has no word for: `quota`."""

    text: str
    logprobs: TextLogprobs | None = None


class _Answer(BaseModel):
    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage


class ChatAnswer(_Answer):
    """What ``POST /v1/chat/completions`` gives."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextAnswer(_Answer):
    """What ``POST /v1/completions`` gives."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
