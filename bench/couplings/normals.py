"""Generated normals beside the good images: cells of good ground that a generator drew enter PatchCore's bank or PaDiM's Gaussians.

They come from a folder of generated normals, or from the synthetic images of an arm, away from the defect: so far that no cell's
receptive field sees it. Only what the generator changed there is news: cells that hardly differ from those they were drawn over would
make a bank larger without teaching it anything, and a larger bank alone is a better one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch

from aoi.bench.couplings.group import Group, Outcome, baseline
from aoi.bench.couplings.paired import TIE
from aoi.bench.couplings.refitted import adopted
from aoi.data.progress import Progress, silent
from aoi.detect.cells import covered, some
from aoi.detect.coreset import greedy_k_center
from aoi.detect.features import FeatureSet
from aoi.detect.padim import PaDiM
from aoi.detect.patchcore import PatchCore
from aoi.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Images that may hold new good ground."""

    features: FeatureSet
    """Of S images, the maps the detector reads."""
    masks: np.ndarray
    """S×H×W bool: where a defect was drawn."""
    sources: np.ndarray | None
    """S int64, which training image each was drawn on; None where they were made of none."""

    def take(self, chosen: np.ndarray) -> Drawn:
        """Those at `chosen`."""
        return Drawn(self.features.take(chosen), self.masks[chosen], None if self.sources is None else self.sources[chosen])


def normals(group: Group, generator: str, progress: Progress = silent) -> Outcome:
    """The detector with generated normals, adopted unless it finds the held-out defects of fold 0 clearly worse.

    Raises:
        ConfigError: the detector is neither PatchCore nor PaDiM.
    """
    drawn = _drawn(group, generator)
    learned, everything = group.fits.learned, np.arange(len(group.fits.train))
    part = drawn if drawn.sources is None else drawn.take(np.flatnonzero(np.isin(drawn.sources, learned)))
    fitted = group.fits.without_fold_0()
    details: dict[str, Any] = {"from": "folder" if drawn.sources is None else "defects", "images": len(drawn.features)}
    if isinstance(fitted, PaDiM):
        voted = voting_padim(fitted, group.fits.train, learned, part, group.plan.normals.share, group.plan.normals.margin)
        return adopted(
            group,
            generator,
            voted,
            lambda: voting_padim(fitted, group.fits.train, everything, drawn, group.plan.normals.share, group.plan.normals.margin),
            least=-TIE,
            image_score=group.plan.normals.image_score,
            details=details,
            progress=progress,
        )
    if isinstance(fitted, PatchCore):
        return _patchcore(group, generator, fitted, part, drawn, details, progress)
    raise ConfigError(f"the coupling normals has no rule for {group.detector}", hint="use it with patchcore or padim")


def _drawn(group: Group, generator: str) -> Drawn:
    layers, given = tuple(group.fits.train.layers), group.real.normals
    if given is not None:
        return Drawn(given.only(layers), np.zeros((len(given), *given.image_size), bool), None)
    images = group.synth[generator]
    return Drawn(images.features.only(layers), images.masks, images.sources)


def clean_cells(masks: np.ndarray, grid: tuple[int, int], margin: float) -> np.ndarray:
    """Cells of which no pixel is nearer than `margin` pixels to a mask, n×h×w bool.

    Args:
        masks: n×H×W bool.
        grid: h and w.
        margin: Euclidean, pixels; 0 keeps all cells without a masked pixel.
    """
    near = np.zeros(masks.shape, bool)
    for each, mask in zip(near, masks, strict=True):
        if mask.any():
            each[:] = mask | (cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) < margin)
    return np.asarray(covered(near, grid) == 0)


def _patchcore(
    group: Group, generator: str, fitted: PatchCore, part: Drawn, drawn: Drawn, details: dict[str, Any], progress: Progress
) -> Outcome:
    options, kept = group.plan.normals, np.flatnonzero(group.held_out.fold == 0)
    usual = [rows for _, rows in _cells(fitted, Drawn(group.fits.train.take(kept), *_nowhere(group, len(kept))), options.margin)]
    assert fitted.bank is not None
    distances = fitted.bank.nearest(torch.cat(usual).to(fitted.device))[0]
    limit, apart = float(distances.quantile(options.limit)), float(distances.quantile(options.novelty))

    def enlarged(own: PatchCore, more: Drawn) -> PatchCore:
        rng = np.random.default_rng([group.seed, 6])
        found = new_cells(own, group.fits.train, more, options.margin, apart, options.cells_per_image, rng)
        return with_more(own, found, share=options.share, limit=limit, start=int(rng.integers(2**31)))

    def whole() -> PatchCore:
        own = group.fits.on_all()
        assert isinstance(own, PatchCore)
        return enlarged(own, drawn)

    trial = enlarged(fitted, part)
    details |= {
        "limit": limit,
        "apart": apart,
        "bank": len(fitted.state()["memory_bank"]),
        "with_normals": len(trial.state()["memory_bank"]),
    }
    if details["bank"] == details["with_normals"]:
        return replace(baseline(group), details=details | {"adopted": False})
    return adopted(group, generator, trial, whole, least=-TIE, image_score=options.image_score, details=details, progress=progress)


