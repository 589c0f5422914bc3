"""Option values as people type them."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from aoi.errors import ConfigError

if TYPE_CHECKING:
    from aoi.synth.diffusion.settings import DiffusionSettings

Options = TypeVar("Options")


def size_of(text: str) -> tuple[int, int]:
    """`256` or `256x320` to (height, width).

    Raises:
        ConfigError: not a size, or a side outside 32–4096.
    """
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.strip().isdigit() for part in parts):
        raise ConfigError(f"--image-size {text!r} is not a size", hint="write one side, as 256, or HEIGHTxWIDTH, as 256x320")
    sides = [int(part) for part in parts]
    if not all(32 <= side <= 4096 for side in sides):
        raise ConfigError(f"--image-size {text} is out of range", hint="use sides from 32 to 4096 pixels")
    return sides[0], sides[-1]


def names_of(text: str | None) -> tuple[str, ...] | None:
    """`a,b,c` to its words; None stays None."""
    return None if text is None else tuple(word.strip() for word in text.split(",") if word.strip())


def numbers_of(option: str, text: str) -> tuple[int, ...]:
    """`0,1,2` to its integers.

    Raises:
        ConfigError: a word is not an integer.
    """
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError as error:
        raise ConfigError(f"{option} {text!r} is not a list of integers", hint="write them with commas, as 0,1,2") from error


def one_of(option: str, value: str, choices: tuple[str, ...]) -> str:
    """`value` itself if it is among `choices`.

    Raises:
        ConfigError: it is not.
    """
    if value in choices:
        return value
    raise ConfigError(f"{option} {value!r} is unknown", hint=f"choose one of: {', '.join(choices)}")


def detector_options(pairs: list[str] | None, **named: Any) -> dict[str, Any]:
    """`KEY=VALUE` words and the named options that were given, as fields of a detector's options.

    Raises:
        ConfigError: a word without `=`.
    """
    options = {key: value for key, value in named.items() if value is not None}
    return options | _key_values(pairs)


def options_of(kind: type[Options], pairs: list[str] | None, **named: Any) -> Options:
    """A dataclass of options from the named options that were given and `KEY=VALUE` words.

    Raises:
        ConfigError: a word without `=`, an unknown key, or a value that the dataclass refuses.
    """
    known = {field.name: str(field.type) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values = {key: value for key, value in named.items() if value is not None} | _key_values(pairs)
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known options: {', '.join(known)}"
            raise ConfigError(f"unknown option {key}", hint=hint)
        if isinstance(value, list):
            values[key] = tuple(value)
        elif isinstance(value, str) and "Path" in known[key] and "str" not in known[key]:
            values[key] = Path(value)
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"these options do not fit: {error}", hint="compare with --help") from error


def diffusion_settings(generator: str, pairs: list[str] | None, **named: Any) -> DiffusionSettings | None:
    """The settings of the generator `diffusion`; None for any other.

    Raises:
        ConfigError: an option of a checkpoint was given for another generator, or is wrong.
    """
    given = {key: value for key, value in named.items() if value is not None and (key, value) != ("device", "auto")}
    if generator != "diffusion":
        if given or pairs:
            word = f"--{next(iter(given)).replace('_', '-')}" if given else "--option"
            raise ConfigError(f"{word} is for --generator diffusion, not {generator}", hint="add --generator diffusion, or leave it out")
        return None
    from aoi.synth.diffusion.settings import DiffusionSettings

    return options_of(DiffusionSettings, pairs, **given)


def _key_values(pairs: list[str] | None) -> dict[str, Any]:
    """`KEY=VALUE` words; values are read as YAML.

    Raises:
        ConfigError: a word without `=`, or no YAML.
    """
    import yaml

    options: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--option {pair!r} has no value", hint="write --option KEY=VALUE")
        try:
            options[key.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"--option {pair!r} has a value that cannot be read", hint="write a number, a word or a list as [1, 2]"
            ) from error
    return options
