"""The words people use for defects, in English and Chinese: `vocabulary.yaml`, read once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from aoi.errors import ConfigError

FAMILIES = ("line", "branching", "ellipse", "blob", "chip", "missing", "band", "speckle")
"""Families of outlines that a kind may be drawn from."""


@dataclass(frozen=True, slots=True)
class Term:
    """One entry of the vocabulary: what many words mean."""

    category: str
    """`place`, `part`, `object`, `kind`, `look`, `severity`, `thickness`, `size`, `negation` or `filler`."""
    name: str
    """The canonical English word."""
    english: tuple[str, ...]
    chinese: tuple[str, ...]
    facts: Mapping[str, Any]
    """What the entry says beside its words: shape, along, value, mm, area, vague."""


@dataclass(frozen=True, slots=True)
class Found:
    """A word of a text that the vocabulary knows."""

    term: Term
    start: int
    end: int
    """Characters of the lowered text, end-exclusive."""
    said: str


class Vocabulary:
    """Every term, and the longest match of its words at any place of a text."""

    def __init__(self, terms: tuple[Term, ...]) -> None:
        self.terms = terms
        self._by_key = {(term.category, term.name): term for term in terms}
        english: dict[str, list[Term]] = {}
        chinese: dict[str, list[Term]] = {}
        for term in terms:
            for word in term.english:
                english.setdefault(word, []).append(term)
            for word in term.chinese:
                chinese.setdefault(word, []).append(term)
        self._english, self._chinese = english, chinese
        latin = "|".join(re.escape(word).replace(r"\ ", r"[\s-]+") for word in sorted(english, key=len, reverse=True))
        others = "|".join(re.escape(word) for word in sorted(chinese, key=len, reverse=True))
        self._pattern = re.compile(rf"(?<![a-z])(?P<en>{latin})(?![a-z])|(?P<zh>{others})")

    def term(self, category: str, name: str) -> Term:
        """One entry.

        Raises:
            KeyError: there is none.
        """
        return self._by_key[category, name]

    def names(self, category: str) -> tuple[str, ...]:
        """Canonical names of a category, in the file's order."""
        return tuple(term.name for term in self.terms if term.category == category)

    def words(self, category: str, name: str | None = None) -> tuple[str, ...]:
        """All words of a category, or of one entry, both languages."""
        chosen = (term for term in self.terms if term.category == category and name in (None, term.name))
        return tuple(word for term in chosen for word in (*term.english, *term.chinese))

    def find(self, text: str) -> Iterator[Found]:
        """Known words of a lowered text from left to right, the longest first; a word of several meanings is given once for each."""
        for match in self._pattern.finditer(text):
            said = match.group()
            terms = (
                self._english[re.sub(r"[\s-]+", " ", said)] if match.group("en") and re.sub(r"[\s-]+", " ", said) in self._english else None
            )
            for term in terms or self._english.get(said) or self._chinese[said]:
                yield Found(term, match.start(), match.end(), said)


@lru_cache(maxsize=1)
def vocabulary() -> Vocabulary:
    """The vocabulary of the package.

    Raises:
        ConfigError: the file is damaged.
    """
    import yaml

    text = resources.files("aoi.captions").joinpath("vocabulary.yaml").read_text(encoding="utf-8")
    try:
        return Vocabulary(tuple(_terms(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))))
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"captions/vocabulary.yaml is damaged: {error}", hint="install the package again") from error


def _terms(content: dict[str, Any]) -> Iterator[Term]:
    singular = {"places": "place", "parts": "part", "kinds": "kind", "severities": "severity", "thicknesses": "thickness", "sizes": "size"}
    for group, category in singular.items():
        for name, entry in content[group].items():
            facts = {key: value for key, value in entry.items() if key not in ("en", "zh")}
            yield Term(category, str(name), _lowered(entry["en"]), _lowered(entry["zh"]), facts)
    for name, words in content["objects"].items():
        yield Term("object", str(name), (str(name), f"{name}s"), _lowered(words), {})
    synonyms = content["look_synonyms"]
    for name, words in content["looks"].items():
        also = tuple(str(said) for said, meant in synonyms.items() if meant == name)
        yield Term("look", str(name), (str(name), *also), _lowered(words), {})
    yield Term("negation", "no", _lowered(content["negations"]["en"]), _lowered(content["negations"]["zh"]), {})
    yield Term("filler", "the", _lowered(content["fillers"]["en"]), _lowered(content["fillers"]["zh"]), {})


def _lowered(words: list[Any]) -> tuple[str, ...]:
    return tuple(str(word).lower() for word in words)


def shape_of(kind: str) -> str:
    """The family that outlines of a kind are drawn from.

    Raises:
        ConfigError: an unknown kind.
    """
    try:
        return str(vocabulary().term("kind", kind).facts["shape"])
    except KeyError:
        raise ConfigError(f"unknown kind of defect {kind!r}", hint=f"known kinds: {', '.join(kinds())}") from None


def kinds() -> tuple[str, ...]:
    """Canonical names of all kinds."""
    return vocabulary().names("kind")


def __getattr__(name: str) -> Any:
    if name == "KINDS":
        return kinds()
    raise AttributeError(name)
