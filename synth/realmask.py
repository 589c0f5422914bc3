"""Outlines of real defects: read from any data set's mask folders, and moved onto another part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from aoi.captions.spec import DefectSpec
from aoi.data.images import read_image, read_mask
from aoi.data.layouts import existing_folder, is_image_name, layout_of, open_dataset
from aoi.errors import DataError
from aoi.synth.cama import Features, align_mask, shifted
from aoi.synth.region import MIN_REGION, Region, depth, draw_centre
from aoi.synth.shape import Shape, Window

FREE_KINDS = ("bent", "deformation", "misplaced")
"""Kinds whose masks may leave the part (MAGIC's switch 1); all others are cut to it (0)."""
_MASK_FOLDERS = ("ground_truth", "mask", "masks", "rgb_mask", "rbg_mask")
_TRIES = 24


@dataclass(frozen=True, slots=True)
class RealMask:
    """One real defect's mask."""

    path: Path
    label: str
    """The data set's name of the defect type, such as `scratch_head`."""
    image: Path | None = None
    """The image it belongs to, if it was found."""


@dataclass(frozen=True, slots=True)
class RealMasks:
    """The masks of a folder."""

    masks: tuple[RealMask, ...]

    @classmethod
    def from_folder(cls, path: Path) -> RealMasks:
        """Find every mask under `path`: a data set, several side by side, a `ground_truth` or `mask` folder, or a folder of mask files.

        Raises:
            DataError: the folder does not exist or holds no mask.
        """
        root = existing_folder(Path(path))
        found = tuple(_standard(root)) or tuple(_loose(root))
        if not found:
            raise DataError(f"no defect masks in {root}", hint="give a data set with ground_truth/<type>, or a folder of masks")
        return cls(found)

    def of_kind(self, kind: str) -> tuple[RealMask, ...]:
        """The masks whose label names `kind`, such as `scratch_head` for `scratch`; empty if none does."""
        return tuple(mask for mask in self.masks if kind in mask.label.lower().replace("-", "_").replace(" ", "_").split("_"))

    def shape_for(
        self,
        region: Region,
        spec: DefectSpec,
        rng: np.random.Generator,
        *,
        image: np.ndarray,
        features: Features | None = None,
        clip: bool | None = None,
    ) -> Shape:
        """A real outline, moved onto this part.

        With `features` and the mask's own image at hand, it goes where CAMA finds the counterpart of its place, if that lies in the
        region; else the whole mask is moved, and nothing but moved, to where the region holds most of it.

        Args:
            region: where pixels may change.
            spec: the kind decides which masks are drawn from; if none has it, all are, and the shape's note says so.
            rng: randomness.
            image: HWC uint8 RGB, the good image.
            features: a dense backbone.
            clip: cut the shape to the region; None decides by kind, see `FREE_KINDS`.

        Raises:
            DataError: the region is empty, or no mask of the folder can be read or has a defect.
        """
        pool, note = self.masks, ""
        if spec.kind != "anomaly":
            pool = self.of_kind(spec.kind)
            note = "" if pool else f"no real mask of kind {spec.kind!r}: one of another kind is used"
            pool = pool or self.masks
        chosen, mask = _readable(pool, region.mask.shape, rng)
        clip = spec.kind not in FREE_KINDS if clip is None else clip
        moved = None
        if features is not None and chosen.image is not None:
            moved = _by_cama(chosen.image, mask, image, region, features, clip)
        if moved is None:
            moved = moved_into(mask, region, rng)
            moved = moved & region.mask if clip else moved
        return _shape(moved, note)


def _standard(root: Path) -> Iterator[RealMask]:
    """Masks of the data sets at, above (for a `ground_truth` folder) or directly below `root`."""
    roots = [root.parent] if root.name in _MASK_FOLDERS and layout_of(root.parent) else [root]
    if layout_of(roots[0]) is None:
        roots = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and layout_of(folder) is not None]
    for each in roots:
        for sample in open_dataset(each).samples:
            if sample.mask_path is not None:
                yield RealMask(sample.mask_path, sample.label, sample.path)


def _loose(root: Path) -> Iterator[RealMask]:
    """Mask files under folders named so, else every image under `root`; the label is the folder's name."""
    paths = [path for path in sorted(root.rglob("*")) if is_image_name(path) and path.is_file()]
    inside = [path for path in paths if set(path.relative_to(root).parts[:-1]) & set(_MASK_FOLDERS)]
    for path in inside or paths:
        yield RealMask(path, path.parent.name)


def _readable(pool: tuple[RealMask, ...], shape: tuple[int, ...], rng: np.random.Generator) -> tuple[RealMask, np.ndarray]:
    """The first mask in random order that can be read and is not empty, at the size of (height, width)."""
    broken = ""
    for number in rng.permutation(len(pool)):
        chosen = pool[int(number)]
        try:
            mask = read_mask(chosen.path)
        except DataError as error:
            broken = error.message
            continue
        if mask.shape != shape:
            mask = cv2.resize(mask.astype(np.uint8), (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST) > 0
        if mask.sum() >= 4:
            return chosen, mask
    raise DataError(f"none of {len(pool)} masks shows a defect{f' ({broken})' if broken else ''}", hint="masks are above 0 on the defect")


def _by_cama(path: Path, mask: np.ndarray, image: np.ndarray, region: Region, features: Features, clip: bool) -> np.ndarray | None:
    """The mask where CAMA puts it; None if its image cannot be read or it lands outside the region."""
    try:
        source = read_image(path)
    except DataError:
        return None
    height, width = mask.shape
    if source.shape[:2] != mask.shape:
        source = cv2.resize(source, (width, height), interpolation=cv2.INTER_AREA)
    moved = align_mask(mask, features(source), features(image), region.foreground, clip=clip)
    within = int((moved & region.mask).sum())
    if within < min(MIN_REGION, int(mask.sum())) or within < 0.5 * moved.sum():
        return None
    return moved & region.mask if clip else moved


def moved_into(mask: np.ndarray, region: Region, rng: np.random.Generator) -> np.ndarray:
    """`mask` moved, and nothing but moved, so that its middle lies in the region and as much of it as a few tries find.

    Raises:
        DataError: the region is empty.
    """
    rows, columns = np.nonzero(mask)
    middle = round(float(rows.mean())), round(float(columns.mean()))
    best, most = mask, -1
    for _ in range(_TRIES):
        y, x = draw_centre(region, rng)
        candidate = shifted(mask, (y - middle[0], x - middle[1]))
        inside = int((candidate & region.mask).sum())
        if inside > most:
            best, most = candidate, inside
        if most >= 0.98 * len(rows):
            break
    return best if most > 0 else region.mask & (depth(region.mask) > 0)


def _shape(mask: np.ndarray, note: str) -> Shape:
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    pad = 8
    window = Window(max(0, x - pad), max(0, y - pad), min(mask.shape[1], x + width + pad), min(mask.shape[0], y + height + pad))
    inside = np.ascontiguousarray(mask[window.slices])
    moments = cv2.moments(inside.astype(np.uint8), binaryImage=True)
    angle = 0.5 * float(np.arctan2(2 * moments["mu11"], moments["mu20"] - moments["mu02"])) % np.pi
    return Shape(window, inside, "real", max(1.0, 2 * float(depth(inside).max()) - 1), angle, note)
