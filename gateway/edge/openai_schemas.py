"""The bodies of the OpenAI-compatible surface, declared once: what is taken, and what is refused by name.

Three kinds of fields: those that are served; those that say nothing about the answer and are taken and not used; and
those that cannot be served, which may only stand at the value that changes nothing (:class:`Only`). Anything else is
not a field. ``null`` is the same as leaving a field out.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from gateway.answer import Prompt
from gateway.edge.openai_fields import (
    CONTENT,
    NO_TOOLS,
    AsJson,
    AsSchema,
    AsText,
    Bias,
    Only,
    Penalty,
    StreamOptions,
    TokenId,
    as_json,
    joined,
    known_role,
)
from gateway.edge.schemas import MAX_STOPS, Stop
from gateway.triton.contract import Value

MOST_CHOICES = 16
MOST_ALTERNATIVES = 20
CHAT_TOKENS, COMPLETION_TOKENS = 1024, 16
"""Most tokens of an answer whose request does not say: a place in the batch is reserved whole, so not all of the
context. OpenAI's own default for completions is 16."""


class ChatMessage(BaseModel):
    """One turn. ``developer`` is ``system``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Annotated[Literal["system", "developer", "user", "assistant"], BeforeValidator(known_role)]
    content: Annotated[str, BeforeValidator(joined), WithJsonSchema(CONTENT)]
    name: Annotated[None, Only("a chat template has no place for it; write it into the content")] = None
    refusal: Annotated[None, Only("write it into the content")] = None
    tool_calls: Annotated[None, Only(NO_TOOLS, ([],))] = None
    function_call: Annotated[None, Only(NO_TOOLS)] = None
    audio: Annotated[None, Only("this model reads text only")] = None
    annotations: Annotated[None, Only("write them into the content", ([],))] = None


class _Body(BaseModel):
    """What both kinds of completions take."""

    model_config = ConfigDict(extra="forbid", strict=True)
    usual_tokens: ClassVar[int]

    model: str = Field(min_length=1, max_length=200, description="A model in Triton; GET /v1/models lists them.")
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0, allow_inf_nan=False)] | None = Field(
        None, description="1 unless given, as OpenAI's; 0 is greedy."
    )
    top_p: Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = Field(None, description="Answers to each prompt.")
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = Field(
        None, description="The same seed samples the same text."
    )
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Field(max_length=1024)] | None = Field(
        None, description="By token id: what is added to its logit."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = Field(None, description="Not OpenAI's; 0 or -1 is off.")
    min_p: Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)] | None = Field(
        None, description="Not OpenAI's: least probability, as a share of the likeliest token's."
    )
    repetition_penalty: Annotated[float, Field(gt=0.0, le=10.0, allow_inf_nan=False)] | None = Field(
        None, description="Not OpenAI's: a factor against tokens of prompt and answer; 1 is off."
    )
    ignore_eos: bool | None = Field(None, description="Not OpenAI's: go on past the model's own end.")
    user: str | None = Field(None, description="Taken and not used: the token says who asks.")

    def _common(self, max_tokens: int) -> dict[str, Value]:
        values: dict[str, Value] = {
            "max_tokens": max_tokens,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "stream": bool(self.stream),
        }
        for name in ("top_p", "frequency_penalty", "presence_penalty", "min_p", "repetition_penalty", "ignore_eos"):
            if (value := getattr(self, name)) is not None:
                values[name] = value
        if self.top_k is not None and self.top_k > 0:
            values["top_k"] = self.top_k
        if self.stop:
            values["stop"] = [self.stop] if isinstance(self.stop, str) else list(self.stop)
        if self.seed is not None:
            values["seed"] = self.seed % 2**64
        if self.logit_bias:
            values["logit_bias_tokens"] = [int(token) for token in self.logit_bias]
            values["logit_bias_values"] = [float(value) for value in self.logit_bias.values()]
        return values


class ChatBody(_Body):
    """What ``POST /v1/chat/completions`` takes."""

    usual_tokens = CHAT_TOKENS

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        None, description=f"Most tokens of an answer; `max_tokens` is its older name. {CHAT_TOKENS} unless given."
    )
    logprobs: bool | None = Field(None, description="How likely each token was.")
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = Field(
        None, description="And the likeliest tokens at its place; needs `logprobs`."
    )
    response_format: Annotated[AsText | AsJson | AsSchema, Field(discriminator="type")] | None = None
    metadata: dict[str, str] | None = Field(None, description="Taken and not used.")
    safety_identifier: str | None = Field(None, description="Taken and not used.")
    prompt_cache_key: str | None = Field(None, description="Taken and not used.")
    service_tier: Annotated[None, Only("the tenant's class decides", ("auto", "default"))] = None
    store: Annotated[None, Only("nothing is kept", (False,))] = None
    tools: Annotated[None, Only(NO_TOOLS, ([],))] = None
    tool_choice: Annotated[None, Only(NO_TOOLS, ("none", "auto"))] = None
    parallel_tool_calls: Annotated[None, Only(NO_TOOLS, (True, False))] = None
    functions: Annotated[None, Only(NO_TOOLS, ([],))] = None
    function_call: Annotated[None, Only(NO_TOOLS, ("none", "auto"))] = None
    modalities: Annotated[None, Only("this model writes text only", (["text"],))] = None
    audio: Annotated[None, Only("this model writes text only")] = None
    prediction: Annotated[None, Only("leave it out; the answer is the same, it takes its usual time")] = None
    reasoning_effort: Annotated[None, Only("say in a message how to reason", ("none",))] = None
    verbosity: Annotated[None, Only("say in a message how long to answer", ("medium",))] = None
    web_search_options: Annotated[None, Only("put what was found into a message")] = None

    @model_validator(mode="after")
    def _agrees(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: needs logprobs to be true")
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_completion_tokens: is the same field as max_tokens; give one of them")
        return self

    def prompts(self) -> list[Prompt]:
        """The one conversation."""
        roles = {"developer": "system"}
        turns = ({"role": roles.get(each.role, each.role), "content": each.content} for each in self.messages)
        return [Prompt(None, tuple(turns))]

    def most_tokens(self) -> tuple[str, int | None]:
        """The field that bounds an answer, and its value."""
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return "max_tokens", self.max_tokens

    def parameters(self, max_tokens: int) -> dict[str, Value]:
        """Everything else, by tensor name. Raises :class:`gateway.errors.InvalidField`."""
        values = self._common(max_tokens)
        if self.logprobs:
            values["logprobs"] = self.top_logprobs or 0
        if isinstance(self.response_format, AsJson):
            values["json_schema"] = '{"type":"object"}'
        if isinstance(self.response_format, AsSchema):
            values["json_schema"] = as_json(self.response_format.json_schema.schema_)
        return values


def _prompts(value: Any) -> Any:
    """One text or several, as a list."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError("must be a text or a list of texts")
    if any(isinstance(each, int | list) for each in value):
        raise ValueError("token ids are not taken here; send the text, it becomes tokens in Triton")
    return value


