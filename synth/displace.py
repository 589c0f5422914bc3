"""Defects of structure: a piece of the part is missing, shifted, turned or bent, in the part's own pixels; no texture is invented."""

from __future__ import annotations

from typing import Any, Literal, get_args

import cv2
import numpy as np

from aoi.captions.spec import DefectSpec
from aoi.errors import DataError
from aoi.synth.backdrop import behind, worn
from aoi.synth.blend import difference, settle, without_pinholes
from aoi.synth.change import CERTAIN, FAINTEST, colour_change
from aoi.synth.motion import SHIFT, bump, inside_field, leap, moved_points, sampled, swing
from aoi.synth.piece import Piece, draw_piece, placed
from aoi.synth.region import Region, depth, with_background
from aoi.synth.registry import GeneratorSettings, register
from aoi.synth.shape import Shape
from aoi.synth.types import Provenance, SynthDefect
from aoi.synth.visibility import extent

Mode = Literal["missing", "shifted", "turned", "bent"]
MODES: tuple[Mode, ...] = get_args(Mode)
MODE_WEIGHTS = {"part": (0.25, 0.25, 0.25, 0.25), "frame": (0.35, 0.15, 0.20, 0.30)}
"""How often each mode is drawn. Nothing speaks for one of them on a part; on a texture that fills the frame, a piece moved onto its like
is seldom seen, so that pieces are worn away or bent more often."""
MODES_OF_KINDS: dict[str, tuple[Mode, ...]] = {
    **dict.fromkeys(("missing", "break", "chip", "hole", "cut"), ("missing",)),
    "misplaced": ("shifted", "turned"),
    **dict.fromkeys(("bent", "deformation", "wrinkle", "thread damage"), ("bent",)),
}
"""What a sentence's kind means here; kinds that are not listed take any mode."""
_FLIPPED = 0.2
"""How often a whole part that is turned lies on its other side."""
_PIECES = 3
"""Pieces of a texture that are looked at; the one with most relief is displaced, since where there is none, nothing can be seen to move."""
_FRINGE = 0.02
"""Share of the frame's longer side around a part that is shaded by it."""
_PLACES = 4
"""Ways to move a piece that are looked at; the one that stays in the frame and changes most is taken, since a like piece is no defect."""


