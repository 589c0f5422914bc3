"""Where a place on one image lies on another: the similarity that brings a part onto its like, told without a network.

Small pictures are enough, since a defect's place is wanted to a few pixels: the candidates are the frames laid onto each other and the
parts laid onto each other by their principal axes; the one under which the pictures agree best is refined by ECC (Evangelidis and Psarakis,
IEEE TPAMI 30, 2008). What a defect covers has no say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import cv2
import numpy as np

from aoi.synth.axis import Axis, principal_axis
from aoi.synth.paint import luma
from aoi.synth.visibility import extent

How = Literal["frame", "part"]

_SIDE = 96
"""Longer side of the pictures that are compared, pixels."""
_DETAIL = 192
"""Longer side of the pictures by which a defect's own surroundings are met."""
_SEEK, _AROUND = 0.1, 0.04
"""Shares of the frame: how far they are looked for, and how much around the defect is compared."""
_WORTH = (0.02, 0.1)
"""Gain in correlation that is worth leaving the place that the whole images agree on: for any move, and more for the farthest."""
_DRIFT = 4.0
"""Standard deviation of the Gaussian that is slow drift, small pixels."""
_GROWN = 2
"""Small pixels around a defect that have no say either."""
_TURNED = 1.4
"""A part less elongated than this has no axis to go by: quarter turns are tried from where it lies."""
_LEAST_OVERLAP = 0.3
"""Share of the good image that must be compared for an agreement to count."""
_SLIDE = 0.15
"""Most that a frame is moved over another before it is refined, as a share of the frame."""
_STEPS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 25, 1e-4)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """An image as it is registered."""

    picture: np.ndarray
    """hw float32, grey, a little blurred; the longer side is at most `_SIDE`."""
    fine: np.ndarray
    """hw float32; the same less its slow drift, since light that falls off makes unlike textures look alike."""
    seen: np.ndarray
    """hw uint8; 0 where a defect lies, 255 elsewhere."""
    scale: float
    """Small pixels for each pixel of the image."""
    full: tuple[int, int]
    """Height and width of the image."""
    detail: np.ndarray
    """hw float32, grey, for the last few pixels; the longer side is at most `_DETAIL`."""
    detail_seen: np.ndarray
    """hw uint8, as `seen`."""
    axis: Axis | None
    """Of the part, in small pixels; None where the part fills the frame or is not there."""
    area: float
    """Of the part, small pixels."""

    @property
    def enlarged(self) -> np.ndarray:
        """3×3 float64 from small pixels to those of the image."""
        return np.array([[1 / self.scale, 0, 0.5 / self.scale - 0.5], [0, 1 / self.scale, 0.5 / self.scale - 0.5], [0, 0, 1]])


def view_of(image: np.ndarray, foreground: np.ndarray, defect: np.ndarray | None = None) -> View:
    """Prepare an image.

    Args:
        image: HWC uint8 RGB.
        foreground: HW bool, the part.
        defect: HW bool; what must have no say. None for a good image.
    """
    detail, detail_seen, _ = _smaller(image, defect, _DETAIL, 1)
    picture, seen, scale = _smaller(image, defect, _SIDE, _GROWN)
    size = picture.shape[::-1]
    picture = cv2.GaussianBlur(picture, (0, 0), 1.0)
    part = cv2.resize(foreground.astype(np.uint8), size, interpolation=cv2.INTER_AREA) > 0
    known = (seen > 0).astype(np.float32)
    drift = cv2.GaussianBlur(picture * known, (0, 0), _DRIFT) / np.maximum(cv2.GaussianBlur(known, (0, 0), _DRIFT), np.float32(1e-3))
    fine = np.where(seen > 0, picture - drift, np.float32(0))
    axis = None if foreground.all() or part.sum() < 9 else principal_axis(part)
    picture, fine = np.asarray(picture, np.float32), np.asarray(fine, np.float32)
    return View(picture, fine, seen, scale, image.shape[:2], detail, detail_seen, axis, float(part.sum()))


