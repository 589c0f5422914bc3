"""From arms to answers: one row for each arm and metric over all seeds, paired with its baseline seed by seed."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aoi.bench.anomalib.plan import left_out
from aoi.bench.arms import CONDITION, NONE, USUAL, Arm, Cell, Condition, cell_of, row_as_dict
from aoi.bench.couplings.segment_plan import LEAKING
from aoi.bench.judging.statistics import EXCHANGES, FURTHER, LEVEL, MANY, POWER, RESAMPLES, UNCHANGED, Verdict, verdict
from aoi.bench.judging.verdicts import Judgement, TypeRow
from aoi.bench.plan import COUPLINGS
from aoi.data.files import write_json, write_text

HIGHER_IS_BETTER = {
    "image_auroc": True,
    "pixel_auroc": True,
    "pixel_aupro": True,
    "pixel_aupro_05": True,
    "pixel_aupimo": True,
    "pixel_ap": True,
    "image_f1_max": True,
    "image_f1": True,
    "escape_rate": False,
    "overkill_rate": False,
    "pixel_f1": True,
}
"""The metrics of an arm, in the order of every table; `image_f1`, the rates and `pixel_f1` are at the arm's own thresholds."""

TITLES = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "pixel_aupro": "AUPRO@0.3",
    "pixel_aupro_05": "AUPRO@0.05",
    "pixel_aupimo": "AUPIMO",
    "pixel_ap": "pixel AP",
    "image_f1_max": "image F1-max",
    "image_f1": "image F1",
    "escape_rate": "escapes",
    "overkill_rate": "overkill",
    "pixel_f1": "pixel F1",
}


@dataclass(frozen=True, slots=True)
class SeedValue:
    """One metric of one arm at one seed, beside the baseline's at the same seed."""

    seed: int
    baseline: float | None
    value: float | None
    delta: float | None


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One metric of one arm over all seeds; None where a test set cannot define it, or one seed gives no spread."""

    dataset: str
    detector: str
    generator: str
    coupling: str
    amount: int
    """Invented defects the arm was given; 0 for the baseline."""
    metric: str
    baseline: float | None
    """Mean over seeds of the detector alone."""
    value: float | None
    """Mean over seeds of the arm."""
    delta: float | None
    """Mean over seeds of value - baseline, seed by seed."""
    ci_low: float | None
    ci_high: float | None
    """The paired 95 % interval of `delta`, over seeds and the parts that test images show; None where a run kept no counts."""
    p: float | None
    """Two-sided, by exchanging images between arm and baseline."""
    p_holm: float | None
    """Corrected over the arms of the data set."""
    verdict: Verdict | None
    """None also for arms that leak: they prove nothing."""
    detectable: float | None
    """The smallest change that would be shown with 80 % power, corrected for the arms of the data set; None where none could be."""
    std: float | None
    """Sample standard deviation of the arm over seeds."""
    baseline_std: float | None
    delta_std: float | None
    """Of the paired deltas: how steady the change is, whatever the level of a seed."""
    n_seeds: int
    per_seed: tuple[SeedValue, ...]
    shots: int = USUAL.shots
    """Good training images the arm had; 0 for all."""
    degradation: str = USUAL.degradation
    """What was done to the test images."""

    def as_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready; the condition only where it is not the usual one."""
        return row_as_dict(self)


