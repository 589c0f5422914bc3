"""Tidy sentences for people and for a text encoder that reads 77 tokens of English."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from aoi.captions.vocabulary import vocabulary

MAX_TOKENS = 77
"""CLIP's limit, its start and end tokens included."""
_UNIT = "mm|毫米|µm|um|微米|cm|厘米|px|pixels?|像素"
_NUMBER = rf"(?:(?P<low>\d+(?:[.,]\d+)?)\s*(?:{_UNIT})?\s*(?:-|–|~|to|到|至)\s*)?(?P<number>\d+(?:[.,]\d+)?)\s*(?P<unit>{_UNIT})"
"""A measure, or a range of measures whose ends have one unit."""
_MILLIMETRES = {"mm": 1.0, "毫米": 1.0, "µm": 0.001, "um": 0.001, "微米": 0.001, "cm": 10.0, "厘米": 10.0}
_WORD_IN_BRACKETS = re.compile(r"\s*[(（][^()（）]*[)）]")


def tidied(text: str) -> str:
    """One line in composed Unicode with single spaces, full-width punctuation made plain, no control characters."""
    line = unicodedata.normalize("NFKC", text)
    line = "".join(" " if unicodedata.category(letter).startswith("C") else letter for letter in line)
    line = line.replace("。", ". ").replace("、", ", ").replace("，", ", ")
    return re.sub(r"\s+", " ", re.sub(r"\s+([,.;:])", r"\1", line)).strip()


def measure(match: re.Match[str]) -> tuple[float, str]:
    """A matched `_NUMBER` as millimetres or pixels: `0,1 mm` → `(0.1, "mm")`; of a range the middle: `2-4 mm` → `(3.0, "mm")`."""
    ends = [float(each.replace(",", ".")) for each in (match["low"], match["number"]) if each]
    value, unit = sum(ends) / len(ends), match["unit"]
    return (value * _MILLIMETRES[unit], "mm") if unit in _MILLIMETRES else (value, "pixels")


def thickness_word(mm: float) -> str:
    """The vocabulary's word for a thickness in millimetres: the largest that is not thicker."""
    terms = sorted((float(term.facts["mm"]), term.name) for term in vocabulary().terms if term.category == "thickness")
    fitting = [name for value, name in terms if value <= mm * 1.0001]
    return fitting[-1] if fitting else terms[0][1]


def with_words(text: str) -> str:
    """Every thickness gets its word beside it, since text encoders do not read numbers: `0.1mm` → `0.1 mm (thin)`."""

    def said(match: re.Match[str]) -> str:
        value, unit = measure(match)
        if _WORD_IN_BRACKETS.match(text, match.end()):
            return f"{value:g} {unit}"
        return f"{value:g} {unit} ({thickness_word(value)})" if unit == "mm" and value <= 2 else f"{value:g} {unit}"

    return re.sub(_NUMBER, said, text)


def fitted(text: str, count: Callable[[str], int] | None = None, limit: int = MAX_TOKENS) -> str:
    """As many whole clauses of `text` as the encoder reads; words, where even the first clause is too long.

    Args:
        text: English, most important first.
        count: tokens of a text, start and end included; None estimates on the safe side.
        limit: of tokens.
    """
    measured = count or estimated_tokens
    if measured(text) <= limit:
        return text
    clauses = re.split(r"(?<=[,.;:])\s+", text)
    kept = clauses[0]
    for clause in clauses[1:]:
        if measured(f"{kept} {clause}") > limit:
            break
        kept = f"{kept} {clause}"
    words = kept.split(" ")
    while len(words) > 1 and measured(" ".join(words)) > limit:
        words.pop()
    return " ".join(words).rstrip(" ,;:")


def estimated_tokens(text: str) -> int:
    """More tokens than CLIP's byte-pair encoding makes of English: one for four letters of a word, one for each sign, and two ends."""
    return 2 + sum(-(-len(word) // 4) for word in re.findall(r"[A-Za-z]+", text)) + len(re.findall(r"[^A-Za-z\s]", text))


def is_english(text: str) -> bool:
    """Whether a text encoder trained on English can read it."""
    letters = [letter for letter in text if letter.isalpha()]
    return bool(letters) and sum(letter.isascii() for letter in letters) >= 0.9 * len(letters)
