"""What every arm leaves behind for statistics and pictures: counts by image, kept once for arms whose maps are the same."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from aoi.bench.judging.resampling import Evidence
from aoi.bench.judging.sweep import LEVELS, Sweep, image_sweep, pixel_sweep
from aoi.data.files import read_json, write_bytes, write_json
from aoi.data.parts import part_groups
from aoi.data.sample import Dataset, Sample
from aoi.errors import DataError

if TYPE_CHECKING:  # they bring torch, which a report does without
    from aoi.bench.couplings.group import Outcome
    from aoi.bench.material.images import RealImages

SHOWN_SIDE = 96
"""Longer side of the maps kept for pictures, pixels."""
_ONE_READER = threading.Lock()
"""Statistics ask from several threads, and numpy has an array's header parsed by Python's parser, which in 3.11 is not safe in two at once
(python/cpython issue 106905: a SystemError now and then)."""


@dataclass(frozen=True, slots=True, eq=False)
class Inspected:
    """The real test images of one data set, as the statistics see them."""

    labels: tuple[str, ...]
    """`good` or a defect type."""
    images: tuple[Path, ...]
    masks: tuple[Path | None, ...]
    parts: tuple[int, ...]
    """The physical part each shows, by the data set's table and the names of bursts; see `aoi.data.parts`."""

    @property
    def told(self) -> tuple[str, ...]:
        """What must be said where several pictures show one part; nothing where each shows its own."""
        if len(set(self.parts)) == len(self.parts):
            return ()
        shown = set(zip(self.parts, self.defective.tolist(), strict=True))
        counts = [(int((self.defective == bad).sum()), sum(of == bad for _, of in shown)) for bad in (True, False)]
        (bad, bad_parts), (good, good_parts) = counts
        return (
            f"{bad} defective pictures of {bad_parts} parts and {good} good ones of {good_parts}; intervals and p-values are over parts, "
            "of which all pictures are drawn together",
        )

    @property
    def defective(self) -> np.ndarray:
        """T bool."""
        return np.array([label != "good" for label in self.labels])


