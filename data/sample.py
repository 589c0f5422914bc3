"""What a data set is: images with a split, a label and, for defects, a mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "test"]
Layout = Literal["mvtec", "ds-mvtec", "folder"]
GOOD = "good"
"""The label of defect-free images, as in MVTec AD's folder names."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image on disk and what is known about it."""

    path: Path
    """The image file."""
    split: Split
    """`train` images may fit a detector; `test` images only measure it."""
    label: str
    """`good`, or the defect type as the folder is named."""
    mask_path: Path | None = None
    """The ground-truth mask of a defect; None for good images and for defects without one."""
    group: str | None = None
    """The physical part it shows, where the data set's table of parts names it; see `aoi.data.parts`."""

    @property
    def is_anomalous(self) -> bool:
        """True for every label but `good`."""
        return self.label != GOOD

    @property
    def key(self) -> str:
        """`split/label/file`, unique in its data set and the same on every machine."""
        return f"{self.split}/{self.label}/{self.path.name}"


@dataclass(frozen=True, slots=True)
class Dataset:
    """One category: its samples in a fixed order."""

    root: Path
    name: str
    """The category, such as `screw`; names runs and rows of tables."""
    layout: Layout
    samples: tuple[Sample, ...]

    def where(self, keep: Callable[[Sample], bool]) -> tuple[Sample, ...]:
        """The samples `keep` is true for, in order."""
        return tuple(sample for sample in self.samples if keep(sample))

    @property
    def train_good(self) -> tuple[Sample, ...]:
        """Defect-free training images."""
        return self.where(lambda sample: sample.split == "train" and not sample.is_anomalous)

    @property
    def test(self) -> tuple[Sample, ...]:
        """Every test image, good and defective."""
        return self.where(lambda sample: sample.split == "test")

    @property
    def defect_types(self) -> tuple[str, ...]:
        """Labels other than `good`, sorted."""
        return tuple(sorted({sample.label for sample in self.samples if sample.is_anomalous}))
