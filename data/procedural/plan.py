"""What a sample data set will hold: its settings, one entry per image, and what is already there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aoi.data.content import file_hash
from aoi.data.files import read_json, read_jsonl
from aoi.data.procedural.defects import DEFECTS, SEVERITIES, Severity
from aoi.data.procedural.scene import image_seed
from aoi.data.sample import GOOD, Split
from aoi.errors import ConfigError, DataError

COMMAND = "data sample"
RECIPE = 1
"""Raised whenever the same seed draws other pictures than before, so that no folder mixes two recipes."""
SIZES = (128, 2048)
LARGEST_COUNT = 100_000
SUBFOLDERS = ("train", "test", "ground_truth")


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """Everything that decides what a sample data set looks like."""

    train_good: int
    test_good: int
    per_defect: int
    size: int
    seed: int
    recipe: int = RECIPE

    def __post_init__(self) -> None:
        for name, least in (("train_good", 1), ("test_good", 0), ("per_defect", 0)):
            _whole(name, getattr(self, name), least, LARGEST_COUNT)
        _whole("size", self.size, *SIZES)
        _whole("seed", self.seed, 0, 2**63 - 1)

    def as_dict(self) -> dict[str, int]:
        """The settings as `meta.json` keeps them."""
        return asdict(self)

    def images(self) -> Iterator[PlannedImage]:
        """Every image of the data set, in the order of the manifest."""
        for index in range(self.train_good):
            yield self._planned("train", GOOD, index, None, (index + 0.5) / self.train_good)
        for index in range(self.test_good):
            yield self._planned("test", GOOD, index, None, None)
        for label in sorted(DEFECTS):
            for index in range(self.per_defect):
                yield self._planned("test", label, index, SEVERITIES[index % len(SEVERITIES)], None)

    def _planned(self, split: Split, label: str, index: int, severity: Severity | None, moment: float | None) -> PlannedImage:
        seed = image_seed(self.seed, f"{split}/{label}/{index}")
        if moment is None:
            # tested parts come from the whole shift, between the training frames
            moment = float(np.random.default_rng([seed, 0x710]).random())
        return PlannedImage(split, label, f"{index:03d}", seed, moment, severity)


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One image to be drawn."""

    split: Split
    label: str
    stem: str
    seed: int
    moment: float
    severity: Severity | None
    """None for good parts."""

    @property
    def file(self) -> str:
        """The image's path below the data set's folder, with forward slashes."""
        return f"{self.split}/{self.label}/{self.stem}.png"

    @property
    def mask(self) -> str | None:
        """The mask's path, None for good parts."""
        return None if self.severity is None else f"ground_truth/{self.label}/{self.stem}_mask.png"


def _whole(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value <= most:
        raise ConfigError(f"{name} is {value!r}", hint=f"give a whole number from {least} to {most}")


def check_folder(out: Path, settings: SampleSettings) -> bool:
    """True if `out` holds an earlier run of the same settings to go on with, False if it is free.

    Raises:
        ConfigError: `out` holds something else, or a sample data set with other settings.
        DataError: `out` is a file or cannot be listed.
    """
    try:
        visible = sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) if out.exists() else []
    except OSError as error:
        raise DataError(f"cannot list {out}: {error.strerror}", hint="choose another --out, a folder you may read and write") from error
    if not visible:
        return False
    elsewhere = "choose another --out, or empty the folder first"
    if "meta.json" not in visible:
        raise ConfigError(f"{out} is not empty: it holds {visible[0]}", hint=elsewhere)
    meta = read_json(out / "meta.json", hint=elsewhere)
    if not isinstance(meta, dict) or meta.get("command") != COMMAND:
        raise ConfigError(f"{out} belongs to something else than {COMMAND}", hint=elsewhere)
    earlier, wanted = meta.get("settings"), settings.as_dict()
    if earlier != wanted:
        known = earlier if isinstance(earlier, dict) else {}
        changed = ", ".join(f"{key} {known.get(key)} there, {value} now" for key, value in wanted.items() if known.get(key) != value)
        raise ConfigError(f"{out} holds a sample data set with other settings ({changed})", hint="use the same settings, or another --out")
    _no_strangers(out, settings)
    return True


def _no_strangers(out: Path, settings: SampleSettings) -> None:
    """Raise if a file the plan does not know lies where it would count as part of the data set."""
    expected = {name for image in settings.images() for name in (image.file, image.mask) if name}
    for path in sorted(found for folder in SUBFOLDERS for found in (out / folder).rglob("*")):
        if path.is_dir() or path.name.startswith("."):
            continue
        if path.relative_to(out).as_posix() not in expected:
            raise ConfigError(f"{path} is not part of the sample data set", hint="move it elsewhere, or choose another --out")


def finished_rows(out: Path, settings: SampleSettings) -> dict[str, dict[str, Any]]:
    """Manifest rows of an earlier run whose image and mask are still on disk, byte for byte; by the image's path."""
    planned = {image.file: image for image in settings.images()}
    rows = {}
    for row in read_jsonl(out / "manifest.jsonl"):
        image = planned.get(str(row.get("file")))
        if image is not None and row.get("seed") == image.seed and _intact(out, row, image):
            rows[image.file] = row
    return rows


def _intact(out: Path, row: dict[str, Any], image: PlannedImage) -> bool:
    wanted = [(image.file, row.get("sha256"))] + ([(image.mask, row.get("mask_sha256"))] if image.mask else [])
    return all((out / name).is_file() and file_hash(out / name) == digest for name, digest in wanted)
