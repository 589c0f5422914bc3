"""The cases that need a data set: fits and exports made beforehand, then whole prediction and the first verdict."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aoi.data.files import atomic_folder
from aoi.data.layouts import open_dataset
from speed.plan import Case, Point, Series, Target

RATIO = "0.01"
PREDICT = (
    "From image files to verdicts: decoding, resizing, backbone, search, map, score; PatchCore with a bank of 1 %, ResNet-18 unless a side "
    "says embedded. The model is loaded before the clock starts, in aoi's case in every process that looks: on an export's runtime one for "
    "each core, whose whole memory counts, libraries included. aoi writes masks and `preds.jsonl`. anomalib, with the same weights and "
    "the same bank, returns its results from `Engine.predict` in batches of 8 and writes nothing. torch is the same detector in the "
    "plainest code, and writes one JSON file."
)
FIRST = "From the start of a process to the verdict on one image on disk: `aoi detect run IMAGE --runtime …`, imports and loading included."
SIDES = {
    "anomalib": 0.3,
    "torch": 0.06,
    "aoi": 0.04,
    "aoi openvino": 0.02,
    "aoi openvino bf16": 0.01,
    "aoi embedded": 0.02,
    "aoi embedded openvino": 0.01,
    "aoi embedded openvino bf16": 0.01,
}
"""About the seconds an image."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Where pictures and weights come from, and where what is made of them goes."""

    dataset: Path
    weights: Path | None
    """ResNet-18; None leaves only the embedded backbone."""
    work: Path
    count: int
    size: int
    say: Callable[[str], None]

    def folder(self) -> Path:
        """A folder with `count` test images, taken evenly from all of them, again from the start where there are fewer."""
        found = self.work / f"{self.dataset.name}-{self.count}"
        if not found.is_dir():
            tests = [sample.path for sample in open_dataset(self.dataset).test]
            if not tests:
                raise SystemExit(f"error: {self.dataset} has no test images\nhint:  give a data set in MVTec AD's layout to --data")
            with atomic_folder(found) as place:
                for i in range(self.count):
                    path = tests[i * len(tests) // self.count] if self.count <= len(tests) else tests[i % len(tests)]
                    shutil.copyfile(path, place / f"{i:04d}{path.suffix}")
        return found

    def places(self, size: int) -> dict[str, str]:
        """Fit and export what the sides need, unless it is there; what could not be made is named with its reason."""
        found = {"folder": str(self.folder()), **({"weights": str(self.weights)} if self.weights else {})}
        kinds: list[tuple[str, list[str]]] = [("embedded ", ["--backbone", "aoi-small"])]
        if self.weights:
            kinds.append(("", ["--backbone", "resnet18", "--weights", str(self.weights)]))
        for kind, backbone in kinds:
            run = self.work / f"{kind.strip() or 'resnet18'}-{self.dataset.name}-{size}"
            words = ["detect", "fit", str(self.dataset), "--model", "patchcore", "--coreset-ratio", RATIO, *backbone]
            failed = self._aoi(run / "meta.json", [*words, "--image-size", str(size), "--threshold-source", "holdout", "--out", str(run)])
            if failed:
                raise SystemExit(failed)
            found[f"{kind}run"] = str(run)
            for runtime in ("openvino", "onnx"):
                export = run.with_name(f"{run.name}-{runtime}")
                failed = self._aoi(export / "export.json", ["detect", "export", str(run), "--format", runtime, "--out", str(export)])
                found[f"no {kind}{runtime}" if failed else f"{kind}{runtime}"] = failed or str(export)
        return found

    def _aoi(self, made: Path, words: Sequence[str]) -> str:
        """Run `aoi` unless `made` exists; the first line of what it complained about, or nothing."""
        if made.is_file():
            return ""
        self.say(f"once: aoi {' '.join(words[:2])} → {made.parent.name}")
        done = subprocess.run([sys.executable, "-m", "aoi.cli", *words, "--json"], capture_output=True, text=True, check=False)
        return (done.stderr.strip().splitlines() or ["it failed and said nothing"])[0] if done.returncode else ""


def predict_point(pictures: Pictures, size: int, places: dict[str, str], sides: Sequence[str], count: int, rounds: int) -> Point:
    """Whole prediction at one size."""
    values = {"dataset": pictures.dataset.name, "count": count, "size": size, "ratio": RATIO, "resnet18": pictures.weights is not None}
    targets = (
        Target("at least 100 images/s with OpenVINO in bfloat16", "rate", 100, "aoi openvino bf16"),
        Target("at least 250 images/s with the embedded backbone", "rate", 250, "aoi embedded openvino bf16"),
    )
    title = f"{count} images of {pictures.dataset.name} at {size} px"
    seconds = {side: SIDES[side] * count * (size / 256) ** 2 for side in sides}
    return Point("predict", title, values, seconds, places=places, targets=targets if size == 256 else (), rounds=rounds)


def picture_cases(pictures: Pictures, *, quick: bool, make: bool) -> tuple[Case, Case]:
    """Whole prediction and first verdict.

    Args:
        pictures: what to look at.
        quick: one small size.
        make: fit and export what is missing now; else places are left empty.
    """
    sides = list(SIDES) if pictures.weights else [side for side in SIDES if "embedded" in side]
    sizes = (pictures.size,) if quick else (128, 192, 256, 320)
    rounds = 2 if quick else 5
    points = {}
    for size in sizes:
        points[size] = predict_point(pictures, size, pictures.places(size) if make else {}, sides, pictures.count, rounds)
    head = points[pictures.size if pictures.size in points else sizes[-1]]
    series = () if quick else (Series("size", "image side, pixels", tuple(points.values())),)
    starts = {"aoi": 6.0, "aoi openvino": 1.5, "aoi onnx": 1.5, "aoi embedded openvino": 1.5}
    starts = starts if pictures.weights else {side: value for side, value in starts.items() if "embedded" in side}
    values = {name: head.values[name] for name in ("dataset", "size", "ratio", "resnet18")}
    target = Target("at most 1.5 s", "seconds", 1.5, "aoi openvino")
    first = Point("first", f"one image at {head.values['size']} px", values, starts, places=head.places, targets=(target,), rounds=rounds)
    return Case("predict", "Whole prediction", PREDICT, (head,), series), Case("first", "First verdict", FIRST, (first,))