def _nowhere(group: Group, count: int) -> tuple[np.ndarray, None]:
    return np.zeros((count, *group.fits.train.image_size), bool), None


def _cells(detector: PatchCore, drawn: Drawn, margin: float) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Of each image: which of its cells are clean, h×w bool, and those, n×D float32."""
    done = 0
    for maps in drawn.features.batches(16):
        cells = detector.embedding(maps).permute(0, 2, 3, 1).cpu()
        clean = torch.from_numpy(clean_cells(drawn.masks[done : done + len(cells)], (cells.shape[1], cells.shape[2]), margin))
        yield from ((keep, image[keep]) for image, keep in zip(cells, clean, strict=True))
        done += len(cells)


def new_cells(
    detector: PatchCore, train: FeatureSet, drawn: Drawn, margin: float, apart: float, cells_per_image: int, rng: np.random.Generator
) -> torch.Tensor:
    """Clean cells that are more than those of the good image they were drawn on once again, n×D float32.

    Args:
        detector: makes the cells.
        train: features of the good images.
        drawn: where cells may come from.
        margin: see `clean_cells`.
        apart: distance to the cell it was drawn over, above which a cell is news; images made of no good image are all news.
        cells_per_image: at most so many of each.
        rng: draws them.
    """
    found = [torch.empty(0)]
    before = None if drawn.sources is None else _cells(detector, Drawn(train.take(drawn.sources), drawn.masks, None), margin)
    for _, rows in _cells(detector, drawn, margin):
        if before is not None:
            _, same = next(before)
            rows = rows[(rows - same).norm(dim=1) > apart]
        if len(rows):
            found.append(some(rows, cells_per_image, rng))
    return torch.cat(found[1:] or found)


def with_more(fitted: PatchCore, cells: torch.Tensor, *, share: float, limit: float, start: int) -> PatchCore:
    """A PatchCore whose bank holds more good ground; the real one stays as it is.

    A generated cell is believed to be good ground where it is no farther from the bank than real good ground may be. So no cell comes
    nearer to the bank by more than `limit`, however wrong a generator was. Of those believed, a coreset enters.

    Args:
        fitted: is left alone.
        cells: n×D float32.
        share: of the bank's size that may be added.
        limit: distance from the bank.
        start: number from which the first of the coreset is derived.
    """
    assert fitted.bank is not None
    bank = fitted.state()["memory_bank"]
    if len(cells):
        cells = cells[(fitted.bank.nearest(cells.to(fitted.device))[0] <= limit).cpu()]
    count = min(len(cells), round(share * len(bank)))
    found = PatchCore(fitted.options, layers=fitted.layers, seed=fitted.seed, device=fitted.device)
    more = cells[torch.from_numpy(greedy_k_center(cells, count, start=start % len(cells)).indices)].numpy() if count else bank[:0]
    found.restore({"memory_bank": np.concatenate([bank, more])}, (0, 0))
    return found


def votes(clean: np.ndarray, sources: np.ndarray | None, count: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """How much every good and every generated image counts at every position; at each, all votes sum to `count`.

    A good image and those drawn on it share one vote, so that copies of it change nothing: where any of these is clean they have
    `share` of it among them. Images that were made of none have `share` of all votes, but none has more than a good image.

    Args:
        clean: S×h×w bool.
        sources: S int64, or None.
        count: N good images.
        share: in 0–1.

    Returns:
        N×h×w and S×h×w float32.
    """
    if sources is None:
        share = min(share, len(clean) / (count + len(clean)))
        whole = np.full((count, *clean.shape[1:]), 1 - share, np.float32)
        return whole, np.full(clean.shape, share * count / max(len(clean), 1), np.float32)
    siblings = np.zeros((count, *clean.shape[1:]), np.float32)
    np.add.at(siblings, sources, clean.astype(np.float32))
    return 1 - share * (siblings > 0).astype(np.float32), share * clean / np.maximum(siblings[sources], 1)


def voting_padim(fitted: PaDiM, train: FeatureSet, chosen: np.ndarray, drawn: Drawn, share: float, margin: float) -> PaDiM:
    """PaDiM fitted on good images and generated ones by their votes.

    Args:
        fitted: where options, layers, seed and device come from; is left alone.
        train: features of the good images.
        chosen: which of them, int64.
        drawn: their sources are among `chosen`.
        share: see `votes`.
        margin: see `clean_cells`.
    """
    found = PaDiM(fitted.options, layers=fitted.layers, seed=fitted.seed, device=fitted.device)
    good = train.take(chosen)
    found.prepare(good)
    sources = None if drawn.sources is None else np.searchsorted(chosen, drawn.sources)
    real, generated = votes(clean_cells(drawn.masks, found.grid, margin), sources, len(good), share)
    sums = found.sums(len(good) + len(drawn.features), voting=True)
    for images, counts in ((good, real), (drawn.features, generated)):
        done = 0
        for maps in images.batches(found.batch_size):
            vectors = found.vectors(maps)
            own = torch.from_numpy(counts[done : done + vectors.shape[1]].astype(np.float32)).flatten(1).T
            sums.add(vectors, own.to(vectors.device).contiguous())
            done += vectors.shape[1]
    found.gaussians = sums.finish(found.options.epsilon)
    return found
