"""The bodies of the HTTP API, declared once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from gateway.answer import Prompt
from gateway.triton.contract import Value

MAX_STOPS, MAX_STOP_CHARACTERS = 16, 256
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    content: str


_OFF: dict[str, Value | None] = {
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 0,
    "ignore_eos": False,
    "seed": None,
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
}
"""What the model takes for granted: a tensor that is not sent costs Triton nothing."""


class GenerateBody(BaseModel):
    """What ``POST /generate`` takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text_input: str | None = Field(
        None,
        min_length=1,
        validation_alias=AliasChoices("text_input", "prompt"),
        description="The text to continue, as it is. `prompt` is the same field.",
        examples=["The capital of France is"],
    )
    model: str | None = Field(None, min_length=1, max_length=200, description="A model in Triton; the gateway's own.")
    messages: list[Message] | None = Field(
        None, min_length=1, description="A conversation, rendered with the model's own chat template."
    )
    max_tokens: int = Field(
        256,
        ge=1,
        le=2**31 - 1,
        validation_alias=AliasChoices("max_tokens", "max_length"),
        description="Most tokens to generate. `max_length` is the same field.",
    )
    temperature: float = Field(0.0, ge=0.0, le=5.0, allow_inf_nan=False, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0.0, le=1.0, allow_inf_nan=False, description="Nucleus sampling's mass.")
    top_k: int = Field(0, ge=0, le=2**31 - 1, description="Sample from the k likeliest tokens; 0 is off.")
    min_p: float = Field(
        0.0, ge=0.0, le=1.0, allow_inf_nan=False, description="Least probability, as a share of the likeliest token's."
    )
    frequency_penalty: float = Field(
        0.0, ge=-2.0, le=2.0, allow_inf_nan=False, description="Against tokens by how often they were said."
    )
    presence_penalty: float = Field(
        0.0, ge=-2.0, le=2.0, allow_inf_nan=False, description="Against tokens that were said at all."
    )
    repetition_penalty: float = Field(
        1.0, gt=0.0, le=10.0, allow_inf_nan=False, description="A factor against tokens of prompt and answer; 1 is off."
    )
    seed: int | None = Field(None, ge=0, le=2**64 - 1, description="The same seed samples the same text.")
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = Field(
        None, description="Texts that end the answer; they are not part of it."
    )
    stream: bool = Field(False, description="Answer with server-sent events.")
    include_policy: bool = Field(
        False, description="Say in the field `policy` of the answer, or of a refusal, what was found."
    )
    timeout_seconds: float | None = Field(
        None,
        ge=0.1,
        le=86_400.0,
        allow_inf_nan=False,
        description="This request's time, from acceptance to last byte; the header X-Request-Timeout-Seconds likewise. "
        "The gateway's own limit counts too.",
    )
    ignore_eos: bool = Field(False, description="Go on past the model's own end, up to max_tokens.")

    @model_validator(mode="after")
    def _one_prompt(self) -> GenerateBody:
        if (self.text_input is None) == (self.messages is None):
            raise ValueError("give exactly one of text_input (or prompt) and messages")
        return self

    def prompt(self) -> Prompt:
        """What is asked."""
        messages = tuple({"role": message.role, "content": message.content} for message in self.messages or ())
        return Prompt(self.text_input, messages)

    def parameters(self, stream: bool) -> dict[str, Value]:
        """Everything else, by tensor name."""
        values: dict[str, Value] = {
            "max_tokens": self.max_tokens,
            "stream": stream,
        }
        values |= {name: value for name, off in _OFF.items() if (value := getattr(self, name)) != off}
        if self.stop:
            values["stop"] = [self.stop] if isinstance(self.stop, str) else list(self.stop)
        return values


class Usage(BaseModel):
    """Tokens spent."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class PolicyMatch(BaseModel):
    """A match: the list or pattern, and characters ``start`` to ``end`` of the text; of what was asked, in the text (or
    message) number ``text``."""

    text: int | None = None
    source: str
    category: str
    action: Literal["flag", "redact", "block"]
    start: int
    end: int


class ModeratorFinding(BaseModel):
    """What a moderator said of a segment; ``error`` if it could not be asked."""

    moderator: str
    action: Literal["allow", "flag", "redact", "block"]
    categories: list[str] = []
    score: float | None = None
    error: str | None = None


class PolicyFindings(BaseModel):
    """What was decided, and why."""

    action: Literal["allow", "flag", "redact", "block"]
    matches: list[PolicyMatch]
    moderators: list[ModeratorFinding]


class PolicyReport(BaseModel):
    """What the policy found."""

    version: str
    input: PolicyFindings
    output: PolicyFindings


class RefusalReport(BaseModel):
    """What the policy found in a prompt that it refuses."""

    version: str
    input: PolicyFindings


class GenerateAnswer(BaseModel):
    """What ``POST /generate`` gives."""

    id: str
    model: str
    model_version: str
    text_output: str
    finish_reason: Literal["stop", "length", "content_filter", "quota"]
    usage: Usage
    policy: PolicyReport | None = None


class ErrorDetail(BaseModel):
    """What went wrong. ``code`` is stable; ``field`` names the part of the request to change, where there is one."""

    code: str
    message: str
    field: str | None
    request_id: str


class ErrorBody(BaseModel):
    """The one body of every error; with ``policy`` for a prompt that was refused, if it asked with `include_policy`."""

    error: ErrorDetail
    policy: RefusalReport | None = None
