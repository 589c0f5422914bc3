"""From the bench to the line: the commands that make a detector of what an ablation found."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aoi.bench.report.answer import MAIN, best_thresholds
from aoi.bench.report.bounds import invented
from aoi.bench.report.data import Finished, Row, arm_name
from aoi.bench.report.decisions import RATES, decisions
from aoi.synth.registry import generator_names

FITTED = ("patchcore", "padim")
"""The detectors that `aoi detect fit` knows."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """What may be taken over for one data set and detector, and how."""

    dataset: str
    detector: str
    why: str
    """What it did on the real test images, and what has to be known."""
    commands: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"dataset": self.dataset, "detector": self.detector, "why": self.why, "commands": list(self.commands)}


def adoptions(finished: Finished) -> list[Adoption]:
    """Thresholds between invented defects and good images, and settings chosen on them, where a command can have them.

    A head, weighted channels and banks of defects are no part of a run folder yet; `aoi detect fit` cannot have them.
    """
    found = []
    for dataset, detector in finished.main_groups():
        if detector in FITTED:
            found += [each for each in (_thresholds(finished, dataset, detector), _settings(finished, dataset, detector)) if each]
    return found


def _thresholds(finished: Finished, dataset: str, detector: str) -> Adoption | None:
    best = best_thresholds(finished, dataset, detector, among=generator_names())  # those that a command can ask for
    decided = None if best is None else decisions(best)
    if best is None or decided is None or not decided.better:
        return None
    row = best[RATES[0]]
    why = f"Thresholds between invented defects ({row['generator']}) and held-out good images: on these test images {decided.words()}."
    words = ["aoi", "synth", "generate", _folder(finished, dataset), "--generator", row["generator"], "--count", str(row["amount"])]
    words += ["--out", "DEFECTS"]
    return Adoption(dataset, detector, why, (shlex.join(words), _fit(finished, dataset, detector, {}, None) + " --defects DEFECTS"))


def _settings(finished: Finished, dataset: str, detector: str) -> Adoption | None:
    rows = [row for row in invented(finished.headline(dataset, detector, MAIN)) if row["coupling"] == "select"]
    shown = sorted((row for row in rows if row.get("ci_low") is not None and row["ci_low"] > 0), key=lambda row: -row["delta"])
    for row in shown:
        pick = _pick(finished, row)
        if pick is not None:
            why = (
                f"Settings chosen on invented defects ({arm_name(row)}, the same at every seed): AUPRO@0.3 {row['baseline']:.3f} → "
                f"{row['value']:.3f} (95 % of the change: {row['ci_low']:+.3f} to {row['ci_high']:+.3f})."
            )
            if finished.results["plan"]["select"]["image_score"] != "selected":
                why += " Image scores are then of these settings, too, which was not measured here (select: {image_score: selected})."
            options = {**pick["options"], "blur_sigma": pick["sigma"]}
            return Adoption(dataset, detector, why, (_fit(finished, dataset, detector, options, pick["image_size"]),))
    return None


def _pick(finished: Finished, row: Row) -> Mapping[str, Any] | None:
    """What an arm chose, if that was the same at every seed and options of a detector can say it."""
    records = [finished.record(row, seed=seed) for seed in finished.results["plan"]["seeds"]]
    picks = [(record or {}).get("details", {}).get("chosen") for record in records]
    names = ("strides", "options", "image_size", "sigma", "ground")
    said = [{name: pick[name] for name in names} for pick in picks if pick]
    if len(said) < len(picks) or any(each != said[0] for each in said):
        return None
    return said[0] if said[0]["ground"] == "none" and not said[0]["strides"] else None


def _fit(finished: Finished, dataset: str, detector: str, options: Mapping[str, Any], image_size: int | None) -> str:
    plan = finished.results["plan"]
    words = ["aoi", "detect", "fit", _folder(finished, dataset), "--model", detector]
    for flag, value in (("--backbone", plan.get("backbone")), ("--weights", plan.get("weights"))):
        words += [flag, str(value)] if value else []
    words += ["--image-size", str(image_size or plan["image_size"])]
    words += ["--precision", plan["precision"]] if plan.get("precision", "float32") != "float32" else []
    for name, value in {**(plan.get("options") or {}).get(detector, {}), **options}.items():
        words += ["--option", f"{name}={value}"]
    return shlex.join([*words, "--out", "RUN"])


def _folder(finished: Finished, dataset: str) -> str:
    """Where a data set lies, as the plan has it."""
    return next((path for path in finished.results["plan"].get("datasets", ()) if Path(path).name == dataset), dataset.upper())
