"""A YAML file as a checked model. What is wrong with it is said with file, line and field."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)


class YamlFileError(Exception):
    """The file cannot be used; the message names file, line and field."""


def read_yaml(path: Path, model: type[Model]) -> Model:
    """The file's content as ``model``. Raises :class:`YamlFileError`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise YamlFileError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise YamlFileError(f"{path} is not UTF-8 at byte {error.start}") from None
    name = str(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise YamlFileError(f"{name}:{line}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise YamlFileError(f"{name}: not YAML: {error}") from None
    try:
        return model.model_validate(content if content is not None else {})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        message = first["msg"].removeprefix("Value error, ")
        raise YamlFileError(f"{name}:{_line_of(node, first['loc'])}: {where}: {message}") from None


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
