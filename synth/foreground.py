"""Which pixels are the part: an offline estimate that knows when the part fills the frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from aoi.errors import BackendUnavailable, ConfigError, ModelError
from aoi.synth.foreground_cache import cached_foreground
from aoi.synth.foreground_outline import snap_outline, without_shadow
from aoi.synth.saliency import REMBG_MODELS, find_weights, model_identity, salient_part

ForegroundMode = str
"""One of `FOREGROUND_MODES`, or the path of an ONNX file."""
FOREGROUND_MODES: tuple[ForegroundMode, ...] = ("auto", "full", "otsu", *REMBG_MODELS)
AUTO_MODEL = "u2netp"
"""What `auto` refines a credible estimate with, where its weights are at hand; see docs/decisions/0007-foreground.md."""
_AGREEMENT = 0.4
"""Least overlap (IoU) of the network's part with the credible estimate for `auto` to take it."""

_SIDE = 128
"""Long side at which the decision is made; outlines are redrawn at full size afterwards."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for an estimate being a part on a background, rather than grain, a mesh, or uneven light on a texture."""

    share: float
    """Share of the frame, 0 to 1."""
    separation: float
    """Share of the distance's variance that part and background explain (Otsu's criterion)."""
    centring: float
    """Coverage of the frame's middle less coverage of its border."""
    agreement: float
    """Overlap (IoU) of what lies above the threshold with what hangs together; a grain is scattered."""
    sharpness: float
    """Step of the distance across the outline, in steps between the two classes; uneven light has no step."""
    pieces: int
    """How many pieces it has."""
    unrest: float
    """Spread of the distance in the background, in steps between the two classes; a plain background has none."""

    @property
    def credible(self) -> bool:
        """Whether to believe it; the limits are set on the parts and textures of MVTec AD and on magnetic tiles."""
        plain = self.unrest <= 0.22 and self.separation >= 0.7 and self.sharpness >= 0.4
        busy = self.separation >= 0.79 and self.agreement >= 0.4 and self.pieces <= 4 and self.sharpness >= 0.5
        return 0.012 <= self.share <= 0.9 and self.centring >= 0.12 and (plain or busy)


def check_foreground(mode: ForegroundMode) -> None:
    """Refuse a mode that is neither known nor an ONNX file's name.

    Raises:
        ConfigError: `mode` is unknown.
    """
    if mode not in FOREGROUND_MODES and mode != "rembg" and not mode.lower().endswith(".onnx"):
        raise ConfigError(f"unknown foreground {mode!r}", hint=f"use one of {', '.join(FOREGROUND_MODES)}, or an .onnx file")


def find_foreground(image: np.ndarray, mode: ForegroundMode = "auto") -> np.ndarray:
    """The pixels of the part.

    Args:
        image: HWC uint8 RGB.
        mode: `auto` takes the whole frame when no part stands out credibly, as in textures; else u2netp's outline if its weights are at
            hand and it agrees, else the estimate; `otsu` keeps the estimate unless it is empty; `full` takes the whole frame; `rembg`
            (u2net) and the names of `REMBG_MODELS`, or the path of an ONNX file, ask that network, and its answer is kept on disk.

    Returns:
        HW bool, never empty.

    Raises:
        ConfigError: unknown mode.
        BackendUnavailable, ModelError: the named network is not there or cannot be used; `auto` never raises them.
    """
    check_foreground(mode)
    height, width = image.shape[:2]
    if mode == "full" or min(height, width) < 16:
        return np.ones((height, width), bool)
    if mode not in ("auto", "otsu"):
        found = _by_network(image, "u2net" if mode == "rembg" else mode)
        return found if found.any() else np.ones((height, width), bool)
    part = estimate(image, credible_only=mode == "auto")
    if mode == "otsu" or part.all() or find_weights(AUTO_MODEL) is None:
        return part
    try:
        found = _by_network(image, AUTO_MODEL)
    except (BackendUnavailable, ModelError):
        return part
    return found if (found & part).sum() >= _AGREEMENT * (found | part).sum() else part


