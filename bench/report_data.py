"""A finished ablation read back for its report: rows, records, curves, and which pictures are worth showing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aoi.bench.arms import USUAL, Condition
from aoi.bench.evidence import Archive, Inspected
from aoi.bench.resampling import Evidence, Rows, area
from aoi.bench.segment_plan import LEAKING
from aoi.data.files import read_json
from aoi.errors import DataError
from aoi.metrics.summary import AUPRO_LIMIT

Row = dict[str, Any]
SEEN = 5e-4
"""The least change of an image's overlap worth a picture."""
CELL = ("dataset", "detector", "generator", "coupling", "amount")


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """The folder of an ablation that ran to its end."""

    folder: Path
    results: Mapping[str, Any]
    """`results.json`; the detector's name in its rows also says under which condition it was compared, where that is unusual."""
    meta: Mapping[str, Any]
    """`meta.json`: versions, machine, commit."""
    records: Mapping[tuple[Any, ...], Row]
    """By cell and seed; empty for runs that kept no counts."""

    @property
    def rows(self) -> list[Row]:
        """One for each arm and metric."""
        return list(self.results["arms"])

    @property
    def archive(self) -> Archive:
        """Where the counts are."""
        return Archive(self.folder / "evidence")

    @property
    def seed(self) -> int:
        """The first seed: the one whose curves and pictures are shown."""
        return int(self.results["plan"]["seeds"][0])

    def groups(self) -> Iterator[tuple[str, str]]:
        """Every data set with every detector, in order."""
        yield from dict.fromkeys((row["dataset"], row["detector"]) for row in self.rows)

    def arms(self, dataset: str, detector: str, metric: str = "pixel_aupro") -> list[Row]:
        """The rows of one metric without the baseline."""
        wanted = (dataset, detector, metric)
        return [row for row in self.rows if (row["dataset"], row["detector"], row["metric"]) == wanted and row["coupling"] != "none"]

    def record(self, row: Mapping[str, Any], *, baseline: bool = False) -> Row | None:
        """What the arm of a row left behind at the first seed, or its baseline did; None where nothing was kept."""
        cell = [row["dataset"], row["detector"], "none", "none", 0] if baseline else [row[name] for name in CELL]
        return self.records.get((*cell, self.seed))


def read_finished(folder: Path) -> Finished:
    """Read an ablation.

    Raises:
        DataError: it is not finished, or not an ablation.
    """
    hint = f"finish it first: aoi bench run … --out {folder}"
    results = read_json(folder / "results.json", hint=hint)
    if not isinstance(results, dict) or not results.get("arms"):
        raise DataError(f"{folder / 'results.json'} holds no arms", hint=hint)
    amount = results["plan"].get("count", 0)
    for row in results["arms"]:
        row.setdefault("amount", 0 if row["generator"] == "none" else amount)
    for row in (*results["arms"], *(results.get("types") or ())):
        _say_condition(row)
    try:
        meta = read_json(folder / "meta.json")
    except DataError:
        meta = {}
    return Finished(folder, results, meta, _records(folder))


def _say_condition(row: Row) -> None:
    """Every condition reads as a detector of its own, which is what it is: it has its own baseline. `of` keeps the plain name."""
    under = Condition(row.get("shots", USUAL.shots), row.get("degradation", USUAL.degradation))
    if under != USUAL:
        row["of"], row["detector"] = row["detector"], f"{row['detector']} ({under.text})"


def _records(folder: Path) -> dict[tuple[Any, ...], Row]:
    found = {}
    for path in sorted((folder / "arms").glob("*.json")):
        try:
            content = read_json(path)["content"]
            arm = content["arm"]
            _say_condition(arm)
            key = (*(arm[name] for name in CELL), arm["seed"])
        except (DataError, KeyError, TypeError):
            continue  # torn, or of a version that kept nothing
        if Archive(folder / "evidence").has(content):
            found[key] = content
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One curve."""

    name: str
    x: np.ndarray
    y: np.ndarray


def arm_name(row: Mapping[str, Any], *, amount: bool = False) -> str:
    """What an arm is called in plots and tables."""
    if row["coupling"] == "none":
        return "detector alone"
    leaks = " (leaks)" if row["coupling"] == LEAKING else ""
    return f"{row['generator']}{' × ' + str(row['amount']) if amount else ''} → {row['coupling']}{leaks}"


def evidence_of(finished: Finished, row: Mapping[str, Any], *, baseline: bool = False) -> tuple[Row, Evidence] | None:
    """Record and counts of an arm (or its baseline) at the first seed."""
    record = finished.record(row, baseline=baseline)
    if record is None:
        return None
    return record, finished.archive.evidence(record, finished.archive.test_set(str(row["dataset"])))


def curves(finished: Finished, dataset: str, detector: str, *, most: int = 5) -> tuple[list[Line], list[Line]]:
    """Image ROC and PRO curves of the baseline and of the arms that move them most; of the first seed."""
    arms = sorted(finished.arms(dataset, detector), key=lambda row: -abs(row["delta"] or 0))
    if not arms:
        return [], []
    several = len({row["amount"] for row in arms}) > 1
    shown = [(arms[0], True), *((row, False) for row in arms[:most] if row["delta"])]
    roc: list[Line] = []
    pro: list[Line] = []
    for row, alone in shown:
        found = evidence_of(finished, row, baseline=alone)
        if found is None:
            continue
        totals = {name: table.sum(0, dtype=np.float64) for name, table in Rows.of(found[1]).tables.items()}
        name = "detector alone" if alone else arm_name(row, amount=several)
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
    arms = finished.arms(dataset, detector)
    several = len({row["amount"] for row in arms}) > 1
    groups: dict[bytes, list[tuple[str, Row]]] = {}
    for row, alone in [(row, True) for row in arms[:1]] + [(row, False) for row in arms]:
        record = finished.record(row, baseline=alone)
        if record is not None:
            scores = np.array(record["evidence"]["image_scores"], np.float64)
            groups.setdefault(scores.tobytes(), []).append(("detector alone" if alone else arm_name(row, amount=several), record))
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
    helped, hurt = ([_change(test, i, parts, (before, after)) for i in chosen] for chosen in (best, worst))
    return helped, hurt


def _change(test: Inspected, index: int, parts: list[np.ndarray], maps: tuple[np.ndarray, np.ndarray]) -> Change:
    before, after = float(parts[0][index]), float(parts[1][index])
    return Change(test.images[index], test.masks[index], test.labels[index], before, after, maps[0][index], maps[1][index])


def image_parts(evidence: Evidence) -> np.ndarray:
    """T float64: what each image contributes to AUPRO@0.3, in 0–1; NaN for images without annotated defects."""
    tables = Rows.of(evidence).tables
    total = tables["fp"].sum(0, dtype=np.float64)
    regions = tables["overlap"][:, -1:]
    rate = tables["overlap"] / np.where(regions > 0, regions, np.nan)
    fpr = np.broadcast_to(total / max(total[-1], 1), rate.shape)
    return area(np.asarray(fpr, np.float64), np.asarray(rate, np.float64), AUPRO_LIMIT)
