"""What cannot be measured for want of knowing where the defects of test images are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aoi.data.layouts import listed
from aoi.data.sample import Sample

_NAMED = 3


def gaps(samples: Sequence[Sample], marked: Sequence[bool] | np.ndarray) -> tuple[str, ...]:
    """What cannot be measured on these test images, and why: sentences for whoever reads the figures.

    Args:
        marked: N bool, whether the mask of each has a marked pixel, as `aoi.data.truth.truth_masks` gives it.
    """
    defective = np.array([sample.is_anomalous for sample in samples])
    unmarked = np.flatnonzero(defective & ~np.asarray(marked, bool))
    if not defective.any():
        return ("there are no defective test images: AUROC, AUPRO and escapes cannot be measured",)
    said = []
    if len(unmarked) == defective.sum():
        said.append("no defective test image has a mask with a marked pixel: AUPRO and whatever else is told by pixels cannot be measured")
    elif len(unmarked):
        names = listed([samples[int(row)].key for row in unmarked], _NAMED)
        said.append(
            f"{len(unmarked)} of {defective.sum()} defective test images have no marked pixel and count for whole images only: {names}"
        )
    if defective.all():
        said.append("there are no good test images: image AUROC, AUPIMO and overkill cannot be measured")
    return tuple(said)
