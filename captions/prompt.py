"""From a sentence, in English or Chinese or both, to what a defect should be."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from aoi.captions.cleaning import _NUMBER, fitted, is_english, measure, thickness_word, tidied, with_words
from aoi.captions.negation import BETWEEN_WORDS, affirmed
from aoi.captions.places import ANYWHERE, Column, Place, Row, along_of, on_piece, place_at
from aoi.captions.spec import DefectSpec, SizeRange
from aoi.captions.vocabulary import Found, kinds, vocabulary
from aoi.errors import ConfigError

_HALF = 0.5
_SEVERE = (0.35, 0.7)
"""Below the first a severity is said as slight, from the second on as severe."""


@dataclass(frozen=True, slots=True)
class PromptReport:
    """How sentences were understood."""

    specs: tuple[DefectSpec, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"prompts": [_as_dict(spec) for spec in self.specs]}

    def summary(self) -> str:
        """For people."""
        return "\n\n".join(_summary(spec) for spec in self.specs)


def explain_prompts(texts: Sequence[str]) -> PromptReport:
    """How each sentence is understood.

    Raises:
        ConfigError: a sentence is empty.
    """
    return PromptReport(tuple(parse_prompt(text) for text in texts))


def parse_prompt(text: str, *, kind: str | None = None, place: Place | None = None) -> DefectSpec:
    """Understand one sentence; what it does not say, or says in words nobody knows, falls back and is noted.

    The first defect that is named counts. A word after `no`, `not`, `没有` and the like does not.

    Args:
        text: such as `a thin scratch on the head of the screw, slight` or `在螺丝顶部生成一处细划痕`.
        kind: overrules the sentence.
        place: overrules the sentence.

    Raises:
        ConfigError: the sentence is empty.
    """
    line = tidied(text)
    if not re.search(r"\w", line):
        raise ConfigError("the prompt is empty", hint="say what is wrong and where, such as 'a thin scratch, upper left'")
    lowered = line.lower()
    found = affirmed(lowered, list(vocabulary().find(lowered)))
    notes: list[str] = []
    said_kind = kind or _kind(lowered, found, notes)
    looks = tuple(dict.fromkeys(each.term.name for each in found if each.term.category in ("look", "thickness")))
    severity, size = (_first(found, category) for category in ("severity", "size"))
    piece = _first(found, "part")
    chosen = place if place is not None else _place(lowered, found, notes)
    thick, long = _measures(lowered)
    area = None if size is None else size.term.facts["area"]
    spec = DefectSpec(
        kind=said_kind,
        place=chosen,
        size=DefectSpec().size if area is None else SizeRange(float(area[0]), float(area[1])),
        severity=None if severity is None else float(severity.term.facts["value"]),
        text=text,
        look=looks,
        thickness=None if thick is None else thick[0],
        thickness_unit=_unit(thick),
        length=None if long is None else long[0],
        length_unit=_unit(long),
        part=None if piece is None else _phrase(piece, found),
        notes=tuple(notes),
    )
    return replace(spec, prompt=english_prompt(spec, line))


def english_prompt(spec: DefectSpec, line: str = "") -> str:
    """What the text encoder reads: the defect first, in the vocabulary's words, then the sentence itself if it is English.

    Args:
        spec: everything but its `prompt`.
        line: the sentence, tidied.
    """
    said = [spec.kind if spec.kind != "anomaly" else "defect"]
    if spec.thickness is not None:
        value = f"{spec.thickness:g} {spec.thickness_unit}"
        said.append(f"{value} ({thickness_word(spec.thickness)})" if spec.thickness_unit == "mm" else value)
    said += [word for word in spec.look if spec.thickness is None or word != thickness_word(spec.thickness)]
    if spec.part:
        said.append(spec.part)
    where = spec.place.name.split(", ")[-1]
    if not spec.place.is_anywhere and where not in (spec.part or "").split():
        said.append(where)
    if spec.severity is not None:
        said.append("slight" if spec.severity < _SEVERE[0] else "severe" if spec.severity >= _SEVERE[1] else "moderate")
    english = with_words(_english_of(line))
    phrase = ", ".join(dict.fromkeys(said))
    return fitted(f"{phrase}: {english}" if english and english.lower() != phrase else phrase)


def _english_of(line: str) -> str:
    """The sentence, or what of it stands in brackets, if that is English; else nothing."""
    if is_english(line):
        return line
    for inside in re.findall(r"\(([^()]*)\)", line):
        if is_english(inside):
            return str(inside).strip()
    return ""


def _kind(lowered: str, found: list[Found], notes: list[str]) -> str:
    named = [each.term for each in found if each.term.category == "kind"]
    clear = [term for term in named if not term.facts.get("vague")]
    if clear or named:
        chosen = (clear or named)[0]
        others = [name for name in dict.fromkeys(term.name for term in clear) if name != chosen.name]
        if others:
            notes.append(f"the sentence also names {_listed(others)}: one defect is made at a time, here {chosen.name}")
        if chosen.name != "anomaly":
            return chosen.name
    words = [word for term in vocabulary().terms if term.category == "kind" for word in term.english]
    near = [match for word in re.findall(r"[a-z]{4,}", lowered) for match in difflib.get_close_matches(word, words, n=1, cutoff=0.8)]
    guess = f"did you mean {near[0]}?" if near and not named else f"some that are known: {', '.join(kinds()[:8])}"
    notes.append(f"no known kind of defect is named, so any may be made; {guess}")
    return "anomaly"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _first(found: list[Found], category: str) -> Found | None:
    return next((each for each in found if each.term.category == category), None)


def _phrase(piece: Found, found: list[Found]) -> str:
    """The piece with the object it belongs to, such as `screw head`."""
    thing = _first(found, "object")
    return f"{thing.term.name} {piece.term.name}" if thing is not None and thing.term.name != piece.term.name else piece.term.name


def _place(lowered: str, found: list[Found], notes: list[str]) -> Place:
    """The first place that is named, and of it the piece of the part, if one with a place on the part's axis is named."""
    groups = _place_groups(lowered, [each for each in found if each.term.category == "place" and each.term.name != "half"])
    piece = next((each for each in found if each.term.category == "part" and along_of(each.term.name)), None)
    halves = any(each.term.name == "half" for each in found)
    places = [place for group in groups if (place := _one_place(group, halves)) is not None]
    if piece is not None:
        # `螺丝顶部 (… screw head)`: a direction in the other language than the piece translates it, and is no second condition.
        near = [place for group, place in zip(groups, places, strict=False) if group[0].said.isascii() == piece.said.isascii()]
        return on_piece(near[0] if near else ANYWHERE, piece.term.name)
    places = [place for place in places if not place.is_anywhere] or places  # `on the surface, upper left`
    if not places:
        notes.append("no known place is named: anywhere on the part")
        return ANYWHERE
    others = [name for name in dict.fromkeys(place.name for place in places) if name != places[0].name]
    if others:
        notes.append(f"the sentence also names {_listed(others)}: one place is used, here {places[0].name}")
    return places[0]


