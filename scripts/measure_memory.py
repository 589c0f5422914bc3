"""Peak memory, seconds by stage and bank size of a PatchCore fit on many images, in a process of its own.

python scripts/measure_memory.py --data DATASET --weights resnet18.safetensors [--count 5000] [--side 256] [--ratio 0.01]

The images are made once, in the work folder, by shifting, mirroring, brightening and graining those of the data set. The target is
less than 6 GB for 5000 images. Peak memory is what the system counts as resident, pages of mapped files included; those it takes
back when memory is short, so `anonymous` beside it is what really must be there.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from aoi.data.provenance import git_commit

TARGET_GB = 6.0
EVERY_S = 0.05


def make_images(data: Path, folder: Path, count: int, side: int, seed: int) -> Path:
    """`count` good images of `side`×`side` pixels in `folder`/train/good; those that are there already are kept."""
    from aoi.data.images import read_image, resize_image
    from aoi.data.layouts import open_dataset

    good = folder / "train" / "good"
    good.mkdir(parents=True, exist_ok=True)
    sources = [resize_image(read_image(sample.path), (side, side)) for sample in open_dataset(data).train_good]
    wanted = [number for number in range(count) if not _file(good, number).is_file()]
    with ThreadPoolExecutor(max_workers=2) as pool:
        for done, _ in enumerate(pool.map(lambda number: _make(good, number, sources, seed), wanted), 1):
            if done % 500 == 0:
                print(f"images: {done}/{len(wanted)}", file=sys.stderr, flush=True)
    return folder


def _file(good: Path, number: int) -> Path:
    return good / f"{number:05d}.jpg"


def _make(good: Path, number: int, sources: list[np.ndarray], seed: int) -> None:
    from aoi.data.images import write_image

    write_image(_file(good, number), perturbed(sources[number % len(sources)], np.random.default_rng([seed, number])))


def perturbed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another picture of the same kind of part, HWC uint8: no two are alike, so that none of them is for free."""
    reach = max(1, image.shape[0] // 32)
    rows, columns = rng.integers(-reach, reach + 1, 2)
    moved = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    moved = moved[reach + rows :, reach + columns :][: image.shape[0], : image.shape[1]]
    if rng.random() < 0.5:
        moved = moved[:, ::-1]
    grain = rng.normal(0, 2, image.shape)
    found: np.ndarray = np.clip(moved * rng.uniform(0.92, 1.08) + grain, 0, 255).astype(np.uint8)
    return found


def fit_here(values: dict[str, Any]) -> None:
    """The fit itself, in the process that is watched: a line `STAGE name` whenever another begins, and the report as the last line."""
    import torch

    from aoi.detect.fit import FitOptions, fit_run

    torch.set_num_threads(values["threads"])
    weights = Path(values["weights"]) if values["weights"] else None
    spoken = ""

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal spoken
        if stage != spoken:
            spoken = stage
            print(f"STAGE {stage}", flush=True)

    options = FitOptions(
        backbone=values["backbone"] or ("resnet18" if weights else "aoi-small"),
        weights=weights,
        image_size=(values["side"], values["side"]),
        seed=values["seed"],
        options={"coreset_ratio": values["ratio"], "memory_gb": values["memory_gb"]},
        threshold_source=values["threshold_source"],
        device="cpu",
        overwrite=True,
    )
    print(json.dumps(fit_run(Path(values["images"]), Path(values["run"]), options, progress=tell).as_dict()), flush=True)


class Watch:
    """Looks at a process from outside: what it holds by stage, and what it has on disk."""

    def __init__(self, pid: int, run: Path) -> None:
        self.peaks: dict[str, dict[str, float]] = {}
        """Stage to the most that was `resident`, `anonymous` and `mapped`, GB."""
        self.disk_gb = 0.0
        self._stage = "start"
        self._status, self._run = Path(f"/proc/{pid}/status"), run
        self._over, self._turn = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._look_often, daemon=True)
        self._thread.start()

    def enter(self, stage: str) -> None:
        """Another stage begins."""
        with self._turn:
            self._stage = stage
        self._look()

    def _look_often(self) -> None:
        looks = 0
        while not self._over.wait(EVERY_S):
            self._look()
            if looks % 40 == 0:
                self.disk_gb = max(self.disk_gb, _size_gb(self._run))
            looks += 1

    def _look(self) -> None:
        with self._turn:
            try:
                lines = dict(line.split(":", 1) for line in self._status.read_text(encoding="ascii").splitlines())
            except OSError:  # it has ended
                return
            now = {name: int(lines[key].split()[0]) * 1024 / 1e9 for name, key in FIELDS.items() if key in lines}
            peak = self.peaks.setdefault(self._stage, {})
            peak |= {name: max(value, peak.get(name, 0.0)) for name, value in now.items()}

    def stop(self) -> None:
        """No more looks."""
        self._over.set()
        self._thread.join()

    def most(self, name: str) -> float:
        """Over all stages, GB."""
        return max((peak.get(name, 0.0) for peak in self.peaks.values()), default=0.0)