_TEXT = {"type": "string", "minLength": 1}
_PROMPT = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MOST_CHOICES}]}


class CompletionBody(_Body):
    """What ``POST /v1/completions`` takes."""

    usual_tokens = COMPLETION_TOKENS

    prompt: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(max_length=MOST_CHOICES),
        BeforeValidator(_prompts),
        WithJsonSchema(_PROMPT),
    ] = Field(description="The text to continue, or several.")
    logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = Field(
        None, description="How likely each token was, and so many of the likeliest at its place."
    )
    echo: Annotated[None, Only("put the prompt before the answer yourself", (False,))] = None
    suffix: Annotated[None, Only("these models write forward only", ("",))] = None
    best_of: Annotated[None, Only("ask for n answers with logprobs and choose", (1,))] = None

    @model_validator(mode="after")
    def _few(self) -> CompletionBody:
        if len(self.prompt) * (self.n or 1) > MOST_CHOICES:
            raise ValueError(f"n: times the number of prompts it is at most {MOST_CHOICES}; send several requests")
        return self

    def prompts(self) -> list[Prompt]:
        """Each prompt is a text as it is."""
        return [Prompt(each) for each in self.prompt]

    def most_tokens(self) -> tuple[str, int | None]:
        """The field that bounds an answer, and its value."""
        return "max_tokens", self.max_tokens

    def parameters(self, max_tokens: int) -> dict[str, Value]:
        """Everything else, by tensor name."""
        return self._common(max_tokens) | ({} if self.logprobs is None else {"logprobs": self.logprobs})


def _inputs(value: Any) -> Any:
    """What is to be judged, as a list of texts."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return [joined(value)]
    return value


_INPUT = {"anyOf": [*CONTENT["anyOf"], {"type": "array", "minItems": 1, "maxItems": 64, "items": {"type": "string"}}]}


class ModerationBody(BaseModel):
    """What ``POST /v1/moderations`` takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: Annotated[
        list[str], Field(min_length=1, max_length=64), BeforeValidator(_inputs), WithJsonSchema(_INPUT)
    ] = Field(description="A text, several texts, or one text in parts.")
    model: str | None = Field(None, max_length=200, description="Taken and not used: there is one policy.")