def _by_network(image: np.ndarray, model: str) -> np.ndarray:
    return cached_foreground(image, f"saliency {model_identity(model)}", lambda: salient_part(image, model))


def estimate(image: np.ndarray, *, credible_only: bool) -> np.ndarray:
    """The part without a network.

    The background is the commonest colour along the border, with a linear drift of the light; the part is what is far from it by
    Otsu's threshold (IEEE Trans. SMC 9, 1979) and hangs together.

    Args:
        image: HWC uint8 RGB.
        credible_only: take the whole frame unless the estimate is credible.

    Returns:
        HW bool, never empty.
    """
    height, width = image.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    small = cv2.resize(image, (max(8, round(width * scale)), max(8, round(height * scale))), interpolation=cv2.INTER_AREA)
    distance = background_distance(small)
    threshold, separation = otsu(distance)
    part = solid(distance > threshold)
    if not part.any() or (credible_only and not weigh(distance, threshold, separation, part).credible):
        return np.ones((height, width), bool)
    return _at_size(snap_outline(small, distance, without_shadow(small, distance, threshold, part, solid)), (width, height))


def background_distance(image: np.ndarray) -> np.ndarray:
    """How far each pixel is from the background along the border.

    Args:
        image: HWC uint8 RGB.

    Returns:
        HW float32 in [0, 255]: Euclidean distance in Lab from the border's main colour and its linear drift over the frame.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    height, width = lab.shape[:2]
    ring = _ring(height, width)
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None]
    colours = np.ascontiguousarray(lab[ring].T)
    terms = np.stack([np.ones(colours.shape[1], np.float32), *(np.broadcast_to(axis, ring.shape)[ring] for axis in (x, y))])
    drift = np.zeros((3, 3), np.float32)
    drift[0] = _commonest(colours.T)
    keep = _norm(colours - drift[0][:, None]) < 40
    for reach in (20, 12):
        if keep.sum() < 0.2 * len(keep) or not (np.ptp(terms[1:, keep], axis=1) > 0.6).all():
            break
        drift = _plane(terms[:, keep], colours[:, keep])
        keep = _norm([colour - _at(drift[:, each], terms[1], terms[2]) for each, colour in enumerate(colours)]) < reach
    away = _norm([plane - _at(drift[:, each], x, y) for each, plane in enumerate(cv2.split(lab))])
    return np.asarray(np.minimum(cv2.GaussianBlur(away, (0, 0), 0.8), 255), np.float32)


def _norm(channels: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(channels[0] ** 2 + channels[1] ** 2 + channels[2] ** 2))


def _plane(terms: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Least-squares coefficients (3 terms x 3 channels) by the normal equations; sums instead of BLAS, whose bits depend on its threads."""
    normal = np.array([[float((a * b).sum()) for b in terms] for a in terms])
    right = np.array([[float((a * colour).sum()) for colour in colours] for a in terms])
    return np.linalg.solve(normal, right).astype(np.float32)


