"""What is written about an inspected part, with a detector that says the same of every part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aoi.data.images import read_image, read_mask, write_image, write_mask
from aoi.data.sample import Sample
from aoi.detect.desk import Desk, Part
from aoi.detect.overlay import GREEN
from aoi.detect.verdict import BadImage, Facts, Judge, Prediction, Thresholds

THRESHOLDS = Thresholds(0.5, 0.5, "holdout", 99, 99, 10, 0.0)


class CornerLooker:
    """Sees a defect in the lower right quarter of everything."""

    facts = Facts("corner", "disc", "a run", THRESHOLDS, "print", 2)
    workers = 1

    def predict(self, images: list[np.ndarray]) -> list[Prediction]:
        seen = np.zeros((8, 8), np.float32)
        seen[4:, 4:] = 1
        return [Judge(THRESHOLDS)(image, seen, 1.0) for image in images]


@pytest.fixture
def part(tmp_path: Path) -> Part:
    write_image(tmp_path / "a.png", np.full((64, 96, 3), 90, np.uint8))
    return Part(tmp_path / "a.png", "a", Sample(tmp_path / "a.png", "test", "dent", tmp_path / "m.png"))


def green_box(overlay: str) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of what is about the colour of the truth."""
    picture = read_image(Path(overlay))[:64].astype(int)
    rows, columns = np.nonzero(np.abs(picture - GREEN).max(axis=2) < 40)
    return (columns.min(), rows.min(), columns.max(), rows.max()) if len(rows) else None


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_the_truth_is_outlined_where_it_is_at_whatever_size_its_mask_has(part: Part, tmp_path: Path, scale: int) -> None:
    mask = np.zeros((64, 96), bool)
    mask[8:24, 16:40] = True
    write_mask(tmp_path / "m.png", mask[::scale, ::scale])
    (row,) = Desk(CornerLooker(), tmp_path / "out", True).inspect([part])
    assert not isinstance(row, BadImage)
    assert (row["model"], row["category"], row["gt_label"], row["label"]) == ("corner", "disc", "dent", "NG")
    assert (row["image_threshold"], row["pixel_threshold"]) == (0.5, 0.5)
    assert read_mask(Path(row["mask_path"])).shape == (64, 96)
    assert green_box(row["overlay_path"]) == pytest.approx((16, 8, 39, 23), abs=1)


@pytest.mark.parametrize("fault", ["turned", "broken", "gone"])
def test_a_part_is_inspected_whatever_is_wrong_with_its_mask(part: Part, tmp_path: Path, fault: str) -> None:
    if fault == "turned":
        write_mask(tmp_path / "m.png", np.ones((96, 64), bool))
    elif fault == "broken":
        (tmp_path / "m.png").write_bytes(b"no picture")
    (row,) = Desk(CornerLooker(), tmp_path / "out", True).inspect([part])
    assert not isinstance(row, BadImage)
    assert green_box(row["overlay_path"]) is None
