"""Which of the words a sentence holds it means: those that no negation reaches and that are not only compared with."""

from __future__ import annotations

import re

from aoi.captions.vocabulary import Found

BETWEEN_WORDS = re.compile(r"(?:[\s,\-–/]|of|the|and|in|at|on|a|half|part|corner|side|section|area|edge|半|部|角|侧|的|方|边|面|处)*")
"""Small words that may stand among those of one place."""
_CLAUSE = r"[,.;:]|\bbut\b|而是|但"
"""Where the reach of a negation ends."""
_COMPARED = re.compile(r"[\s-]?(?:like|shaped|form|ish)\b|状|样")
"""After a piece's word it says what the defect looks like, as in `thread-like`, and not where it is."""


def affirmed(lowered: str, found: list[Found]) -> list[Found]:
    """`found` without what is denied, between a negation and the end of its clause, and without pieces that are only compared with."""
    kept: list[Found] = []
    negations = [each for each in found if each.term.category == "negation"]
    for each in found:
        denied = any(_denies(lowered, no, each, found) for no in negations if no.end <= each.start)
        compared = each.term.category in ("part", "object") and _COMPARED.match(lowered, each.end)
        if each.term.category != "negation" and not denied and not compared:
            kept.append(each)
    return _longest(kept)


def _denies(lowered: str, no: Found, each: Found, found: list[Found]) -> bool:
    """Whether a negation before `each` reaches it: `not severe` leaves the kind behind it, `not on the left` takes the place."""
    between = lowered[no.end : each.start]
    if re.search(_CLAUSE, between):
        return False
    if each.term.category == "place":
        kinds_before = any(word.term.category == "kind" and word.end <= no.start for word in found)
        after = re.search(_CLAUSE, lowered[each.end :])  # `no scratch on the left, a dent on the right`
        other = after and any(word.term.category == "kind" and word.start >= each.end + after.end() for word in found)
        return each.said != "any" and (BETWEEN_WORDS.fullmatch(between) is not None or bool(other and not kinds_before))
    if each.term.category not in ("kind", "look", "severity", "size"):
        return False
    first = next(word for word in found if word.start >= no.end)
    graded = no.said == "not" and first.term.category != "kind" and not lowered[no.end : first.start].strip()
    return not graded or each.start == first.start


def _longest(found: list[Found]) -> list[Found]:
    """Of words that overlap, those of the longer match; a part's own words inside a kind (`thread damage`) do not count."""
    return [
        one
        for one in found
        if not any(other.start <= one.start and one.end <= other.end and other.end - other.start > one.end - one.start for other in found)
    ]
