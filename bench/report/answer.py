"""The answer of an ablation in plain words: for each data set and detector, do invented defects help, and at what price?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from aoi.bench.couplings.segment_plan import LEAKING
from aoi.bench.report.bounds import at_best, invented
from aoi.bench.report.company import by_one_detector, owed
from aoi.bench.report.data import Finished, Row, arm_name, cell_key
from aoi.bench.report.decisions import RATES, decisions
from aoi.bench.report.watching import unwatched

Word = Literal["yes", "yes, slightly", "not shown", "no"]
MAIN = "pixel_aupro"
"""The metric the answer is about."""
_HARDLY = "changes AUPRO@0.3 by less than 0.0005"
SLIGHT = 0.01
"""Gains below it are shown, but few would notice them."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one data set and detector say."""

    dataset: str
    detector: str
    word: Word
    """`yes` (slightly where the gain is below `SLIGHT`): an arm is shown to help; `no`: every arm that moves anything is shown to hurt;
    else nothing is shown."""
    text: str
    best: Row | None
    """The arm named in the text."""

    def line(self) -> str:
        """For a terminal or a list."""
        return f"{self.dataset}, {self.detector}: {self.word}. {self.text}"


def answers(finished: Finished) -> list[Answer]:
    """One for each data set, detector and condition."""
    return [found for dataset, detector in finished.groups() if (found := _answer(finished, dataset, detector))]


def _answer(finished: Finished, dataset: str, detector: str) -> Answer | None:
    every = [row for row in finished.arms(dataset, detector, MAIN) if row["coupling"] != LEAKING]
    if not every:
        return None
    arms, bound = invented(every), at_best(every, several=finished.several(dataset))
    if not arms:
        return Answer(dataset, detector, "not shown", _joined("No arm learned from invented defects alone.", bound), None)
    judged = [row for row in arms if row.get("verdict")]
    if not judged:
        unmarked = all(row["value"] is None for row in arms)
        why = "the run kept no counts for statistics"
        if unmarked:
            why = "no test image marks where its defect is, so that AUPRO cannot be measured"
        text = f"Nothing can be told of any arm: {why}."
        return Answer(dataset, detector, "not shown", text, None)
    several, only = finished.several(dataset), _thresholds_only(finished, dataset, detector)
    helped = sorted((row for row in judged if row["verdict"] == "helps"), key=lambda row: -row["delta"])
    moved = [row for row in judged if not unmoved(row)]
    tally = _tally(judged, helped)
    if helped:
        best, others = helped[0], by_metric(finished, helped[0])
        said = (strict(others.get("pixel_aupimo")), image_score(others.get("image_auroc")), at_thresholds(others))
        text = _joined(_gain(best, several=several), owed(finished, best, helped, several=several), *said, only, tally, bound)
        slight: Word = "yes" if best["delta"] >= SLIGHT else "yes, slightly"
        return Answer(dataset, detector, slight, text, best)
    if not moved:
        return Answer(dataset, detector, "not shown", _joined("No arm changed where defects are found.", only, tally, bound), None)
    near = max(moved, key=lambda row: row["delta"])
    word: Word = "no" if all(row["verdict"] == "hurts" for row in moved) else "not shown"
    whose = owed(finished, near, (), several=several) if near["delta"] > 0 and _change(near) else ""
    return Answer(dataset, detector, word, _joined(_nearest(near, several=several), whose, only, tally, bound), near)


def _joined(*said: str) -> str:
    return " ".join(each for each in said if each)


def unmoved(row: Mapping[str, Any]) -> bool:
    """True where arm and baseline agree exactly."""
    return row["delta"] == 0 and row.get("ci_low") == 0 and row.get("ci_high") == 0


def by_metric(finished: Finished, row: Mapping[str, Any]) -> dict[str, Row]:
    """All rows of the arm that a row is of."""
    return {other["metric"]: other for other in finished.rows if cell_key(other) == cell_key(row)}


def _gain(row: Row, *, several: bool) -> str:
    return (
        f"{arm_name(row, amount=several)} finds defective areas better: AUPRO@0.3 {row['baseline']:.3f} → {row['value']:.3f}, "
        f"a gain of {row['delta']:.3f} (95 %: {row['ci_low']:.3f} to {row['ci_high']:.3f})."
    )