def _place_groups(lowered: str, words: list[Found]) -> list[list[Found]]:
    """Words of places that belong together: nothing but small words between them, and no two that exclude each other."""
    groups: list[list[Found]] = []
    for word in words:
        last = groups[-1] if groups else []
        joined = bool(last) and BETWEEN_WORDS.fullmatch(lowered, last[-1].end, word.start) is not None
        if joined and _one_place([*last, word], False) is not None:
            last.append(word)
        else:
            groups.append([word])
    return [group for group in groups if _one_place(group, False) is not None]


def _one_place(group: list[Found], halves: bool) -> Place | None:
    """The place of a group of words; None if they contradict each other."""
    names = {each.term.name for each in group}
    rows: list[Row] = [row for row in ("upper", "lower") if row in names]
    columns: list[Column] = [column for column in ("left", "right") if column in names]
    if len(rows) > 1 or len(columns) > 1 or ("middle" in names and rows and columns):
        return None
    row: Row | None = rows[0] if rows else None
    column: Column | None = columns[0] if columns else None
    if "middle" in names:
        row, column = row or "middle", column or "middle"
    whole_side = halves and "middle" not in names and (row is None) != (column is None)
    return place_at(row, column, edge="edge" in names, **({"band": _HALF} if whole_side else {}))


def _measures(lowered: str) -> tuple[tuple[float, str] | None, tuple[float, str] | None]:
    """Thickness and length, each with its unit: by the word beside the number, else the smaller number is the thickness."""
    thick: tuple[float, str] | None = None
    long: tuple[float, str] | None = None
    loose: list[tuple[float, str]] = []
    for match in re.finditer(_NUMBER, lowered):
        value = measure(match)
        if value[0] <= 0:
            continue
        before, after = lowered[max(0, match.start() - 8) : match.start()], lowered[match.end() : match.end() + 12]
        if re.search(r"长|length|long\s*$", before) or re.match(r"\s*(长|in length|long)", after):
            long = value
        elif re.search(r"宽|粗|width|thick", before) or re.match(r"\s*(宽|粗|wide|thick|thin|in width)", after):
            thick = value
        else:
            loose.append(value)
    for value in sorted(loose):
        if thick is None:
            thick = value
        elif long is None:
            long = value
    return thick, long


def _unit(value: tuple[float, str] | None) -> Literal["mm", "pixels"]:
    return "pixels" if value is not None and value[1] == "pixels" else "mm"


def _as_dict(spec: DefectSpec) -> dict[str, Any]:
    place = {"name": spec.place.name, "box": list(spec.place.box), "rim": spec.place.rim}
    size = {"thickness": spec.thickness, "thickness_unit": spec.thickness_unit, "length": spec.length, "length_unit": spec.length_unit}
    return {
        "text": spec.text,
        "kind": spec.kind,
        "place": spec.place.name,
        "place_geometry": place | {"along": None if spec.place.along is None else list(spec.place.along)},
        "part": spec.part,
        "look": list(spec.look),
        "severity": spec.severity,
        **size,
        "area": spec.size.as_dict(),
        "prompt": spec.prompt,
        "notes": list(spec.notes),
        "chinese": _chinese(spec),
    }


def _chinese(spec: DefectSpec) -> str:
    """Kind and place in Chinese, for those who check the reading."""
    said = []
    for category, name in (
        *(("place", word) for word in re.split(r"[\s,]+", spec.place.name)),
        ("part", spec.place.name.split(",")[0]),
        ("kind", spec.kind),
    ):
        try:
            said.append(vocabulary().term(category, "middle" if name == "centre" else name).chinese[0])
        except (KeyError, IndexError):
            continue
    return "".join(said)


def _summary(spec: DefectSpec) -> str:
    lines = [f"{spec.text}", f"  kind      {spec.kind}", f"  place     {spec.place.name}" + (f" (piece: {spec.part})" if spec.part else "")]
    if spec.look:
        lines.append(f"  look      {', '.join(spec.look)}")
    if spec.severity is not None:
        lines.append(f"  severity  {spec.severity:g} of 1")
    if spec.thickness is not None:
        lines.append(f"  thickness {spec.thickness:g} {spec.thickness_unit}")
    if spec.length is not None:
        lines.append(f"  length    {spec.length:g} {spec.length_unit}")
    lines += [f"  中文      {_chinese(spec)}", f"  prompt    {spec.prompt}"]
    return "\n".join([*lines, *(f"  note      {note}" for note in spec.notes)])