@dataclass(frozen=True, slots=True)
class Archive:
    """The folder `evidence/` of an ablation."""

    folder: Path

    def write_test_set(self, real: RealImages) -> None:
        """Name the test images, in the order of every row kept here."""
        rows = [
            {
                "image": sample.path.as_posix(),
                "label": sample.label,
                "mask": sample.mask_path.as_posix() if sample.mask_path else None,
                "part": part,
            }
            for sample, part in zip(real.samples, real.parts or range(len(real.samples)), strict=True)
        ]
        write_json(self.folder / f"{real.name}.json", {"images": rows})

    def name_parts(self, name: str, dataset: Dataset) -> None:
        """Add the parts to a list of test images that was written before parts were kept; nothing where there is none."""
        path = self.folder / f"{name}.json"
        rows = read_json(path)["images"] if path.is_file() else []
        if any("part" not in row for row in rows):
            parts = {sample.key: part for sample, part in zip(dataset.samples, part_groups(dataset.samples).tolist(), strict=True)}
            named = [f"test/{row['label']}/{Path(row['image']).name}" for row in rows]
            write_json(path, {"images": [row | {"part": parts[key]} for row, key in zip(rows, named, strict=True)]})

    def told(self, dataset: str) -> tuple[str, ...]:
        """What must be said of the parts that the test images show, if anything."""
        return self.test_set(dataset).told if (self.folder / f"{dataset}.json").is_file() else ()

    def test_set(self, dataset: str) -> Inspected:
        """The test images of a data set.

        Raises:
            DataError: the run kept none.
        """
        rows = read_json(self.folder / f"{dataset}.json", hint="run the ablation again: this one kept nothing for statistics")["images"]
        labels, images = tuple(row["label"] for row in rows), tuple(Path(row["image"]) for row in rows)
        parts = tuple(row.get("part") for row in rows)
        if None in parts:  # written before parts were kept: names tell them still
            parts = tuple(part_groups([Sample(path, "test", label) for path, label in zip(images, labels, strict=True)]).tolist())
        return Inspected(labels, images, tuple(Path(row["mask"]) if row["mask"] else None for row in rows), parts)

    def keep(self, outcome: Outcome, real: RealImages, *, pictures: bool) -> dict[str, Any]:
        """Count one arm's maps and decisions, and return what its record says of them, JSON-ready.

        Args:
            pictures: also keep small maps.
        """
        name = _content_name(outcome.maps, pictures)
        path = self.folder / name
        if not path.is_file():
            sweep, levels = pixel_sweep(outcome.maps, real.masks, real.annotated)
            write_bytes(path, _packed(sweep, levels if pictures else None))
        marked = outcome.maps > outcome.pixel_threshold
        return {
            "counts": name,
            "image_scores": [float(score) for score in outcome.image_scores],
            "pixels_marked": marked.sum((1, 2)).tolist(),
            "pixels_hit": (marked & real.masks).sum((1, 2)).tolist(),
        }

    def has(self, record: Mapping[str, Any]) -> bool:
        """True where the counts of a finished arm, and the names of its test images, are still there."""
        kept, arm = record.get("evidence"), record.get("arm")
        if not isinstance(kept, dict) or not isinstance(arm, dict):
            return False
        return (self.folder / str(kept.get("counts"))).is_file() and (self.folder / f"{arm.get('dataset')}.json").is_file()

    def evidence(self, record: Mapping[str, Any], test: Inspected) -> Evidence:
        """The counts of one finished arm.

        Raises:
            DataError: they are missing or damaged.
        """
        kept = record["evidence"]
        arrays = self._arrays(kept["counts"])
        scores = np.array(kept["image_scores"], np.float64)
        rejected, defective = scores > record["image_threshold"], test.defective
        pixel = Sweep(arrays["negatives"], arrays["positives"], arrays["overlap"])
        annotated = pixel.negatives.any(1) | pixel.positives.any(1)
        decisions = np.stack(
            [
                defective & rejected,
                defective & ~rejected,
                ~defective & rejected,
                ~defective & ~rejected,
                np.array(kept["pixels_hit"]) * annotated,
                np.array(kept["pixels_marked"]) * annotated,
                pixel.positives.sum(1),
            ],
            axis=1,
        )
        return Evidence(image_sweep(scores, defective), pixel, decisions.astype(np.float32))

    def small_maps(self, record: Mapping[str, Any]) -> np.ndarray | None:
        """T×h×w float32: at each pixel the share of good pixels that look at least as anomalous; None where none were kept."""
        levels = self._arrays(record["evidence"]["counts"]).get("levels")
        return None if levels is None else LEVELS[np.minimum(levels.astype(np.int64) * 2, len(LEVELS) - 1)].astype(np.float32)

    def _arrays(self, name: str) -> dict[str, np.ndarray]:
        try:
            with _ONE_READER, np.load(self.folder / name, allow_pickle=False) as found:
                return {key: found[key] for key in found.files}
        except (OSError, ValueError, zipfile.BadZipFile, KeyError) as error:
            raise DataError(
                f"{self.folder / name} is missing or damaged", hint="delete it and run the ablation again: it makes what is missing"
            ) from error


def _content_name(maps: np.ndarray, pictures: bool) -> str:
    """A file name that two arms share if, and only if, their maps are the same."""
    digest = hashlib.sha256(np.ascontiguousarray(maps).data).hexdigest()[:24]
    return f"{digest}{'' if pictures else '-counts'}.npz"


def _packed(sweep: Sweep, levels: np.ndarray | None) -> bytes:
    arrays = {"negatives": sweep.negatives, "positives": sweep.positives, "overlap": sweep.overlap}
    if levels is not None:
        scale = min(1.0, SHOWN_SIDE / max(levels.shape[1:]))
        size = (max(1, round(levels.shape[2] * scale)), max(1, round(levels.shape[1] * scale)))
        # Half the levels fit a byte; a picture shows no more.
        small = [cv2.resize((each // 2).astype(np.uint8), size, interpolation=cv2.INTER_AREA) for each in levels]
        arrays["levels"] = np.stack(small)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
