"""A YAML file as a checked model. What is wrong with it is said with file, line and field."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[int | str, ...]
"""A field: the keys and places that lead to it."""


class YamlFileError(Exception):
    """The file cannot be used; the message names file, line and field."""


class _Loader(yaml.SafeLoader):
    """Says where a value stands that is none of its kind, such as a date in month 13."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, AttributeError, KeyError) as error:
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None


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
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise YamlFileError(f"{name}:{line}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise YamlFileError(f"{name}: not YAML: {error}") from None
    again = _given_twice(node)
    if again is not None:
        raise YamlFileError(f"{name}:{again.start_mark.line + 1}: {again.value}: is given twice")
    try:
        return model.model_validate(content if content is not None else {})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        raise YamlFileError(f"{name}:{_line_of(node, first['loc'])}: {_field(first['loc'])}: {message}") from None


def place(path: Path, location: Location) -> str:
    """File, line and field, for what turns out to be wrong later."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError):  # it has just changed
        return f"{path}: {_field(location)}"
    return f"{path}:{_line_of(node, location)}: {_field(location)}"


def _field(location: Location) -> str:
    return ".".join(map(str, location)) or "the file"


def _given_twice(root: Any) -> yaml.ScalarNode | None:
    """A key that its mapping has before, of which only one would count."""
    left, seen = [root], set()
    while left:
        node = left.pop()
        if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if (key.tag, key.value) in keys:
                        return key
                    keys.add((key.tag, key.value))
                left.append(value)
        else:
            left += node.value
    return None


def _line_of(node: Any, location: Location) -> int:
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
