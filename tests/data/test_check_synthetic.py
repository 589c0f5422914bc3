"""A folder of synthetic defects is no broken data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aoi.data.check import check_dataset
from aoi.data.files import write_json
from aoi.data.images import write_image, write_mask


def make(root: Path, rng: np.random.Generator) -> Path:
    for i in range(3):
        write_image(root / "test" / "perlin" / f"{i:06d}.png", rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        mask = np.zeros((64, 64), bool)
        mask[20:30, 20:30] = True
        write_mask(root / "ground_truth" / "perlin" / f"{i:06d}_mask.png", mask)
    write_image(root / "preview.png", np.zeros((64, 64, 3), np.uint8))
    return root


def test_synthetic_defects_need_no_training_images(tmp_path: Path, rng: np.random.Generator) -> None:
    root = make(tmp_path / "defects", rng)
    assert check_dataset(root).fatal
    write_json(root / "meta.json", {"command": "synth generate"})
    report = check_dataset(root)
    assert not report.fatal
    assert {finding.severity for finding in report.findings} <= {"info"}