@dataclass(frozen=True, slots=True)
class BenchResult:
    """The finished ablation."""

    arms: tuple[ArmRow, ...]
    out: Path
    backbone: str
    plan: Mapping[str, Any]
    seconds: Mapping[str, float]
    resumed: int
    """Arms that an earlier run had finished."""
    computed: int
    counts: Mapping[str, Mapping[str, int]]
    """For each data set: training images, test images, defective ones."""
    previews: Mapping[str, str]
    """Pictures of the synthetic defects, `dataset/generator` to path."""
    types: tuple[TypeRow, ...] = ()
    """The breakdown by defect type."""
    notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """For each data set, what must be known beside its figures; see `aoi.bench.notes`."""

    def as_dict(self) -> dict[str, Any]:
        """The content of `results.json`."""
        return {
            "arms": [row.as_dict() for row in self.arms],
            "out": str(self.out),
            "backbone": self.backbone,
            "plan": dict(self.plan),
            "seconds": dict(self.seconds),
            "resumed": self.resumed,
            "computed": self.computed,
            "counts": {name: dict(counts) for name, counts in self.counts.items()},
            "previews": dict(self.previews),
            "notes": {name: dict(notes) for name, notes in self.notes.items()},
            "types": [row.as_dict() for row in self.types],
            "statistics": {
                "resamples": RESAMPLES,
                "exchanges": EXCHANGES,
                "further_exchanges": FURTHER,
                "many": MANY,
                "level": LEVEL,
                "power": POWER,
            },
        }

    def summary(self) -> str:
        """What must be said of the images, the delta table (Markdown), and where the rest is."""
        said = [
            f"note: {name}, {about}: {line}" for name, notes in self.notes.items() for about, note in notes.items() for line in note["said"]
        ]
        more = f"results: {self.out}; the answer in words, with intervals and pictures: aoi bench report {shlex.quote(str(self.out))}"
        return "\n".join([*said, *([""] if said else []), markdown(self.arms), more])


def aggregate(
    records: Mapping[Arm, Mapping[str, float | None]],
    judged: Mapping[tuple[Cell, str], Judgement] | None = None,
    *,
    count: int = 0,
) -> tuple[ArmRow, ...]:
    """Rows of every arm that is not a baseline; of the baselines too where nothing else is there to carry them.

    Args:
        records: metrics of every finished arm; each arm's baseline (same data set, detector and seed) must be among them.
        judged: what statistics say of each cell and metric.
        count: the amount of defects of arms that name none.
    """
    cells: dict[Cell, list[Arm]] = {}
    for arm in records:
        cells.setdefault(cell_of(arm, count), []).append(arm)
    baselines = {(arm.dataset, arm.detector, arm.seed, arm.condition): records[arm] for arm in records if arm.is_baseline}
    rows = []
    for cell, arms in cells.items():
        arms = sorted(arms, key=lambda arm: arm.seed)
        for metric in HIGHER_IS_BETTER:
            alone = [baselines[arm.dataset, arm.detector, arm.seed, arm.condition] for arm in arms]
            pairs = [(arm.seed, was.get(metric), records[arm].get(metric)) for arm, was in zip(arms, alone, strict=True)]
            rows.append(_row(cell, metric, pairs, (judged or {}).get((cell, metric))))
    return tuple(rows)


def _row(cell: Cell, metric: str, pairs: list[tuple[int, Any, Any]], judged: Judgement | None) -> ArmRow:
    per_seed = tuple(SeedValue(seed, was, now, None if was is None or now is None else now - was) for seed, was, now in pairs)
    if judged is None and cell.generator == NONE and all(one.delta == 0 for one in per_seed):
        judged = Judgement(UNCHANGED, 1.0)  # the baseline beside itself
    said = (
        None
        if judged is None or cell.coupling == LEAKING
        else verdict(judged.finding, judged.p_holm, higher_is_better=HIGHER_IS_BETTER[metric])
    )
    return ArmRow(
        **cell.named(),
        metric=metric,
        baseline=_mean([one.baseline for one in per_seed]),
        value=_mean([one.value for one in per_seed]),
        delta=_mean([one.delta for one in per_seed]),
        ci_low=judged.finding.low if judged else None,
        ci_high=judged.finding.high if judged else None,
        p=judged.finding.p if judged else None,
        p_holm=judged.p_holm if judged else None,
        verdict=said,
        detectable=judged.finding.detectable if judged else None,
        std=_std([one.value for one in per_seed]),
        baseline_std=_std([one.baseline for one in per_seed]),
        delta_std=_std([one.delta for one in per_seed]),
        n_seeds=len(per_seed),
        per_seed=per_seed,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) and known else None


def _std(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) == len(values) and len(known) > 1 else None


