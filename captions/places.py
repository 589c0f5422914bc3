"""Where on a part a defect sits: words in English and Chinese become geometry on the part's bounding box."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal, TypeVar

from aoi.captions.vocabulary import vocabulary
from aoi.errors import ConfigError

T = TypeVar("T")
Row = Literal["upper", "middle", "lower"]
Column = Literal["left", "middle", "right"]

BAND = 1 / 3
"""Width of an outer row or column as a fraction of the bounding box; the middle ones take the same width around the centre."""
RIM = 0.08
"""Width of `edge` as a fraction of the bounding box's shorter side."""
_ROWS: tuple[Row, ...] = ("upper", "lower")
_COLUMNS: tuple[Column, ...] = ("left", "right")


@dataclass(frozen=True, slots=True)
class Place:
    """A named part of the foreground, in coordinates of its bounding box."""

    name: str
    """The canonical name, such as `upper left`, `centre`, `lower right edge` or `anywhere`."""
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    """x0, y0, x1, y1 in [0, 1]: fractions of the foreground's bounding box, y downwards."""
    rim: float | None = None
    """Keep only pixels this near to the foreground's outline, as a fraction of the box's shorter side; None keeps all."""
    along: tuple[float, float] | None = None
    """Interval in [0, 1] along the part's principal axis, 0 at its thicker end; None takes all of it."""

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.box
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise ConfigError(f"place {self.name!r} has the box {self.box}", hint="give x0 < x1 and y0 < y1 between 0 and 1")
        if self.rim is not None and not 0 < self.rim <= 0.5:
            raise ConfigError(f"place {self.name!r} has a rim of {self.rim}", hint="give a fraction between 0 and 0.5")
        if self.along is not None and not 0 <= self.along[0] < self.along[1] <= 1:
            raise ConfigError(f"place {self.name!r} runs along {self.along}", hint="give two fractions from 0 to 1, the smaller first")

    @property
    def is_anywhere(self) -> bool:
        """True if the place does not restrict anything."""
        return self.box == (0.0, 0.0, 1.0, 1.0) and self.rim is None and self.along is None


ANYWHERE = Place("anywhere")


def place_at(row: Row | None, column: Column | None, *, edge: bool = False, band: float = BAND, rim: float = RIM) -> Place:
    """The place of a row, a column, or both; None leaves that direction free.

    Args:
        row: `upper`, `middle` or `lower`.
        column: `left`, `middle` or `right`.
        edge: keep only what is near the foreground's outline.
        band: width of a row or column, in (0, 1).
        rim: width of the edge, in (0, 0.5].
    """
    if not 0 < band < 1:
        raise ConfigError(f"a band of {band} is not a fraction of the part", hint="give a number between 0 and 1, such as 0.33")
    spans = {"upper": (0.0, band), "left": (0.0, band), "lower": (1 - band, 1.0), "right": (1 - band, 1.0)}
    spans["middle"] = ((1 - band) / 2, (1 + band) / 2)
    (y0, y1), (x0, x1) = (spans[row] if row else (0.0, 1.0)), (spans[column] if column else (0.0, 1.0))
    return Place(_name(row, column, edge), (x0, y0, x1, y1), rim if edge else None)


def _name(row: Row | None, column: Column | None, edge: bool) -> str:
    words = ["centre"] if (row, column) == ("middle", "middle") else [word for word in (row, column) if word]
    return " ".join(words + (["edge"] if edge else [])) or "anywhere"


def parse_place(text: str, *, band: float = BAND, rim: float = RIM) -> Place:
    """Read a place in English or Chinese: `upper left`, `the right edge`, `centre`, `head`, `左上`, `右下角`, `边缘`, `螺纹`, `anywhere`.

    Args:
        text: any order of one row word, one column word, `edge` and one piece of the part; articles and the like are ignored.
        band, rim: see `place_at`.

    Raises:
        ConfigError: a word is unknown, two words contradict each other, or no place is named.
    """
    words = _words(text)
    named = {name for name in vocabulary().names("place") if words & set(vocabulary().words("place", name))}
    pieces = [name for name in vocabulary().names("part") if words & set(vocabulary().words("part", name)) and along_of(name)]
    row: Row | None = _one(text, {name for name in _ROWS if name in named})
    column: Column | None = _one(text, {name for name in _COLUMNS if name in named})
    if "middle" in named:
        if row and column:
            raise ConfigError(f"{text!r} names a corner and the centre at once", hint="give one place, such as 'upper left' or 'centre'")
        row, column = row or "middle", column or "middle"
    if not (row or column or pieces or named & {"edge", "anywhere"}):
        raise ConfigError(f"{text!r} names no place", hint=f"say where, for example one of: {', '.join(PLACE_NAMES)}")
    place = place_at(row, column, edge="edge" in named, band=band, rim=rim)
    piece = _one(text, set(pieces))
    return place if piece is None else on_piece(place, piece)


def along_of(piece: str) -> tuple[float, float] | None:
    """Where a named piece lies on the part's long axis, from the thicker end (0) to the thinner one (1); None if it lies on no axis."""
    found = vocabulary().term("part", piece).facts.get("along")
    return None if found is None else (float(found[0]), float(found[1]))


def on_piece(place: Place, piece: str) -> Place:
    """`place`, and of it only what lies on a named piece of the part, such as `head`."""
    name = piece if place.is_anywhere else f"{piece}, {place.name}"
    return Place(name, place.box, place.rim, along_of(piece))


PLACE_NAMES = (
    *("upper left", "upper", "upper right", "left", "centre", "right", "lower left", "lower", "lower right", "edge", "anywhere"),
    *("左上", "上", "右上", "左", "中央", "右", "左下", "下", "右下", "边缘"),
)
"""Names shown to people; many more spellings are understood."""


def _one(text: str, found: set[T]) -> T | None:
    if len(found) > 1:
        raise ConfigError(f"{text!r} names opposite sides at once: {' and '.join(sorted(map(str, found)))}", hint="give one place")
    return next(iter(found), None)


def _words(text: str) -> set[str]:
    """Known words of `text`, Chinese split by longest match, fillers dropped; raises on an unknown one."""
    fillers = set(vocabulary().words("filler")) | set(vocabulary().words("place", "half"))
    spoken = {
        word
        for term in vocabulary().terms
        if term.category == "place" or term.facts.get("along")
        for word in (*term.english, *term.chinese)
    }
    known = sorted(spoken | fillers, key=len, reverse=True)
    words: set[str] = set()
    for chunk in re.findall(r"[a-z]+|[\u4e00-\u9fff]+|[^\sa-z\u4e00-\u9fff,.;:_/+()，。、；：-]+", text.lower()):
        if chunk.isascii():
            words.add(_known_word(chunk, text, known, fillers))
            continue
        while chunk:
            word = next((word for word in known if chunk.startswith(word)), None)
            words.add(_known_word(chunk if word is None else word, text, known, fillers))
            chunk = "" if word is None else chunk[len(word) :]
    return words - fillers


def _known_word(word: str, text: str, known: list[str], fillers: set[str]) -> str:
    if word in known:
        return word
    near = difflib.get_close_matches(word, [name for name in known if name not in fillers], n=3, cutoff=0.6)
    asked = f"did you mean {', '.join(map(repr, near))}? " if near else ""
    raise ConfigError(f"unknown word {word!r} in the place {text!r}", hint=f"{asked}Known places: {', '.join(PLACE_NAMES)}")