def _at(drift: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(drift[0] + x * drift[1] + y * drift[2])


def otsu(values: np.ndarray) -> tuple[float, float]:
    """Otsu's threshold, and the share of the variance that its two classes explain (0 to 1).

    Args:
        values: HW float in [0, 255].
    """
    levels = np.clip(values, 0, 255).astype(np.uint8)
    threshold, above = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    share, variance = float(above.mean()), float(levels.var())
    if share in (0.0, 1.0) or variance == 0:
        return float(threshold), 0.0
    means = float(levels[above > 0].mean()) - float(levels[above == 0].mean())
    return float(threshold), share * (1 - share) * means**2 / variance


def solid(candidate: np.ndarray) -> np.ndarray:
    """The pieces of a candidate that hang together: thin bridges cut, small and outlying islands dropped, pinholes filled.

    Args:
        candidate: HW bool.
    """
    part = _main_pieces(_opened(candidate.astype(np.uint8), 3))
    if part[_ring(*part.shape)].any() and not part.all():
        # A part that seems to reach the border often hangs on it by a groove or a shadow of the background: cut those.
        wider = _main_pieces(_opened(part, max(5, round(0.1 * np.sqrt(part.sum()))) | 1))
        part = wider if wider.any() else part
    size = max(3, round(max(candidate.shape) / 40)) | 1
    return _filled(cv2.morphologyEx(part, cv2.MORPH_CLOSE, _disc(size)), limit=0.01 * part.size)


def weigh(distance: np.ndarray, threshold: float, separation: float, part: np.ndarray) -> Evidence:
    """Collect the evidence for `part`, the solid pieces (HW bool) of `distance > threshold` (HW float32)."""
    height, width = part.shape
    kernel, rough = np.ones((3, 3), np.uint8), part.astype(np.uint8)
    inside = (cv2.erode(rough, kernel) > 0) & (cv2.erode(rough, kernel, iterations=3) == 0)
    outside = (cv2.dilate(rough, kernel) == 0) & (cv2.dilate(rough, kernel, iterations=3) > 0)
    step = max(float(distance[part].mean() - distance[~part].mean()), 1e-6) if not part.all() else 1e-6
    sharp = float(distance[inside].mean() - distance[outside].mean()) if inside.any() and outside.any() else 0.0
    candidate = distance > threshold
    middle = part[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return Evidence(
        share=float(part.mean()),
        separation=separation,
        centring=float(middle.mean() - part[_ring(height, width)].mean()),
        agreement=float((candidate & part).sum() / max(1, (candidate | part).sum())),
        sharpness=sharp / step,
        pieces=cv2.connectedComponents(rough, connectivity=8)[0] - 1,
        unrest=float(distance[~part].std()) / step if not part.all() else 1.0,
    )


def _main_pieces(candidate: np.ndarray) -> np.ndarray:
    """The heaviest connected piece and those nearly as heavy, weight falling with the distance from the frame's centre; HW uint8."""
    count, labels, stats, centroids = cv2.connectedComponentsWithStats(candidate, connectivity=8)
    if count < 2:
        return np.zeros_like(candidate)
    size = np.array(candidate.shape[::-1])
    reach = np.linalg.norm((centroids[1:] - size / 2) / size, axis=1)
    weight = stats[1:, cv2.CC_STAT_AREA] * np.exp(-4 * reach)
    kept = np.zeros(count, np.uint8)
    kept[1:] = weight >= weight.max() * 0.25
    return np.asarray(kept[labels])


def _disc(size: int) -> np.ndarray:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))


def _opened(candidate: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(cv2.morphologyEx(candidate, cv2.MORPH_OPEN, _disc(size)))


def _ring(height: int, width: int) -> np.ndarray:
    ring = np.ones((height, width), bool)
    edge = max(2, round(0.03 * min(height, width)))
    ring[edge:-edge, edge:-edge] = False
    return ring


def _commonest(colours: np.ndarray) -> np.ndarray:
    """The middle of the fullest cell among N x 3 colours, by a coarse histogram smoothed over its neighbours."""
    cells = (colours / 16).astype(np.int64)
    counts = np.zeros((18, 18, 18), np.int64)
    np.add.at(counts, tuple(cells.T + 1), 1)
    smooth = counts[1:-1, 1:-1, 1:-1] * 2 + counts[:-2, 1:-1, 1:-1] + counts[2:, 1:-1, 1:-1]
    smooth += counts[1:-1, :-2, 1:-1] + counts[1:-1, 2:, 1:-1] + counts[1:-1, 1:-1, :-2] + counts[1:-1, 1:-1, 2:]
    cell = np.array(np.unravel_index(int(np.argmax(smooth)), smooth.shape))
    near = (np.abs(cells - cell) <= 1).all(axis=1)
    return np.asarray(np.median(colours[near], axis=0), np.float32)


def _filled(part: np.ndarray, limit: float) -> np.ndarray:
    """HW uint8 with holes of less than `limit` pixels closed, as bool."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(1 - part, connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < limit
    small[0] = False
    return np.asarray((part > 0) | small[labels])


def _at_size(part: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """HW bool at `size` = (width, height), its outline smoothed."""
    return np.asarray(cv2.resize(part.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) >= 0.5)
