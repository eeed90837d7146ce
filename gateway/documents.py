"""A YAML (or JSON) file as a checked value. What does not hold is refused with file, line and field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)
Refusal = Callable[[str], Exception]


def read_text(path: Path, refusal: Refusal) -> str:
    """The file's text. Raises what ``refusal`` makes of a message that names the file."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise refusal(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise refusal(f"{path} is not UTF-8 at byte {error.start}") from None


def parse(text: str, name: str, model: type[Model], refusal: Refusal, *, whole: str) -> Model:
    """The text as ``model``. ``whole`` names the document where no field can be named."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise refusal(f"{name}:{line}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise refusal(f"{name}: not YAML: {error}") from None
    try:
        return model.model_validate(content if content is not None else {})
    except ValidationError as error:
        location, message = first_problem(error)
        where = ".".join(str(part) for part in location) or whole
        raise refusal(f"{name}:{_line_of(node, location)}: {where}: {message}") from None


def first_problem(error: ValidationError) -> tuple[tuple[int | str, ...], str]:
    """Where and what, without the value that was found there."""
    first = error.errors(include_url=False, include_input=False)[0]
    return first["loc"], first["msg"].removeprefix("Value error, ")


def _line_of(node: Any, location: tuple[int | str, ...]) -> int:
    """The line where the field at ``location`` stands, or the innermost part of it that is there."""
    line = 1
    for part in location:
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = (node.value[part], node.value[part])
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line
