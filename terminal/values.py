"""Option values as people type them."""

from __future__ import annotations

from typing import Any

from aoi.errors import ConfigError


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
    import yaml

    options = {key: value for key, value in named.items() if value is not None}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--option {pair!r} has no value", hint="write --option KEY=VALUE")
        options[key.strip().replace("-", "_")] = yaml.safe_load(value)
    return options