@register("displace")
class DisplaceGenerator:
    """Takes a piece of the part away, moves it, turns it or bends it; what was behind takes its place."""

    def __init__(self, settings: GeneratorSettings) -> None:
        self.settings = settings

    def reach(self, region: Region) -> Region:
        """Where changes may fall if the defect lies in `region`: a piece that was moved covers background, though never other places.

        Args:
            region: the place on the part.
        """
        return with_background(region, SHIFT[1])

    def generate(
        self, image: np.ndarray, region: Region, spec: DefectSpec, rng: np.random.Generator, shape: Shape | None = None
    ) -> SynthDefect:
        """Invent one defect; see `aoi.synth.types.Generator`. Outlines of real masks confine the change; drawn ones are the piece."""
        if not region.mask.any():
            raise DataError(f"{region.place.name!r} misses the part", hint="name another place, or use --foreground full")
        fills = bool(region.foreground.all())
        modes = MODES_OF_KINDS.get(spec.kind, MODES)
        weights = np.array([MODE_WEIGHTS["frame" if fills else "part"][MODES.index(mode)] for mode in modes])
        mode = modes[int(rng.choice(len(modes), p=weights / weights.sum()))]
        strength = float(rng.random()) if spec.severity is None else (rng.random(), spec.severity)[1]
        if shape is not None and shape.family == "real":
            allowed = placed(shape, region.mask.shape) & region.mask
            mixed, drawn = self._within(image, allowed, mode, strength, rng)
        else:
            allowed = region.mask
            size = spec.severity if mode == "missing" else None
            weights_of = "missing" if mode == "missing" else "moved"
            pieces = [draw_piece(region, spec, weights_of, size, rng) for _ in range(_PIECES if fills else 1)]
            piece = max(pieces, key=lambda each: relief(image, each.mask)) if fills else pieces[0]
            if shape is not None and shape.mask.any():
                piece = Piece(placed(shape, region.mask.shape), "outline")
            mixed, drawn = self._displaced(image, piece, region, mode, strength, rng)
        final, mask = kept(image, mixed, allowed)
        parameters = {"mode": mode, "strength": round(strength, 3)} | drawn
        asked = None if shape is None or shape.family == "real" else mask
        return SynthDefect(final, mask, Provenance("displace", spec.kind, region.place.name, parameters), asked)

    def _displaced(
        self, image: np.ndarray, piece: Piece, region: Region, mode: Mode, strength: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The image (HWC float32) with a piece missing, moved or bent, and what was drawn."""
        part, drawn = region.foreground, {"cut": piece.cut, "piece_area": int(piece.mask.sum())}
        if mode == "missing":
            return without(image, piece, part), drawn
        if mode == "bent" and piece.cut in ("end", "whole"):
            # An end or a part bends before its background, which stays as it is.
            field, said = swing(piece.mask, part, strength, rng) if piece.cut == "end" else bump(image, piece, strength, rng)
        elif mode == "bent":
            field, said = bump(image, piece, strength, rng)
            return sampled(image, field), drawn | said
        else:
            field, said = self._motion(image, piece, mode, strength, rng)
        return moved(image, piece, part, field), drawn | said

    def _motion(
        self, image: np.ndarray, piece: Piece, mode: Mode, strength: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The motion, of those that keep the piece in the frame, whose landing differs most from what it covers."""
        best, most, said = None, -np.inf, {}
        for _ in range(_PLACES):
            flip = mode == "turned" and piece.cut == "whole" and bool(rng.random() < _FLIPPED)
            matrix, drawn = leap(piece, mode, strength, rng, flip=flip)
            value = _worth(image, piece.mask, matrix)
            if value > most:
                best, most, said = matrix, value, drawn
        assert best is not None
        return moved_points(best, image.shape[:2]), said

    def _within(
        self, image: np.ndarray, outline: np.ndarray, mode: Mode, strength: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The image with what lies in a given outline missing, moved or bent, and what was drawn; nothing leaves the outline."""
        piece = Piece(outline, "outline") if outline.any() else None
        if piece is None:
            return image.astype(np.float32), {"cut": "outline"}
        drawn: dict[str, Any] = {"cut": "outline", "piece_area": int(outline.sum())}
        if mode == "missing":
            mixed = worn(image, outline)
            return over(image, mixed, inner_edge(outline)), drawn
        if mode == "bent":
            field, said = inside_field(outline, strength, rng)
            return sampled(image, field), drawn | said
        field, said = self._motion(image, piece, mode, max(strength, 0.5), rng)
        return over(image, sampled(image, field), inner_edge(outline)), drawn | said


def _worth(image: np.ndarray, mask: np.ndarray, matrix: np.ndarray) -> float:
    """Mean change in grey levels where a piece lands, less a fine for what leaves the frame; of up to 400 of its pixels."""
    inside = np.flatnonzero(mask)
    inside = inside[:: max(1, len(inside) // 400)]
    rows, columns = np.divmod(inside, mask.shape[1])
    forward = cv2.invertAffineTransform(matrix)
    x = forward[0, 0] * columns + forward[0, 1] * rows + forward[0, 2]
    y = forward[1, 0] * columns + forward[1, 1] * rows + forward[1, 2]
    stays = (x >= 0) & (y >= 0) & (x <= mask.shape[1] - 1) & (y <= mask.shape[0] - 1)
    if not stays.any():
        return -1e9
    under = image[np.rint(y[stays]).astype(np.intp), np.rint(x[stays]).astype(np.intp)].astype(np.float32)
    change = np.abs(image[rows[stays], columns[stays]].astype(np.float32) - under).mean()
    return float(change) - 300.0 * float(1 - stays.mean())


def kept(image: np.ndarray, mixed: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The final image and its mask: what changed visibly stays, everything else is the source's pixel.

    Args:
        image: HWC uint8, the source.
        mixed: HWC float32 in [0, 255].
        allowed: HW bool; pixels that may change.

    Returns:
        HWC uint8 and HW bool, `mask == changed(image, final)`.
    """
    final, mask = image.copy(), np.zeros(image.shape[:2], bool)
    rounded = np.where(allowed[..., None], np.clip(np.rint(mixed), 0, 255).astype(np.uint8), image)
    box = extent(difference(image, rounded) > 0, 4)
    if box is None:
        return final, mask
    before, after = np.ascontiguousarray(image[box]), np.ascontiguousarray(rounded[box])
    change = colour_change(before, after)
    certain = cv2.GaussianBlur(change, (0, 0), 0.7) >= CERTAIN
    _, labels = cv2.connectedComponents((change >= FAINTEST).astype(np.uint8), connectivity=8)
    sure = np.zeros(int(labels.max()) + 1, bool)
    sure[np.unique(labels[certain])] = True
    sure[0] = False
    # Unlike a repainted defect's halo, the shade that went with a piece counts to the last visible pixel: cut off, it would leave a ghost.
    visible = without_pinholes(sure[labels]) & allowed[box]
    final[box], mask[box] = settle(before, np.where(visible[..., None], after, before), visible)
    return final, mask


def over(image: np.ndarray, mixed: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """`mixed` over `image` with HW float32 opacity `alpha`; HWC float32."""
    result = image.astype(np.float32)
    box = extent(alpha > 0)  # elsewhere nothing is added
    if box is not None:
        under = result[box]
        result[box] = under + alpha[box][..., None] * (mixed[box] - under)
    return result


def inner_edge(mask: np.ndarray, width: float = 2.0) -> np.ndarray:
    """Opacity that rises over `width` pixels from the outline inwards, 0 outside; HW float32."""
    return np.asarray(np.clip(depth(mask) / np.float32(width + 0.5), 0, 1), np.float32)


def relief(image: np.ndarray, mask: np.ndarray) -> float:
    """Standard deviation of the brightness under a mask about its slow drift, in grey levels; 0 for an empty mask."""
    box = extent(mask, 8)
    if box is None:
        return 0.0
    grey = cv2.cvtColor(np.ascontiguousarray(image[box]), cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float((grey - cv2.GaussianBlur(grey, (0, 0), 6))[mask[box]].std(dtype=np.float64))


def soft(mask: np.ndarray, sigma: float = 0.8) -> np.ndarray:
    """Opacity of a mask with an edge as soft as a lens draws it; HW float32."""
    return np.asarray(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))


def without(image: np.ndarray, piece: Piece, part: np.ndarray) -> np.ndarray:
    """The image without a piece: the background behind it, or worn away where the part goes on all around it; HWC float32."""
    if part.all():
        return over(image, worn(image, piece.mask), soft(piece.mask, 1.2))
    if not piece.borders(part):
        return over(image, behind(image, piece.mask, ~part), soft(piece.mask))
    # A part's blurred rim and the shade beside it go with it, and are no background to copy.
    fringe = max(2, round(_FRINGE * max(part.shape)))
    around = _grown(part, fringe)
    hole = piece.mask | (_grown(piece.mask, fringe) & ~part)
    filled = behind(image, hole, around & ~hole)
    rest = soft(part & ~piece.mask)  # what stays of the part keeps its own edge
    return over(image, filled, np.maximum(soft(piece.mask), soft(hole, 0.5 * fringe) * (1 - rest)))


def moved(image: np.ndarray, piece: Piece, part: np.ndarray, field: np.ndarray) -> np.ndarray:
    """The image with a piece taken along a motion (HW×2 float32: where each pixel's content comes from), its place filled; HWC float32."""
    filled = without(image, piece, part) if not part.all() else over(image, behind(image, piece.mask, ~part), soft(piece.mask))
    alpha = sampled(soft(piece.mask), field, border=0.0)
    return over(filled, sampled(image, field), alpha)


def _grown(mask: np.ndarray, radius: int) -> np.ndarray:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)) > 0