FIELDS = {"resident": "VmRSS", "anonymous": "RssAnon", "mapped": "RssFile"}


def _size_gb(folder: Path) -> float:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).stat().st_size
            except OSError:  # gone in the meantime
                continue
    return total / 1e9


def measured(values: dict[str, Any]) -> dict[str, Any]:
    """Fit in a process of its own and watch it."""
    command = [sys.executable, str(Path(__file__).resolve()), "--fit", json.dumps(values)]
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watch, last = Watch(child.pid, Path(values["run"])), "{}"
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("STAGE "):
            stage = line.split()[1]
            watch.enter(stage)
            print(f"{time.perf_counter() - began:8.1f} s  {stage}", file=sys.stderr, flush=True)
        elif line.strip():
            last = line
    watch.stop()
    if child.wait():
        raise SystemExit(f"error: the fit ended with exit code {child.returncode}")
    report = json.loads(last)
    peak = max(report["peak_memory_mb"] * 2**20 / 1e9, watch.most("resident"))
    return {
        "images": report["num_train"], "side": values["side"], "bank": bank_shape(Path(values["run"])), "threads": values["threads"],
        "threshold_source": values["threshold_source"], "memory_gb": values["memory_gb"], "peak_gb": round(peak, 3),
        "anonymous_gb": round(watch.most("anonymous"), 3), "disk_gb": round(watch.disk_gb, 3), "seconds": report["seconds"],
        "stages": {stage: {name: round(value, 3) for name, value in found.items()} for stage, found in watch.peaks.items()},
        "target_gb": TARGET_GB, "within_target": peak < TARGET_GB, "commit": git_commit(), "command": command_words(),
    }  # fmt: skip


def command_words() -> str:
    """The command as it was given, without the places of files."""
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    return shlex.join(["python", "scripts/measure_memory.py", *words])


def bank_shape(run: Path) -> list[int]:
    """Features in the bank and components of each; nothing is read but the header."""
    from safetensors import safe_open

    with safe_open(run / "weights" / "model.safetensors", "numpy") as file:
        return list(file.get_slice("memory_bank").get_shape())


def told(found: dict[str, Any]) -> str:
    """The figures for people."""
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in found["seconds"].items())
    stages = [
        f"  {stage:<12}" + ", ".join(f"{peak.get(name, 0):6.2f} GB {name}" for name in FIELDS) for stage, peak in found["stages"].items()
    ]
    verdict = "met" if found["within_target"] else "not met"
    lines = [
        f"{found['images']} images of {found['side']} px, bank {found['bank'][0]} × {found['bank'][1]}, {found['threads']} threads",
        f"peak memory {found['peak_gb']:.2f} GB (anonymous {found['anonymous_gb']:.2f}); target < {TARGET_GB:g} GB: {verdict}",
        *stages,
        f"seconds: {seconds}",
        f"on disk while fitting: {found['disk_gb']:.2f} GB",
    ]
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a data set; its good training images are the models")
    parser.add_argument("--weights", type=Path, help="of the backbone; default: the embedded one")
    parser.add_argument("--backbone", help="default: resnet18, or aoi-small without --weights")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--ratio", type=float, default=0.01, help="coreset ratio")
    parser.add_argument("--memory-gb", type=float, default=2.0, help="patch features beyond it go to disk")
    parser.add_argument("--threshold-source", choices=("crossval", "holdout", "train"), default="crossval")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs") / "memory", help="images and the run go here")
    parser.add_argument(
        "--out",
        type=Path,
        help="also write the figures to this JSON file; `memory.json` beside those of bench_speed.py gets a section",
    )
    return parser.parse_args()


def main() -> None:
    if sys.argv[1:2] == ["--fit"]:
        fit_here(json.loads(sys.argv[2]))
        return
    args = arguments()
    images = make_images(
        args.data, args.work / f"images-{args.data.resolve().name}-{args.side}-{args.seed}-{args.count}", args.count, args.side, args.seed
    )
    values = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(args).items()
        if name not in ("data", "count", "work", "out")
    }
    found = measured(values | {"images": str(images), "run": str(args.work / f"run-{args.count}")})
    print(told(found))
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
