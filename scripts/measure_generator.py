"""Measures a small generator of `aoi synth train --preset tiny`, and writes `docs/GENERATOR.md` with its pictures.

    python scripts/measure_generator.py GENERATOR --weights WEIGHTS [--work runs/generator]

Everything is painted into masks of real defects that were held back from the training, on good images. The guidance is chosen on the
training's own validation share. GENERATOR is the folder that was trained; WEIGHTS holds LPIPS's networks. Finished commands are kept in
`--work` and not repeated; delete the folder for a clean run.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from count_siblings import count_siblings
from generator_page import Measured, page

from aoi.data.files import read_json, read_jsonl, write_json, write_text
from aoi.data.images import read_image, read_mask, write_image
from aoi.data.layouts import open_dataset
from aoi.data.progress import silent
from aoi.synth.diffusion.crop import square_around
from aoi.synth.training.crops import Crops, Picture, crop, read_defects, read_good, snapped
from aoi.synth.training.networks import GRID
from aoi.synth.training.probe import ProbeReport, read_words
from aoi.synth.training.samples import repaint, side_by_side
from aoi.synth.training.split import RealDefect

GUIDANCES = (2.0, 3.0, 4.5)
SENTENCES = {"blowhole": "a blowhole", "break": "a break", "crack": "a crack", "fray": "fray", "uneven": "uneven"}
EACH = 24
"""Pictures of each word that are generated and scored."""
COLUMNS = 8


@dataclass(frozen=True, slots=True)
class Bench:
    """Where things are."""

    generator: Path
    weights: Path
    work: Path
    docs: Path
    seed: int
    note: str = ""

    @property
    def data(self) -> Path:
        return Path(read_json(self.generator / "train.json")["dataset"])

    def kept(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` returned, now or in an earlier run."""
        path = self.work / "said" / f"{name}.json"
        if not path.is_file():
            began = time.perf_counter()
            said = make()
            write_json(path, said)
            print(f"{time.strftime('%H:%M:%S')} {name}: {time.perf_counter() - began:.0f} s", flush=True)
        return dict(read_json(path))

    def aoi(self, name: str, words: Iterable[object], *, fine: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """One `aoi` command with `--json`; exit codes in `fine` are no failure."""
        command = [str(word) for word in words]

        def run() -> dict[str, Any]:
            environment = os.environ | {"AOI_WEIGHTS": str(self.weights)}
            done = subprocess.run(
                [sys.executable, "-m", "aoi.cli", *command, "--json"], capture_output=True, text=True, check=False, env=environment
            )
            if done.returncode not in fine:
                raise SystemExit(f"aoi {shlex.join(command)} failed:\n{done.stderr}")
            return dict(json.loads(done.stdout))

        return self.kept(name, run)

    def told(self, words: Iterable[object]) -> str:
        """A command as the page shows it."""
        shown = shlex.join(str(word) for word in words)
        for path, name in ((self.generator, "GENERATOR"), (self.data, "DATA"), (self.weights, "WEIGHTS"), (self.work, "WORK")):
            shown = shown.replace(str(path), name)
        return f"aoi {shown} --json"


def defects_of(bench: Bench, part: str) -> tuple[RealDefect, ...]:
    """The real defects of a part of the split, as the training wrote them down."""
    name = "held_back.jsonl" if part == "held-back" else "training_images.jsonl"
    rows = [row for row in read_jsonl(bench.generator / name) if row["part"] == part]
    return tuple(RealDefect(Path(row["image"]), Path(row["mask"]), row["word"], i) for i, row in enumerate(rows))


def as_dataset(bench: Bench, part: str) -> Path:
    """The same as a data set of its own."""
    root = bench.work / part
    if not root.is_dir():
        building = root.with_name(root.name + ".part")
        shutil.rmtree(building, ignore_errors=True)
        for defect in defects_of(bench, part):
            for source, folder, ending in ((defect.path, "test", ""), (defect.mask_path, "ground_truth", "_mask")):
                target = building / folder / defect.word / f"{defect.path.stem}{ending}{source.suffix}"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        (building / "train" / "good").mkdir(parents=True)
        for path in good_paths(bench)[:4]:
            shutil.copyfile(path, building / "train" / "good" / path.name)
        building.rename(root)
    return root


def good_paths(bench: Bench) -> list[Path]:
    return [sample.path for sample in open_dataset(bench.data).train_good]


def probe(bench: Bench) -> tuple[dict[str, Any], float]:
    """The probe's report on held-back masks, and the guidance that read best on the validation share."""
    from aoi.metrics.lpips import Lpips

    lpips = Lpips.load(bench.weights)
    good = read_good(good_paths(bench)[-60:])
    learnt = read_defects(defects_of(bench, "train"))
    pipeline = stock_pipeline(bench)

    def read(part: str, guidance: float, picture: Path | None = None) -> ProbeReport:
        def paint(ground: np.ndarray, mask: np.ndarray, caption: str, seed: int) -> np.ndarray:
            none = np.zeros_like(mask)
            crops = Crops(ground[None], mask[None], none[None], ("",), (caption,))
            return np.asarray(repaint(pipeline, crops, steps=30, guidance=guidance, seed=seed)[0])

        unseen: Sequence[Picture] = read_defects(defects_of(bench, part))
        return read_words(learnt, unseen, good, paint, lpips, size=128, seed=bench.seed, pictures=picture, progress=silent)

    tried = {g: bench.kept(f"probe-validation-{g:g}", lambda g=g: read("validation", g).as_dict()) for g in GUIDANCES}  # type: ignore[misc]
    chosen = max(GUIDANCES, key=lambda g: (tried[g]["painted"]["all"], -g))
    found = bench.kept("probe-held-back", lambda: read("held-back", chosen, bench.docs / "generator" / "probe.png").as_dict())
    return found, chosen


def texture(bench: Bench, guidance: float) -> dict[str, Any]:
    """How a flawless surface comes out where nothing should be wrong: painted against the photograph it replaces."""

    def measure() -> dict[str, Any]:
        rng = np.random.default_rng([bench.seed, 11])
        good, masked = read_good(good_paths(bench)[-60:]), read_defects(defects_of(bench, "held-back"))
        pairs = [(crop(good[i % len(good)], 128, rng)[0], crop(defect, 128, rng)[1]) for i, defect in enumerate(masked)]
        masks = np.stack([snapped(cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0, GRID) for _, mask in pairs])
        chosen = np.flatnonzero((masks.mean((1, 2)) > 0.01) & (masks.mean((1, 2)) < 0.8))
        images = np.stack([image for image, _ in pairs])[chosen]
        crops = Crops(images, masks[chosen], masks[chosen], ("clean",) * len(chosen), ("clean",) * len(chosen))
        made = repaint(stock_pipeline(bench), crops, steps=30, guidance=guidance, seed=bench.seed)
        found = [sharpness_and_step(*each) for each in zip(images, made, masks[chosen], strict=True)]
        sharper, level, edge = (np.array(values) for values in zip(*found, strict=True))
        return {
            "pictures": len(found),
            "sharpness": float(np.median(sharper)),
            "level": float(np.median(level)),
            "edge": float(np.median(edge)),
        }

    return bench.kept("texture", measure)


def sharpness_and_step(before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> tuple[float, float, float]:
    """Fine texture inside the mask, after over before (deviation of the Laplacian); the shift of its mean grey; and the mean step across
    the mask's border, after over before."""
    old, new = (image.mean(axis=-1).astype(np.float32) for image in (before, after))
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    inner = inner if inner.sum() > 30 else mask
    fine = [float(cv2.Laplacian(image, cv2.CV_32F)[inner].std()) for image in (old, new)]
    across = []
    for image in (old, new):
        steps = [np.abs(np.diff(image, axis=axis))[np.diff(mask, axis=axis)] for axis in (0, 1)]
        across.append(float(np.concatenate(steps).mean()) if sum(map(len, steps)) else 1.0)
    return fine[1] / max(fine[0], 1e-3), abs(float(new[mask].mean() - old[mask].mean())), across[1] / max(across[0], 1e-3)


def stock_pipeline(bench: Bench) -> Any:
    """The checkpoint, opened by diffusers alone."""
    from diffusers import StableDiffusionInpaintPipeline

    return StableDiffusionInpaintPipeline.from_pretrained(str(bench.generator / "model"), local_files_only=True, safety_checker=None)


def generated(bench: Bench, generator: str, guidance: float) -> tuple[Path, list[object], dict[str, Any]]:
    """`EACH` defects of every word, outlines taken from the held-back masks; folder, command and report."""
    table = bench.work / "sentences.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("prompt", "count"), *((said, EACH) for said in SENTENCES.values())])
    out = bench.work / f"made-{generator}"
    words: list[object] = ["synth", "generate", bench.data, "--generator", generator, "--prompts", table]
    words += ["--mask", as_dataset(bench, "held-back"), "--no-cama", "--foreground", "full", "--seed", bench.seed, "--out", out]
    if generator == "diffusion":
        words += ["--model", bench.generator, "--guidance", guidance, "--steps", 30, "--strength", 1]
    return out, words, bench.aoi(f"made-{generator}", words)


def grids(bench: Bench, made: Path) -> None:
    """For each word the first real held-back defects, and below them the first painted ones, cut out alike, without choosing."""
    real, painted = ([s for s in open_dataset(root).samples if s.is_anomalous] for root in (as_dataset(bench, "held-back"), made))
    for word in SENTENCES:
        rows = []
        for side in (real, painted):
            shown = []
            for sample in [each for each in side if each.label == word][:COLUMNS]:
                assert sample.mask_path is not None
                image, mask = read_image(sample.path), read_mask(sample.mask_path)
                square = square_around(mask, context=0.6, resolution=160, grid=4)
                shown.append(square.cut(image))
            rows.append(np.stack(shown))
        write_image(bench.docs / "generator" / f"{word}.png", side_by_side(rows))


def whole_images(bench: Bench, made: Path) -> None:
    """One picture with the first three painted images of each word, whole, with the label mask's outline beside each."""
    samples = [each for each in open_dataset(made).samples if each.is_anomalous]
    tiles = []
    for word in SENTENCES:
        row = []
        for sample in [each for each in samples if each.label == word][:3]:
            assert sample.mask_path is not None
            image, mask = read_image(sample.path), read_mask(sample.mask_path).astype(np.uint8)
            lined = image.copy()
            cv2.drawContours(lined, cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0], -1, (255, 40, 40), 1)
            row += [cv2.resize(each, (160, 160), interpolation=cv2.INTER_AREA) for each in (image, lined)]
        tiles.append(np.stack(row))
    write_image(bench.docs / "generator" / "whole.png", side_by_side(tiles))


def checks(bench: Bench, guidance: float) -> tuple[list[object], dict[str, Any]]:
    words: list[object] = ["synth", "checks", bench.data, "--generator", "diffusion", "--model", bench.generator, "--foreground", "full"]
    words += [part for said in SENTENCES.values() for part in ("--sentence", said)]
    words += ["--option", f"guidance={guidance:g}", "--option", "steps=30", "--features", "--seed", bench.seed]
    return words, bench.aoi("checks", words, fine=(0, 4))


def scored(bench: Bench, made: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Scores against the real held-back defects; the real ones that were learnt from are the row to compare with."""
    real = as_dataset(bench, "held-back")
    sides = {"real, learnt from": as_dataset(bench, "train"), **made}
    return {
        name: bench.aoi(f"score-{name.split(',')[0]}", ["synth", "score", real, side, "--seed", bench.seed]) for name, side in sides.items()
    }


def measured(bench: Bench) -> Measured:
    """Everything the page tells; its pictures are written on the way."""
    found, guidance = probe(bench)
    folders: dict[str, Path] = {}
    commands, reports = {}, {}
    for generator in ("diffusion", "perlin", "cutpaste"):
        folders[generator], commands[generator], reports[generator] = generated(bench, generator, guidance)
    grids(bench, folders["diffusion"])
    whole_images(bench, folders["diffusion"])
    said, checked = checks(bench, guidance)
    return Measured(
        options=read_json(bench.generator / "train.json")["options"],
        stages={name: read_jsonl(bench.generator / "work" / f"{name}.jsonl")[-1] for name in ("vae", "denoiser")},
        parts={part: len(defects_of(bench, part)) for part in ("train", "validation", "held-back")},
        siblings=count_siblings(bench.generator),
        guidance=guidance,
        guidances=GUIDANCES,
        probe=found,
        texture=texture(bench, guidance),
        generate=bench.told(commands["diffusion"]),
        made=reports["diffusion"],
        checks=bench.told(said),
        checked=checked,
        scores=scored(bench, folders),
        words=tuple(SENTENCES),
        note=bench.note,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generator", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/generator"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--note", default="", help="a sentence about the training that its files do not hold")
    args = parser.parse_args()
    (args.docs / "generator").mkdir(parents=True, exist_ok=True)
    bench = Bench(args.generator.resolve(), args.weights.resolve(), args.work.resolve(), args.docs, args.seed, args.note)
    write_text(args.docs / "GENERATOR.md", page(measured(bench)).rstrip() + "\n")


if __name__ == "__main__":
    main()
