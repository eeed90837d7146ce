"""Parts of the OpenAI-compatible bodies: what cannot be served, texts in parts, and the form of an answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from gateway.errors import InvalidField

MAX_SCHEMA_BYTES = 32_768


@dataclass(frozen=True)
class Only:
    """A field of OpenAI's that cannot be served: taken at ``values`` and null, which change nothing; ``instead`` is the
    way out."""

    instead: str
    values: tuple[Any, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": [None, *self.values], "description": f"Not supported: {self.instead}."}

    def _check(self, value: Any) -> None:
        if value is not None and not any(type(value) is type(each) and value == each for each in self.values):
            raise ValueError(f"is not supported here: {self.instead}")


NO_TOOLS = "describe them in a message and ask for JSON with response_format"


def known_role(value: Any) -> Any:
    """Refuse by name the roles that a chat template cannot carry."""
    if value in ("tool", "function"):
        raise ValueError("tools are not supported here; put the result into a message of the role user")
    return value


def joined(value: Any) -> Any:
    """A content: a text, or parts of type text, which become lines."""
    if value is None:
        raise ValueError("must be a text; a message without one cannot be rendered")
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError('parts must be {"type": "text", "text": ...}; this model reads text only')
        if part.keys() - {"type", "text"}:
            raise ValueError("a part has type and text and nothing else")
        texts.append(part["text"])
    if not texts:
        raise ValueError("must have at least one part")
    return "\n".join(texts)


_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
    "additionalProperties": False,
}
CONTENT = {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": _PART}]}


class StreamOptions(BaseModel):
    """What a stream says beside its text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = Field(None, description="A last chunk with the tokens spent.")
    include_obfuscation: bool | None = Field(None, description="Taken and not used.")


class JsonSchema(BaseModel):
    """The schema that an answer keeps to."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = Field(None, max_length=4096, description="Taken and not used.")
    schema_: dict[str, Any] = Field(alias="schema", description=f"At most {MAX_SCHEMA_BYTES} bytes as JSON.")
    strict: bool | None = Field(None, description="The answer keeps to the schema either way.")


class AsText(BaseModel):
    """Free text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]


class AsJson(BaseModel):
    """A JSON object of any kind."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["json_object"]


class AsSchema(BaseModel):
    """JSON that keeps to a schema."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["json_schema"]
    json_schema: JsonSchema


TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100.0, le=100.0, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2.0, le=2.0, allow_inf_nan=False)]


def as_json(schema: dict[str, Any]) -> str:
    """The tensor for ``schema``. Raises :class:`gateway.errors.InvalidField`."""
    field = "response_format.json_schema.schema"
    try:
        text = orjson.dumps(schema)
        if b"null" in text:
            json.dumps(schema, allow_nan=False)  # orjson writes null for what is no number
    except ValueError:  # orjson's is one
        raise InvalidField(
            f"{field}: has numbers beyond 64 bits, or none at all, or too many levels; simplify it", field=field
        ) from None
    if len(text) > MAX_SCHEMA_BYTES:
        raise InvalidField(f"{field}: at most {MAX_SCHEMA_BYTES} bytes as JSON; make it smaller", field=field)
    return text.decode()
