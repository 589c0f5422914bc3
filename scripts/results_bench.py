"""Where the figures of `docs/RESULTS.md` come from: data, weights, and commands that are run once."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aoi.data.files import read_json, write_json

DATASETS = {"transistor": "mvtec_ad/transistor", "screw": "mvtec_ad/screw", "tile": "magnetic_tile/tile"}
RESNET = "resnet18_imagenet_conv1-layer3.safetensors"
SEEDS = (0, 1, 2)
TIMED = ("PatchCore 1 %", "PaDiM")
METRICS = ("image_auroc", "pixel_auroc", "pixel_aupro")


def slug(*parts: object) -> str:
    """Letters and digits of the parts, joined by hyphens: part of a file name."""
    return "-".join("".join(letter for letter in str(part) if letter.isalnum()) for part in parts)


@dataclass(frozen=True)
class Bench:
    """Where things are, and the commands run so far."""

    data: Path
    weights: Path
    work: Path
    extra_seeds: tuple[int, ...]
    generator: Path | None = None
    """A checkpoint of `aoi synth train --preset tiny` on the tile's real defects; None leaves its ablation out."""
    skip: frozenset[str] = frozenset()
    """`data set/detector` cells that are left out, and said to be."""

    @property
    def resnet(self) -> list[str]:
        return ["--backbone", "resnet18", "--weights", str(self.weights / RESNET)]

    def seeds(self, title: str) -> tuple[int, ...]:
        return SEEDS if title in TIMED else self.extra_seeds

    def dataset(self, name: str) -> Path:
        return self.data / DATASETS[name]

    def has(self, name: str) -> bool:
        """Whether a command has been run, with whatever arguments."""
        return (self.work / "said" / f"{name}.json").is_file()

    def aoi(self, name: str, words: Iterable[object]) -> dict[str, Any]:
        """Run one `aoi` command."""
        return self.python(name, ["-m", "aoi.cli"], words)

    def python(self, name: str, program: list[str], words: Iterable[object]) -> dict[str, Any]:
        """Run one command with `--json` in a process of its own, or read what it said last time."""
        kept = self.work / "said" / f"{name}.json"
        command = [str(word) for word in words]
        if kept.is_file():
            earlier = read_json(kept)
            if earlier["command"] == command:
                return dict(earlier["said"])
        began = time.perf_counter()
        done = subprocess.run([sys.executable, *program, *command, "--json"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{shlex.join(command)} failed:\n{done.stderr}")
        said = json.loads(done.stdout)
        write_json(kept, {"command": command, "seconds": round(time.perf_counter() - began, 1), "said": said})
        print(f"{time.strftime('%H:%M:%S')} {name}: {time.perf_counter() - began:.0f} s", flush=True)
        return dict(said)

    def fit_and_evaluate(self, name: str, dataset: str, seed: int, options: list[str], backbone: list[str]) -> dict[str, Any]:
        run = self.work / "runs" / name
        common = ["--image-size", 256, "--threshold-source", "holdout", "--seed", seed, "--out", run, "--overwrite"]
        fit = self.aoi(f"fit-{name}", ["detect", "fit", self.dataset(dataset), *options, *backbone, *common])
        found = self.aoi(f"evaluate-{name}", ["detect", "evaluate", run])
        return {
            **found,
            "feature_seconds": fit["seconds"]["features"],
            "fit_seconds": fit["seconds"]["fit"],
            "fit_memory": fit["peak_memory_mb"],
            "memory": found["peak_memory_mb"],
        }
