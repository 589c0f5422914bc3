"""From the counts of every finished arm to findings: each arm against its detector alone, corrected over the arms of its data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from aoi.bench.arms import USUAL, Arm, Cell, Condition, cell_of, row_as_dict
from aoi.bench.couplings.segment_plan import LEAKING
from aoi.bench.judging.evidence import Archive, Inspected
from aoi.bench.judging.p_values import holm
from aoi.bench.judging.statistics import FURTHER, MANY, TYPE_METRICS, Court, Finding, Side
from aoi.data.progress import Progress, silent
from aoi.engine.local import usable_cores


@dataclass(frozen=True, slots=True)
class Judgement:
    """A finding and its p-value, both corrected for the arms of the data set."""

    finding: Finding
    p_holm: float


@dataclass(frozen=True, slots=True)
class TypeRow:
    """One metric of one arm on good images and one defect type."""

    dataset: str
    detector: str
    generator: str
    coupling: str
    amount: int
    metric: str
    defect_type: str
    n_images: int
    baseline: float
    value: float
    delta: float
    ci_low: float
    ci_high: float
    """95 %, of the images alone, not corrected."""
    shots: int = USUAL.shots
    degradation: str = USUAL.degradation

    def as_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready; the condition only where it is not the usual one."""
        return row_as_dict(self)


@dataclass(frozen=True, slots=True)
class Judgements:
    """What is known of every cell; empty where a run kept no counts."""

    cells: Mapping[tuple[Cell, str], Judgement]
    types: tuple[TypeRow, ...]


def judge(
    records: Mapping[Arm, Mapping[str, Any]],
    archive: Archive,
    metrics: Sequence[str],
    *,
    count: int,
    progress: Progress = silent,
) -> Judgements:
    """Compare every arm with the detector alone, paired by test image and seed; pictures of one part count together.

    Args:
        records: every finished arm, baselines among them.
        archive: where their counts are.
        metrics: which are judged.
        count: the amount of arms that name none.

    Raises:
        DataError: counts are missing or damaged.
    """
    if not all(archive.has(record) for record in records.values()):
        return Judgements({}, ())
    found: dict[tuple[Cell, str], Finding] = {}
    types: list[TypeRow] = []
    done, total = 0, len({cell_of(arm, count) for arm in records if not arm.is_baseline})
    with ThreadPoolExecutor(usable_cores()) as pool:  # it is arithmetic on arrays, for which threads need not wait for each other
        for dataset in dict.fromkeys(arm.dataset for arm in records):
            test = archive.test_set(dataset)
            arms = {cell_of(arm, count) for arm in records if arm.dataset == dataset and not arm.is_baseline}
            court = Court(test.labels, test.parts, further=FURTHER if len(arms) > MANY else 0)
            for detector in dict.fromkeys(arm.detector for arm in records if arm.dataset == dataset):
                own = {arm: record for arm, record in records.items() if (arm.dataset, arm.detector) == (dataset, detector)}
                trial = _Trial(court, archive, test, own, tuple(metrics))
                alone = dict(zip(trial.baselines, pool.map(trial.alone, trial.baselines.values()), strict=True))
                cells = _cells(list(own), count)
                for findings, rows in pool.map(partial(trial.judged, alone), cells, cells.values()):
                    found |= findings
                    types += rows
                    done += 1
                    progress("statistics", done, total)
    return Judgements(_corrected(found), tuple(types))


@dataclass(frozen=True, slots=True)
class _Trial:
    """The arms of one detector on one data set."""

    court: Court
    archive: Archive
    test: Inspected
    records: Mapping[Arm, Mapping[str, Any]]
    metrics: tuple[str, ...]

    @property
    def baselines(self) -> dict[tuple[int, Condition], Arm]:
        """The detector alone, by seed and condition."""
        return {(arm.seed, arm.condition): arm for arm in self.records if arm.is_baseline}

    def alone(self, arm: Arm) -> Side:
        """A baseline, resampled."""
        return self.court.side(self.archive.evidence(self.records[arm], self.test))

    def judged(
        self, alone: Mapping[tuple[int, Condition], Side], cell: Cell, members: Sequence[Arm]
    ) -> tuple[dict[tuple[Cell, str], Finding], list[TypeRow]]:
        """One cell: by metric what was found, and of each defect type.

        Args:
            alone: the baselines.
            members: its arms, one for each seed.
        """
        court, baselines = self.court, self.baselines
        before = [alone[arm.seed, arm.condition] for arm in members]
        evidence = (self.archive.evidence(self.records[arm], self.test) for arm in members)
        after = [court.side(each, beside=side) for each, side in zip(evidence, before, strict=True)]
        exact = {name: [_change(self.records, baselines, arm, name) for arm in members] for name in self.metrics}
        found = {(cell, name): finding for name, finding in court.compare(before, after, exact).items()}
        return found, _type_rows(court, cell, before, after)


def _cells(arms: Sequence[Arm], count: int) -> dict[Cell, list[Arm]]:
    cells: dict[Cell, list[Arm]] = {}
    for arm in sorted((arm for arm in arms if not arm.is_baseline), key=lambda arm: arm.seed):
        cells.setdefault(cell_of(arm, count), []).append(arm)
    return cells


def _change(
    records: Mapping[Arm, Mapping[str, Any]], baselines: Mapping[tuple[int, Condition], Arm], arm: Arm, metric: str
) -> float | None:
    was, now = records[baselines[arm.seed, arm.condition]]["metrics"].get(metric), records[arm]["metrics"].get(metric)
    return None if was is None or now is None else float(now - was)


def _type_rows(court: Court, cell: Cell, before: Sequence[Side], after: Sequence[Side]) -> list[TypeRow]:
    return [
        TypeRow(
            **cell.named(),
            metric=metric,
            defect_type=one.label,
            n_images=one.n_images,
            baseline=one.baseline,
            value=one.value,
            delta=one.delta,
            ci_low=one.low,
            ci_high=one.high,
        )
        for metric in TYPE_METRICS
        for one in court.by_type(before, after, metric)
    ]


def _corrected(found: Mapping[tuple[Cell, str], Finding]) -> dict[tuple[Cell, str], Judgement]:
    """Holm's correction within one data set and metric; arms that agree with the baseline on every image ask nothing,
    and arms that leak get no answer."""
    families: dict[tuple[str, str], list[tuple[Cell, str]]] = {}
    for key, finding in found.items():
        if not finding.unchanged and key[0].coupling != LEAKING:
            families.setdefault((key[0].dataset, key[1]), []).append(key)
    judged = {key: Judgement(finding, 1.0) for key, finding in found.items()}
    for keys in families.values():
        for key, p in zip(keys, holm([found[key].p for key in keys]), strict=True):
            judged[key] = Judgement(found[key].among(len(keys)), p)
    return judged
