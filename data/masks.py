"""What counts as defect in a mask file, whichever of a dozen ways it was saved."""

from __future__ import annotations

import numpy as np
from PIL import Image

from aoi.data.decoding import upright


def to_mask(picture: Image.Image) -> np.ndarray:
    """A loaded picture as HW bool, True on the defect; contiguous and writable.

    * 1 bit: as stored.
    * Grey, 8 or 16 bits, float, or colour with three equal channels: `grey_mask`.
    * Palette: by its colours if they are greys or black is one of them; else by the index, above 0 (the palette was lost or says nothing).
    * Colour classes on black (Defect Spectrum's `rgb_mask`): every pixel that is not black; above 127 in a JPEG, which smears.
    * Transparency: what is painted; if the paint is black, the opaque pixels.
    """
    lossy = picture.format in ("JPEG", "MPO")
    if picture.mode == "1":
        mask = np.asarray(picture)
    elif picture.mode == "P" and not picture.has_transparency_data:
        mask = _palette_mask(picture)
    elif picture.has_transparency_data:
        mask = _painted(np.asarray(picture.convert("RGBA")), lossy=lossy)
    elif picture.mode in ("L", "I", "F") or picture.mode.startswith("I;16"):
        mask = grey_mask(np.asarray(picture), lossy=lossy)
    else:
        mask = _colour_mask(np.asarray(picture.convert("RGB")), lossy=lossy)
    return np.array(upright(mask, picture), dtype=bool, order="C")


def grey_mask(values: np.ndarray, *, lossy: bool = False) -> np.ndarray:
    """Defect pixels of a grey mask: above half of white, or above 0 where nothing is that bright (class indices).

    White is 255, or 65535 if a value above 255 occurs, or 1 for floats that stay below it. A lossy file with nothing above half of white
    is cut at half of its own maximum instead, because ringing leaves values just above 0 around every edge.

    Args:
        values: HW, any integer or float type.
        lossy: True for JPEG.
    """
    top = float(np.max(values, initial=0))
    if values.dtype.kind == "f" and top <= 1:
        return np.asarray(values > 0.5)
    half = 127 if top <= 255 else 32767
    if top > half:
        return np.asarray(values > half)
    return np.asarray(values > (top / 2 if lossy else 0))


def _palette_mask(picture: Image.Image) -> np.ndarray:
    indices = np.asarray(picture)
    used = np.bincount(indices.ravel(), minlength=256) > 0
    colours = np.zeros((256, 3), np.uint8)
    stored = np.asarray(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)[:256]
    colours[: len(stored)] = stored
    names = colours[used]
    distinct = len(np.unique(names, axis=0)) == len(names)
    grey = bool((names == names[:, :1]).all())
    if distinct and (grey or not names.any(axis=1).all()):
        return _colour_mask(colours[indices], lossy=False)
    return np.asarray(indices > 0)


def _colour_mask(rgb: np.ndarray, *, lossy: bool) -> np.ndarray:
    brightest = rgb.max(axis=2)
    if lossy or np.array_equal(brightest, rgb.min(axis=2)):
        return grey_mask(brightest, lossy=lossy)
    return np.asarray(brightest > 0)


def _painted(rgba: np.ndarray, *, lossy: bool) -> np.ndarray:
    opaque = rgba[..., 3] > 127
    if opaque.all() or not opaque.any():
        return _colour_mask(rgba[..., :3], lossy=lossy)
    painted = _colour_mask(np.where(opaque[..., None], rgba[..., :3], 0), lossy=lossy)
    return painted if painted.any() else opaque
