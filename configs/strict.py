"""Typed configuration: unknown keys are refused with a suggestion, wrong values in one sentence."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from aoi.errors import ConfigError

_LONG = 60
"""Characters of a value beyond which it is not repeated in an error."""


_PLAIN = {"a valid tuple": "a list, such as [A, B]", "a valid integer": "a whole number", "a valid ": "a "}
"""How pydantic calls what it wants, and what people call it."""


class StrictModel(BaseModel):
    """A frozen model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], values: Mapping[str, Any], *, where: str) -> Model:
    """Build `model` from `values`.

    Args:
        where: the file or option group named in errors.

    Raises:
        ConfigError: naming the key at fault, with the nearest known key for a misspelt one.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = _key(first["loc"])
        where_at = f"{key} in {where}" if key else where
        if first["type"] == "extra_forbidden":
            known = sorted(_fields_at(model, first["loc"][:-1]))
            near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
            raise ConfigError(f"unknown key {key} in {where}", hint=hint) from error
        raise ConfigError(f"{where_at}{_fault(dict(first))}", hint=_remedy(dict(first))) from error


def _key(place: tuple[int | str, ...]) -> str:
    """`head.training`; entries of lists are counted from 1: `seeds, entry 2`."""
    words = [f", entry {part + 1}" if isinstance(part, int) else f".{part}" for part in place]
    return "".join(words).removeprefix(".")


def _fault(fault: Mapping[str, Any]) -> str:
    """What is wrong, with the value that was given where that is short."""
    message, given = str(fault["msg"]).removeprefix("Value error, "), repr(fault.get("input"))
    wanted = message.removeprefix("Input should be ")
    for theirs, ours in _PLAIN.items():
        wanted = wanted.replace(theirs, ours)
    if wanted == message or len(given) > _LONG:
        return f": {message}"
    return f" is {given}, and should be {wanted.partition(', unable to parse')[0]}"


def _remedy(fault: Mapping[str, Any]) -> str:
    """What to do about a wrong value: the nearest of those that are allowed, where they can be counted."""
    allowed = re.findall(r"'([^']*)'", str((fault.get("ctx") or {}).get("expected", "")))
    near = difflib.get_close_matches(str(fault.get("input")), allowed, n=1)
    return f"did you mean {near[0]}?" if near else "correct the value"


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """Field names of the model nested at `location`, as far as annotations tell."""
    here: type[BaseModel] = model
    for part in location:
        field = here.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            here = annotation
    return set(here.model_fields)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file is missing, not YAML, not a mapping, or says something twice, of which YAML would keep the last.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
                seen.add(str(key.value))
            return super().construct_mapping(node, deep)

    try:
        with path.open(encoding="utf-8") as file:
            value = yaml.load(file, Loader)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no UTF-8 text", hint="save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}", hint="correct the line it names") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds no mapping of keys to values", hint="see configs/ for examples")
    return value
