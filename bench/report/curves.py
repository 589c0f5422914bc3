"""What a report plots and shows of single arms: curves, scores and thresholds, and the images an arm changes most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aoi.bench.arms import NONE
from aoi.bench.judging.evidence import Inspected
from aoi.bench.judging.resampling import Evidence, Rows, area
from aoi.bench.report.data import Finished, Row, arm_name
from aoi.metrics.summary import AUPRO_LIMIT

SEEN = 5e-4
"""The least change of an image's overlap worth a picture."""
CURVES = 5
"""Arms beside the baseline in one plot."""


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One curve."""

    name: str
    x: np.ndarray
    y: np.ndarray


def evidence_of(finished: Finished, row: Mapping[str, Any], *, baseline: bool = False) -> tuple[Row, Evidence] | None:
    """Record and counts of an arm (or its baseline) at the first seed."""
    record = finished.record(row, baseline=baseline)
    if record is None:
        return None
    return record, finished.archive.evidence(record, finished.archive.test_set(str(row["dataset"])))


def curves(finished: Finished, dataset: str, detector: str, *, most: int = CURVES) -> tuple[list[Line], list[Line]]:
    """Image ROC and PRO curves, at the first seed, of the baseline, the arms that raise AUPRO most and the two that lower it most."""
    arms = sorted(finished.headline(dataset, detector), key=lambda row: -(row["delta"] or 0))
    if not arms:
        return [], []
    moved = [row for row in arms if row["delta"]]
    chosen = moved if len(moved) <= most else [*moved[: most - 2], *moved[-2:]]
    shown = [(arms[0], True), *((row, False) for row in chosen)]
    roc: list[Line] = []
    pro: list[Line] = []
    for row, alone in shown:
        found = evidence_of(finished, row, baseline=alone)
        if found is None:
            continue
        totals = {name: table.sum(0, dtype=np.float64) for name, table in Rows.of(found[1]).tables.items()}
        name = "detector alone" if alone else arm_name(row)
        line = _line(name, totals["image_fp"], totals["image_tp"])
        if line and not any(np.array_equal(line.y, other.y) and np.array_equal(line.x, other.x) for other in roc):
            roc.append(line)
        line = _line(name, totals["fp"], totals["overlap"])
        if line:
            pro.append(line)
    return roc, pro


def _line(name: str, fp: np.ndarray, rate: np.ndarray) -> Line | None:
    if not fp[-1] or not rate[-1]:
        return None
    return Line(name, np.concatenate([[0.0], fp / fp[-1]]), np.concatenate([[0.0], rate / rate[-1]]))


@dataclass(frozen=True, slots=True, eq=False)
class ScoreSet:
    """Image scores of one or several arms that agree on them, and where each draws its line."""

    names: tuple[str, ...]
    good: np.ndarray
    defective: np.ndarray
    thresholds: tuple[tuple[str, float], ...]


def score_sets(finished: Finished, dataset: str, detector: str, *, most: int = 4) -> list[ScoreSet]:
    """Image scores of the first seed, arms of equal scores together."""
    arms = finished.headline(dataset, detector)
    groups: dict[bytes, list[tuple[str, Row]]] = {}
    for row, alone in [(row, True) for row in arms[:1]] + [(row, False) for row in arms]:
        record = finished.record(row, baseline=alone)
        if record is not None:
            scores = np.array(record["evidence"]["image_scores"], np.float64)
            groups.setdefault(scores.tobytes(), []).append(("detector alone" if alone else arm_name(row), record))
    found = []
    for packed, members in list(groups.items())[:most]:
        scores, bad = np.frombuffer(packed, np.float64), finished.archive.test_set(dataset).defective
        lines: dict[float, str] = {}
        for name, record in members:
            lines.setdefault(float(record["image_threshold"]), name)
        thresholds = tuple((name, value) for value, name in lines.items())
        found.append(ScoreSet(tuple(name for name, _ in members), scores[~bad], scores[bad], thresholds))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """One defective image before and after."""

    image: Path
    mask: Path | None
    label: str
    before: float
    after: float
    """The image's own part in AUPRO@0.3: mean overlap of its regions over the false positive rates up to 0.3."""
    map_before: np.ndarray
    map_after: np.ndarray
    """h×w float32: the share of good pixels that look at least as anomalous."""
    degradation: str = NONE
    """What was done to the image before anyone saw it."""


def changes(finished: Finished, row: Mapping[str, Any], *, each: int = 3) -> tuple[list[Change], list[Change]]:
    """The defective images an arm helped most and hurt most, at the first seed."""
    old, new = evidence_of(finished, row, baseline=True), evidence_of(finished, row)
    if old is None or new is None:
        return [], []
    before, after = (finished.archive.small_maps(record) for record, _ in (old, new))
    if before is None or after is None:
        return [], []
    test = finished.archive.test_set(str(row["dataset"]))
    parts = [image_parts(found[1]) for found in (old, new)]
    delta = parts[1] - parts[0]
    order = [int(i) for i in np.argsort(-delta, kind="stable") if np.isfinite(delta[i])]
    best, worst = [i for i in order[:each] if delta[i] > SEEN], [i for i in order[::-1][:each] if delta[i] < -SEEN]
    worse = str(row.get("degradation", NONE))
    helped, hurt = ([_change(test, i, parts, (before, after), worse) for i in chosen] for chosen in (best, worst))
    return helped, hurt


def _change(test: Inspected, index: int, parts: list[np.ndarray], maps: tuple[np.ndarray, np.ndarray], degradation: str) -> Change:
    before, after = float(parts[0][index]), float(parts[1][index])
    return Change(test.images[index], test.masks[index], test.labels[index], before, after, maps[0][index], maps[1][index], degradation)


def image_parts(evidence: Evidence) -> np.ndarray:
    """T float64: what each image contributes to AUPRO@0.3, in 0–1; NaN for images without annotated defects."""
    tables = Rows.of(evidence).tables
    total = tables["fp"].sum(0, dtype=np.float64)
    regions = tables["overlap"][:, -1:]
    rate = tables["overlap"] / np.where(regions > 0, regions, np.nan)
    fpr = np.broadcast_to(total / max(total[-1], 1), rate.shape)
    return area(np.asarray(fpr, np.float64), np.asarray(rate, np.float64), AUPRO_LIMIT)