def write_results(result: BenchResult) -> None:
    """Write `results.csv`, `seeds.csv`, `results.md` and `results.json`; the last one says that all are there."""
    under = CONDITION if any(Condition(row.shots, row.degradation) != USUAL for row in result.arms) else ()
    fields = [name for name in ArmRow.__dataclass_fields__ if name != "per_seed" and (name not in CONDITION or name in under)]
    write_text(result.out / "results.csv", _csv(fields, ([getattr(row, name) for name in fields] for row in result.arms)))
    cell = ["dataset", "detector", "generator", "coupling", "amount", *under, "metric"]
    seeds = (
        [*(getattr(row, name) for name in cell), one.seed, one.baseline, one.value, one.delta]
        for row in result.arms
        for one in row.per_seed
    )
    write_text(result.out / "seeds.csv", _csv([*cell, "seed", "baseline", "value", "delta"], seeds))
    write_text(result.out / "results.md", _document(result))
    write_json(result.out / "results.json", result.as_dict())


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if value is None else repr(value) if isinstance(value, float) else value for value in row] for row in rows)
    return text.getvalue()


def _document(result: BenchResult) -> str:
    plan = result.plan
    seeds = ", ".join(str(seed) for seed in plan["seeds"])
    most = plan["count"] if not plan.get("amounts") else " / ".join(str(amount) for amount in plan["amounts"] if amount)
    amount = f"{most} synthetic defects for each generator and seed"
    doses = {row.generator: row.amount for row in result.arms if row.amount}
    amount += "".join(f", {count} of {name}" for name, count in doses.items() if not plan.get("amounts") and count != plan["count"])
    lines = ["# What invented defects do to the detectors", ""]
    for name, counts in result.counts.items():
        learned, tested = f"{counts['train']} good images to learn from", f"{counts['test']} real test images"
        lines.append(f"- {name}: {learned}, {tested}, {counts['defective']} of them defective")
        lines += [f"- {name}, {about}: {said}" for about, note in result.notes.get(name, {}).items() for said in note["said"]]
    lines += [
        f"- backbone {result.backbone}, {plan['image_size']} px, {amount}, seeds {seeds}",
        "- every cell: the arm's mean, in brackets its change against the same detector alone, paired by seed (mean ± standard deviation)",
        "- ▲ helps, ▼ hurts: 95 % interval off zero and p ≤ 0.05 after Holm's correction; without a mark nothing can be told",
        *(f"- `{name}` {what}" for name, what in COUPLINGS.items() if name in {row.coupling for row in result.arms}),
        *(f"- left out: {why}" for why in left_out(plan["detectors"], plan["couplings"], plan["generators"])),
        "- escapes: share of defective parts passed; overkill: share of good parts rejected; these and the F1s at the arm's own thresholds",
        "",
        markdown(result.arms),
    ]
    return "\n".join(lines)


def markdown(rows: Sequence[ArmRow]) -> str:
    """The delta table of every data set, Markdown."""
    parts = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        here = [row for row in rows if row.dataset == dataset]
        header = ["detector", "generator", "coupling", *TITLES.values()]
        parts += [f"## {dataset}", "", f"| {' | '.join(header)} |", "|---|---|---|" + "---:|" * len(TITLES)]
        several = len({row.amount for row in here if row.amount}) > 1
        for detector, generator, coupling, amount, condition in dict.fromkeys(_arm(row) for row in here):
            found = {row.metric: row for row in here if _arm(row) == (detector, generator, coupling, amount, condition)}
            alone, under = generator == NONE, f" ({condition.text})" if condition.text else ""
            leaks = " (leaks)" if coupling == LEAKING else ""
            named = [detector + under, f"{generator} × {amount}" if several and amount else generator, coupling + leaks]
            parts.append(f"| {' | '.join([*named, *(_shown(found[metric], alone=alone) for metric in TITLES)])} |")
        parts.append("")
    return "\n".join(parts)


def _arm(row: ArmRow) -> tuple[str, str, str, int, Condition]:
    return row.detector, row.generator, row.coupling, row.amount, Condition(row.shots, row.degradation)


def _shown(row: ArmRow, *, alone: bool) -> str:
    if row.value is None:
        return "–"
    if alone:
        return f"{row.value:.3f}" + ("" if row.std is None else f" ± {row.std:.3f}")
    if row.delta is None:
        return f"{row.value:.3f}"
    if row.delta == 0 and not row.delta_std:
        return f"{row.value:.3f} (0)"
    mark = {"helps": " ▲", "hurts": " ▼"}.get(row.verdict or "", "")
    return f"{row.value:.3f} ({row.delta:+.3f}" + (")" if row.delta_std is None else f" ± {row.delta_std:.3f})") + mark
