"""Where on a part a defect sits: words in English and Chinese become geometry on the part's bounding box."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal, TypeVar

from aoi.errors import ConfigError

T = TypeVar("T")
Row = Literal["upper", "middle", "lower"]
Column = Literal["left", "middle", "right"]

BAND = 1 / 3
"""Width of an outer row or column as a fraction of the bounding box; the middle ones take the same width around the centre."""
RIM = 0.08
"""Width of `edge` as a fraction of the bounding box's shorter side."""

_ROWS: dict[Row, tuple[str, ...]] = {
    "upper": ("upper", "uppermost", "top", "topmost", "above", "up", "顶部", "顶端", "顶", "上面", "上"),
    "lower": ("lower", "lowest", "lowermost", "bottom", "bottommost", "below", "down", "底部", "底端", "底", "下面", "下"),
}
_COLUMNS: dict[Column, tuple[str, ...]] = {
    "left": ("left", "leftmost", "lefthand", "左面", "左"),
    "right": ("right", "rightmost", "righthand", "右面", "右"),
}
_MIDDLE = ("middle", "centre", "center", "central", "mid", "中间", "中央", "中心", "正中", "居中", "中")
_RIM = ("edge", "edges", "rim", "border", "borders", "margin", "periphery", "outline", "边缘", "边沿", "外缘", "周边", "四周", "边界")
_ANYWHERE = ("anywhere", "everywhere", "whole", "entire", "all", "any", "surface", "任意", "任何", "整个", "全部", "表面", "随机")
_FILLERS = (
    *("the", "a", "of", "at", "in", "on", "to", "near", "and", "side", "part", "corner", "area", "region", "zone", "section", "half"),
    *("third", "hand", "most", "portion", "end", "of", "object", "位置", "区域", "地方", "部分", "的", "在", "处", "部", "方", "侧"),
    *("边", "角落", "角", "端", "靠近", "靠", "偏", "向", "往", "面"),
)


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
    """Read a place in English or Chinese: `upper left`, `the right edge`, `centre`, `左上`, `右下角`, `边缘`, `anywhere`.

    Args:
        text: any order of one row word, one column word and `edge`; articles and the like are ignored.
        band, rim: see `place_at`.

    Raises:
        ConfigError: a word is unknown, two words contradict each other, or no place is named.
    """
    words = _words(text)
    row = _one(text, {row for row, names in _ROWS.items() if words & set(names)})
    column = _one(text, {column for column, names in _COLUMNS.items() if words & set(names)})
    edge, centred = bool(words & set(_RIM)), bool(words & set(_MIDDLE))
    if centred:
        if row and column:
            raise ConfigError(f"{text!r} names a corner and the centre at once", hint="give one place, such as 'upper left' or 'centre'")
        row, column = row or "middle", column or "middle"
    if not (row or column or edge or words & set(_ANYWHERE)):
        raise ConfigError(f"{text!r} names no place", hint=f"say where, for example one of: {', '.join(PLACE_NAMES)}")
    return place_at(row, column, edge=edge, band=band, rim=rim)


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
    spoken = (*(name for names in (*_ROWS.values(), *_COLUMNS.values()) for name in names), *_MIDDLE, *_RIM, *_ANYWHERE)
    known = sorted({*spoken, *_FILLERS}, key=len, reverse=True)
    words: set[str] = set()
    for chunk in re.findall(r"[a-z]+|[\u4e00-\u9fff]+|[^\sa-z\u4e00-\u9fff,.;:_/+()，。、；：-]+", text.lower()):
        if chunk.isascii():
            words.add(_known_word(chunk, text, known))
            continue
        while chunk:
            word = next((word for word in known if chunk.startswith(word)), None)
            words.add(_known_word(chunk if word is None else word, text, known))
            chunk = "" if word is None else chunk[len(word) :]
    return words - set(_FILLERS)


def _known_word(word: str, text: str, known: list[str]) -> str:
    if word in known:
        return word
    near = difflib.get_close_matches(word, [name for name in known if name not in _FILLERS], n=3, cutoff=0.6)
    asked = f"did you mean {', '.join(map(repr, near))}? " if near else ""
    raise ConfigError(f"unknown word {word!r} in the place {text!r}", hint=f"{asked}Known places: {', '.join(PLACE_NAMES)}")