def _smaller(image: np.ndarray, defect: np.ndarray | None, side: int, margin: int) -> tuple[np.ndarray, np.ndarray, float]:
    """A grey picture of at most `side` pixels, where it shows no defect nor `margin` pixels around one, and its scale."""
    scale = min(1.0, side / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    picture = luma(cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32))
    seen = np.full(picture.shape, 255, np.uint8)
    if defect is not None:
        small = cv2.resize(defect.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
        seen[cv2.dilate(small.astype(np.uint8), np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)) > 0] = 0
    return np.asarray(picture, np.float32), seen, scale


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """How a reference lies on a good image."""

    matrix: np.ndarray
    """2×3 float64: where a point (x, y, 1) of the reference lies on the good image, pixels."""
    agreement: float
    """Correlation of the two pictures where both are seen, -1 to 1."""
    how: How
    """Which of them were laid onto each other."""


def register_images(reference: View, good: View) -> Registration:
    """The similarity under which two images agree best; where none compares enough of them, their frames laid onto each other."""
    if good.axis is None:
        reference, good = (replace(each, picture=each.fine, axis=None) for each in (reference, good))
    best, most, how = _frames(reference, good), -1.0, "frame"
    candidates = [(best, "frame"), (_slid(reference, good, best), "frame"), *((each, "part") for each in _axes_matched(reference, good))]
    for candidate, name in candidates:
        found = agreement(reference, good, candidate)
        if found > most:
            best, most, how = candidate, found, name
    refined = _refined(reference, good, best)
    if refined is not None and (found := agreement(reference, good, refined)) > most:
        best, most = refined, found
    whole = good.enlarged @ _square(best) @ np.linalg.inv(reference.enlarged)
    return Registration(whole[:2], most, how)  # type: ignore[arg-type]


def _frames(reference: View, good: View) -> np.ndarray:
    """The reference's frame laid onto the good image's."""
    height, width = (other / one for one, other in zip(reference.picture.shape, good.picture.shape, strict=True))
    return np.array([[width, 0, (width - 1) / 2], [0, height, (height - 1) / 2]])


def _slid(reference: View, good: View, frames: np.ndarray) -> np.ndarray:
    """The same, moved by up to `_SLIDE` of the frame to where the pictures correlate best."""
    size = good.picture.shape[::-1]
    plain = float(reference.picture[reference.seen > 0].mean()) if (reference.seen > 0).any() else 0.0
    shown = np.where(reference.seen > 0, reference.picture, np.float32(plain)).astype(np.float32)
    laid = cv2.warpAffine(shown, frames, size, borderMode=cv2.BORDER_REPLICATE)
    reach = max(1, round(_SLIDE * max(size)))
    wide = cv2.copyMakeBorder(good.picture, reach, reach, reach, reach, cv2.BORDER_REPLICATE)
    found = np.nan_to_num(cv2.matchTemplate(wide, laid, cv2.TM_CCOEFF_NORMED), nan=-1.0, posinf=-1.0, neginf=-1.0)
    row, column = np.unravel_index(int(np.argmax(found)), found.shape)
    moved = frames.copy()
    moved[:, 2] += column - reach, row - reach
    return moved


def met_around(reference: View, good: View, found: Registration) -> Registration:
    """A registration moved to where the surroundings of the defect agree best: a component may sit elsewhere on its board than another.

    Args:
        reference, good: the images.
        found: how they lie on each other as a whole.
    """
    ratio = good.detail.shape[1] / good.full[1], good.detail.shape[0] / good.full[0]
    shrunk = np.diag([*ratio, 1.0]) @ _square(found.matrix)
    own = reference.full[1] / reference.detail.shape[1], reference.full[0] / reference.detail.shape[0]
    matrix = (shrunk @ np.diag([*own, 1.0]))[:2]
    size = good.detail.shape[::-1]
    laid = cv2.warpAffine(reference.detail, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    framed = cv2.warpAffine(np.full(reference.detail.shape, 255, np.uint8), matrix, size)
    seen = cv2.warpAffine(reference.detail_seen, matrix, size)
    hidden = (seen < 128) & (framed > 250)
    margin, reach = max(2, round(_AROUND * max(size))), max(1, round(_SEEK * max(size)))
    box = extent(hidden, margin)
    if box is None:
        return found
    near = cv2.dilate(hidden.astype(np.uint8), np.ones((2 * margin + 1, 2 * margin + 1), np.uint8))
    weight = ((near > 0) & (seen > 250) & (framed > 250))[box].astype(np.float32)
    if weight.sum() < 16:
        return found
    wide = cv2.copyMakeBorder(good.detail, reach, reach, reach, reach, cv2.BORDER_REPLICATE)
    rows, columns = laid[box].shape
    search = wide[box[0].start : box[0].start + rows + 2 * reach, box[1].start : box[1].start + columns + 2 * reach]
    fits = np.nan_to_num(cv2.matchTemplate(search, laid[box], cv2.TM_CCOEFF_NORMED, mask=weight), nan=-1.0, posinf=-1.0, neginf=-1.0)
    away = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) / reach
    gain = fits - fits[reach, reach] - _WORTH[0] - (_WORTH[1] - _WORTH[0]) * np.square(away)
    row, column = np.unravel_index(int(np.argmax(gain)), fits.shape)
    if gain[row, column] <= 0:
        return found
    moved = found.matrix.copy()
    moved[:, 2] += (column - reach) / ratio[0], (row - reach) / ratio[1]
    return replace(found, matrix=moved)