def _nearest(row: Row, *, several: bool) -> str:
    name, change = arm_name(row, amount=several), _change(row)
    if row["verdict"] == "hurts":
        worse = f"AUPRO@0.3 {change}" if change else f"it {_HARDLY}"
        return f"Even the best arm, {name}, finds defective areas worse: {worse}."
    said = f"The most hopeful arm, {name}, changes AUPRO@0.3 by {change}" if change else f"The most hopeful arm, {name}, {_HARDLY}"
    if row.get("detectable", 0.0) is None:
        return f"{said} (corrected p {row['p_holm']:.2f}); {_too_few(row)}"
    if row["ci_low"] > 0:
        return f"{said}, but among so many arms chance alone may do that (corrected p {row['p_holm']:.2f})."
    if "detectable" not in row:
        return f"{said}."
    return f"{said}; a change of {row['detectable']:.3f} would most likely have shown."


def _change(row: Row) -> str:
    """`+0.012 (95 %: -0.003 to +0.027)`; empty where three decimals show nothing of it."""
    found = [row[name] for name in ("delta", "ci_low", "ci_high")]
    if max(map(abs, found)) < 0.0005:
        return ""
    delta, low, high = (f"{value:+.3f}".replace("-0.000", "+0.000") for value in found)
    return f"{delta} (95 %: {low} to {high})"


def _too_few(row: Row) -> str:
    """Why no change of any size could have been shown, and what would help."""
    if row.get("n_seeds") == 1:
        few, more = "test images of one kind", "test images"
    else:
        few, more = "seeds or test images", "of them"
    return f"with so few {few} no change could have been shown among so many arms: compare fewer arms, or take more {more}."


def strict(row: Row | None) -> str:
    """A warning where next to no false marks are tolerated and the arm is worse, or seems to be."""
    if row is None or row["value"] is None or row.get("verdict") is None or row["delta"] >= 0:
        return ""
    change = f"AUPIMO {row['baseline']:.3f} → {row['value']:.3f}"
    if row["verdict"] == "hurts":
        return f"But where next to no false marks are tolerated it gets worse: {change}."
    return f"Where next to no false marks are tolerated the figures point the other way ({change}), which may be chance."


def image_score(row: Row | None) -> str:
    """What became of the good-or-bad decision."""
    if row is None or row["value"] is None or row.get("verdict") is None:
        return ""
    if unmoved(row):
        return f"The image score is untouched (image AUROC {row['value']:.3f})."
    change = f"image AUROC {row['baseline']:.3f} → {row['value']:.3f}"
    said = {"helps": "The image score gets better", "hurts": "But the image score gets worse"}
    return f"{said.get(row['verdict'], 'Of the image score nothing can be told')}: {change}."


def at_thresholds(rows: Mapping[str, Row]) -> str:
    """Escapes and overkill in parts of a hundred."""
    found = decisions(rows)
    if found is None:
        return ""
    return f"At its threshold nothing changes: {found.words()}." if found.unmoved else f"At its own threshold {found.words()}."


def best_thresholds(finished: Finished, dataset: str, detector: str, among: Collection[str] | None = None) -> dict[str, Row] | None:
    """The rows, by metric, of the arm that sets nothing but thresholds and decides best; None where there is none.

    Args:
        among: its generator is one of these; None for any.
    """
    rows = [row for row in invented(finished.headline(dataset, detector, MAIN)) if row["coupling"] == "calibrate"]
    arms = [by_metric(finished, row) for row in rows if among is None or row["generator"] in among]
    known = [found for found in arms if decisions(found) is not None]
    return min(known, key=lambda found: sum(found[name]["value"] for name in RATES)) if known else None


def _thresholds_only(finished: Finished, dataset: str, detector: str) -> str:
    """What that arm does to escapes and overkill."""
    best = best_thresholds(finished, dataset, detector)
    found = None if best is None else decisions(best)
    if best is None or found is None or found.unmoved:
        return ""
    return f"With nothing but its thresholds set by invented defects ({arm_name(best[RATES[0]])}) {found.words()}."


