"""A picture of what was drawn on good images: each with the good image and the mask beside it."""

from __future__ import annotations

from pathlib import Path

from aoi.bench.material.images import RealImages, SynthImages
from aoi.data.images import read_image, resize_image, write_image
from aoi.errors import DataError
from aoi.synth.preview import PREVIEW, contact_sheet, triple

SHOWN = 12


def show_drawn(real: RealImages, images: SynthImages, folder: Path) -> None:
    """Write a contact sheet of the first defects to `folder`, under the name that a batch's own sheet has.

    Args:
        real: the good images the defects were drawn on.
        images: the defects.
    """
    rows = []
    for path, mask, source in list(zip(images.features.paths, images.masks, images.sources, strict=True))[:SHOWN]:
        try:
            defect = read_image(path)
            rows.append(triple(resize_image(read_image(real.train.paths[source]), defect.shape[:2]), defect, mask))
        except DataError:
            continue  # the picture is for looking; what has gone since its features were read is no reason to fail
    if rows:
        write_image(folder / PREVIEW, contact_sheet(rows, columns=min(2, len(rows))))
