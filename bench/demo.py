"""`aoi demo`: sample data, invented defects, a fitted detector, thresholds taught by the defects, and an ablation, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aoi.bench.plan import Plan
from aoi.bench.results import BenchResult
from aoi.bench.run import run_bench
from aoi.data.files import writable_folder, write_json
from aoi.data.layouts import open_dataset
from aoi.data.preview import contact_sheet
from aoi.data.procedural.dataset import write_sample_dataset
from aoi.data.progress import Progress, silent
from aoi.detect.compare import compare_runs
from aoi.detect.evaluate import evaluate_run
from aoi.detect.evaluation import EvaluationReport
from aoi.detect.fit import FitOptions, fit_run
from aoi.detect.inspection import inspect
from aoi.detect.weights import EMBEDDED
from aoi.synth.generate import generate_dataset
from aoi.synth.options import GenerateOptions


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demo made."""

    out: Path
    pictures: dict[str, Path]
    """What is to be seen, and where."""
    metrics: dict[str, Any]
    """PatchCore's metrics on the drawn test images."""
    taught: dict[str, Any]
    """The same with thresholds between good parts and invented defects."""
    ablation: BenchResult
    seconds: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "out": str(self.out),
            "pictures": {what: str(path) for what, path in self.pictures.items()},
            "metrics": self.metrics,
            "taught": self.taught,
            "ablation": self.ablation.as_dict(),
            "seconds": self.seconds,
        }

    def summary(self) -> str:
        """The delta table and the paths of the pictures."""
        width = max(map(len, self.pictures))
        pictures = "\n".join(f"  {what:<{width}}  {path}" for what, path in self.pictures.items())
        return f"{self.ablation.summary()}\n\npictures:\n{pictures}\n\nall of it took {self.seconds['total']:.0f} s"


def run_demo(out: Path, *, seed: int = 0, say: Callable[[str], None] = lambda text: None, progress: Progress = silent) -> DemoReport:
    """Tell the whole story in `out`; what an earlier, interrupted demo finished is kept.

    Args:
        out: a new folder, or one an earlier demo with the same seed used.
        seed: everything is derived from it.
        say: told in a sentence what happens next and what came out.
        progress: called with the stages of each step.
    """
    began = time.perf_counter()
    seconds: dict[str, float] = {}
    writable_folder(out)

    def step(name: str, sentence: str) -> None:
        seconds[name] = round(time.perf_counter() - began, 1)
        say(f"[{seconds[name]:5.1f} s] {sentence}")

    step("sample", "1/6 drawing machined parts on a conveyor: good ones to learn from, good and defective ones to test on")
    parts, defects, run, taught, ablation = (out / name for name in ("parts", "defects", "run", "taught", "ablation"))
    say(write_sample_dataset(parts, train_good=120, test_good=40, per_defect=8, seed=seed, progress=progress).summary())
    sheet = contact_sheet(open_dataset(parts), out / "parts.png", progress=progress)
    step("synth", "2/6 inventing defects on the good training parts")
    made = generate_dataset(parts, defects, GenerateOptions(count=60, seed=seed), progress=progress)
    say(made.summary())
    step("fit", f"3/6 fitting PatchCore on good parts, with the embedded backbone {EMBEDDED}")
    options = FitOptions(backbone=EMBEDDED, options={"coreset_ratio": 0.01}, seed=seed)
    say(fit_run(parts, run, options, progress=progress).summary())
    step("detect", "4/6 inspecting the test parts")
    say(inspect(parts, run, progress=progress).summary())
    metrics = evaluate_run(run, progress=progress)
    say(metrics.summary())
    step("teach", f"5/6 fitting again with the invented defects known (aoi detect fit --defects {defects}): thresholds between both")
    say(fit_run(parts, taught, replace(options, defects=defects), progress=progress).summary())
    after = evaluate_run(taught, progress=progress)
    compare_runs([run, taught], out / "comparison", progress=progress)
    say(_difference(metrics, after))
    step("bench", "6/6 measuring what invented defects do to both detectors, two seeds")
    plan = Plan(datasets=(parts,), seeds=(seed, seed + 1), count=80, backbone=EMBEDDED)
    result = run_bench(plan, ablation, progress=progress)
    step("total", "done")
    pictures = {
        "the drawn parts": sheet,
        "the invented defects": defects / "preview.png",
        "the inspected parts": run / "predictions" / "overlays",
        "both thresholds": out / "comparison" / "overlays",
        "the ablation table": ablation / "results.md",
    }
    report = DemoReport(out, pictures, metrics.as_dict(), after.as_dict(), result, seconds)
    write_json(out / "demo.json", report.as_dict())
    return report


def _difference(before: EvaluationReport, after: EvaluationReport) -> str:
    """What other thresholds do to the same scores."""
    caught = f"{before.escapes - after.escapes} of the {before.escapes} defects that passed at the default threshold are caught"
    price = f"{after.overkill} of {after.num_good} good parts are rejected (before: {before.overkill})"
    return f"on the test parts {caught}, {after.escapes} of {after.num_defective} still escape, and {price}"