def _tally(judged: Sequence[Row], helped: Sequence[Row]) -> str:
    hurt, still = sum(row["verdict"] == "hurts" for row in judged), sum(map(unmoved, judged))
    open_ = len(judged) - len(helped) - hurt - still
    counted = [(len(helped), "help"), (hurt, "hurt"), (open_, "cannot be told"), (still, "leave it exactly as it was")]
    said = [f"{count} {what}{'s' if count == 1 and what in ('help', 'hurt') else ''}" for count, what in counted if count]
    return f"Of {len(judged)} {'arm' if len(judged) == 1 else 'arms'}: {', '.join(said)}.".replace("1 leave it", "1 leaves it")


def overall(finished: Finished) -> str | None:
    """Which arm helps most often over data sets and detectors; None where there is one of them only."""
    tally: dict[tuple[str, str], list[Row]] = {}
    groups = finished.main_groups()
    for dataset, detector in groups:
        for row in invented(finished.headline(dataset, detector, MAIN)):
            if row.get("verdict") and row["coupling"] != LEAKING:
                tally.setdefault((row["generator"], row["coupling"]), []).append(row)
    if len(groups) < 2 or not tally:
        return None

    every = f"{max(map(len, tally.values()))} combinations of data set and detector"
    helpful = {arm: rows for arm, rows in tally.items() if _worth(rows)[1]}
    if not helpful:
        return f"No arm is shown to help in any of {every}."
    said, rows = _most_often(helpful)
    if by_one_detector(rows):
        return f"Over all, {said}"
    alone = {arm: rows for arm, rows in helpful.items() if by_one_detector(rows)}
    others = f"of the arms that do not, {_most_often(alone)[0]}" if alone else "no arm that does not is shown to help."
    return f"Over all, {said} It joins two detectors; {others}"


def _most_often(helpful: Mapping[tuple[str, str], list[Row]]) -> tuple[str, list[Row]]:
    """The arm that helps most often, in words, and its rows; each arm here is shown to help somewhere."""
    rows = max(helpful.values(), key=lambda rows: _worth(rows)[::3])
    net, good, bad, mean = _worth(rows)
    equal = sum(_worth(other)[0] == net for other in helpful.values()) - 1
    most = f"helps as often as {equal} other{'s' * (equal > 1)}, and most" if equal else "helps most often"
    text = (
        f"{arm_name(rows[0])} {most}: it raises AUPRO@0.3 in {good} of {len(rows)} combinations of data set and detector, "
        f"lowers it in {bad or 'none'}, and changes it by {mean:+.3f} on average."
    )
    return text, rows


def _worth(rows: Sequence[Row]) -> tuple[int, int, int, float]:
    """How often an arm helps beyond how often it hurts, both, and its mean change."""
    good, bad = (sum(row["verdict"] == word for row in rows) for word in ("helps", "hurts"))
    return good - bad, good, bad, float(np.mean([row["delta"] for row in rows]))


def warnings(finished: Finished) -> list[str]:
    """What must not be overlooked: protocols that leak, pictures that look like test images, unwatched choices, one seed only."""
    said = []
    leaking = sorted({row["generator"] for row in finished.rows if row["coupling"] == LEAKING})
    if leaking:
        said.append(
            f"NO EVIDENCE: {LEAKING} ({', '.join(leaking)}) chose its epoch on the test images, as the field does. Its figures leak, "
            "are shown for comparison with published tables only, and get no verdict."
        )
    for name, notes in (finished.results.get("notes") or {}).items():
        said += [f"{name}, {about}: {line}" for about, note in notes.items() for line in note.get("said", ())]
    said += unwatched(finished)
    if len(finished.results["plan"]["seeds"]) == 1:
        said.append("One seed: the intervals speak of these test images and this one training, not of another seed.")
    return said


def sentences(finished: Finished) -> list[str]:
    """The answer as lines of text."""
    first = overall(finished)
    leaks = [line for line in warnings(finished) if line.startswith("NO EVIDENCE")]
    return [*([first] if first else []), *(each.line() for each in answers(finished)), *leaks]
