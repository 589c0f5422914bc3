"""What cannot be measured is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aoi.data.gaps import gaps
from aoi.data.sample import Sample


def test_what_cannot_be_measured_is_said() -> None:
    samples = [Sample(Path(f"{label}/{i}.png"), "test", label) for label in ("good", "spot") for i in range(3)]
    marked = np.array([False] * 3 + [True] * 3)
    assert gaps(samples, marked) == ()
    assert [("no good test images" in one) for one in gaps(samples[3:], marked[3:])] == [True]
    assert [("no defective test images" in one) for one in gaps(samples[:3], marked[:3])] == [True]
    marked[4] = False
    assert gaps(samples, marked) == ("1 of 3 defective test images have no marked pixel and count for whole images only: test/spot/1.png",)
    assert ["AUPRO" in one for one in gaps(samples, [False] * 6)] == [True]