def _axes_matched(reference: View, good: View) -> Iterator[np.ndarray]:
    """Similarities that lay the thicker end of one part onto that of the other, and onto its thinner one where ends may be mistaken."""
    if reference.axis is None or good.axis is None:
        return
    one, other = reference.axis, good.axis
    # An estimated outline may take a shadow along or miss an end: the part may as well be as large as it was.
    same = good.scale / reference.scale
    ratios = np.sqrt(good.area / max(reference.area, 1.0)), other.length / one.length
    sizes = {float(np.clip(each, 0.7 * same, 1.4 * same)) for each in ratios}
    turns = (0.0, np.pi) if min(one.elongation, other.elongation) >= _TURNED else (0.0, np.pi / 2, np.pi, -np.pi / 2)
    for turn, scale in product(turns, (same, *sorted(sizes))):
        angle = other.angle - one.angle + turn
        share = 0.0 if turn == 0 else 0.5  # ends meet, or middles
        start = np.array([one.x, one.y]) + share * one.length * np.array([np.cos(one.angle), np.sin(one.angle)])
        finish = np.array([other.x, other.y]) + share * other.length * np.array([np.cos(other.angle), np.sin(other.angle)])
        yield similarity(start, finish, angle, scale)


def similarity(start: np.ndarray, finish: np.ndarray, angle: float, scale: float = 1.0) -> np.ndarray:
    """2×3 float64: turns by `angle` (radians, y downwards) and scales about `start` (x, y), which lands on `finish`."""
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([linear, np.asarray(finish, float) - linear @ np.asarray(start, float)])


def agreement(reference: View, good: View, matrix: np.ndarray) -> float:
    """Correlation of a reference laid onto a good image with that image, where both are seen; -1 where too little is.

    Args:
        matrix: 2×3 in small pixels.
    """
    size = good.picture.shape[::-1]
    laid = cv2.warpAffine(reference.picture, matrix, size, flags=cv2.INTER_LINEAR)
    seen = cv2.warpAffine(reference.seen, matrix, size, flags=cv2.INTER_LINEAR) > 250
    if seen.sum() < _LEAST_OVERLAP * seen.size:
        return -1.0
    one, other = laid[seen].astype(np.float64), good.picture[seen].astype(np.float64)
    one, other = one - one.mean(), other - other.mean()
    length = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / length if length > 1e-6 else 0.0


def _refined(reference: View, good: View, matrix: np.ndarray) -> np.ndarray | None:
    """A candidate (2×3 in small pixels) turned and moved a little until the pictures agree best; None where that finds nothing."""
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if scale < 1e-3 or min(*good.picture.shape, *reference.picture.shape) < 8:
        return None
    # ECC turns and moves but does not scale: the reference gets its size first.
    sized = np.array([[scale, 0, 0], [0, scale, 0]])
    size = tuple(max(1, int(np.ceil(scale * side))) for side in reference.picture.shape[::-1])
    picture, seen = (cv2.warpAffine(each, sized, size, borderMode=cv2.BORDER_REPLICATE) for each in (reference.picture, reference.seen))
    rest = _square(matrix) @ np.linalg.inv(_square(sized))
    inverse = np.linalg.inv(rest)[:2].astype(np.float32)
    try:
        _, found = cv2.findTransformECC(good.picture, picture, inverse, cv2.MOTION_EUCLIDEAN, _STEPS, seen, 1)
    except cv2.error:  # it did not converge
        return None
    return np.asarray((np.linalg.inv(_square(found.astype(np.float64))) @ _square(sized))[:2])


def _square(matrix: np.ndarray) -> np.ndarray:
    return np.vstack([matrix, [0.0, 0.0, 1.0]])
