"""Can the asked-for word be read from what a generator painted? A linear probe, taught on real defects only, tells.

Every defect, real or painted, is shown the same way: the square around its mask, as the generator's own crops are framed. The probe is a
logistic regression on pooled features of a frozen SqueezeNet; it learns on the real defects the generator learnt from and on clean
squares, is checked on real defects held back, and then reads the pictures painted into the masks of those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from aoi.data.images import write_image
from aoi.data.progress import Progress, silent
from aoi.metrics.lpips import Lpips
from aoi.synth.training.crops import Picture, crop, snapped
from aoi.synth.training.networks import GRID
from aoi.synth.training.wording import CLEAN, caption

Painter = Callable[[np.ndarray, np.ndarray, str, int], np.ndarray]
"""Paints: S×S×3 uint8 clean crop, S×S bool mask, caption, seed, to S×S×3 uint8."""
_VIEWS = 6
"""Squares of each real defect the probe learns from."""


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What the probe read."""

    real: dict[str, float]
    """Accuracy by word on real held-back defects, and `all`: the most that can be hoped for."""
    painted: dict[str, float]
    """Accuracy by asked-for word on painted ones, and `all`."""
    control: dict[str, float]
    """The same read from the clean surfaces before anything was painted: what the mask's outline alone gives away."""
    counts: dict[str, int]
    """Painted pictures by word."""
    confusion: dict[str, dict[str, int]]
    """Asked-for word to word read."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"real": self.real, "painted": self.painted, "control": self.control, "counts": self.counts, "confusion": self.confusion}

    def summary(self) -> str:
        """For people."""
        lines = ["| word | real, held back | painted | not painted | pictures |", "|---|---:|---:|---:|---:|"]
        for word in (*self.counts, "all"):
            count = self.counts.get(word, sum(self.counts.values()))
            lines.append(
                f"| {word} | {self.real.get(word, float('nan')):.2f} | {self.painted[word]:.2f} | {self.control[word]:.2f} | {count} |"
            )
        return "\n".join(lines)


def read_words(
    learnt: Sequence[Picture],
    unseen: Sequence[Picture],
    good: Sequence[Picture],
    paint: Painter,
    lpips: Lpips,
    *,
    size: int,
    seed: int,
    pictures: Path | None = None,
    progress: Progress = silent,
) -> ProbeReport:
    """Paint every unseen defect's word into its mask at the same place of a good part, and read all words back.

    Args:
        learnt: real defects the probe may learn from.
        unseen: real defects with the masks to paint into.
        good: good surfaces, at least two.
        paint: the generator.
        lpips: whose SqueezeNet gives the features.
        size: side of the crops, pixels.
        seed: of everything random.
        pictures: a PNG with real above painted for each word goes here.
        progress: called with stage `probe`.
    """
    rng = np.random.default_rng([seed, 7])
    known = [(crop(picture, size, rng), picture.word) for picture in learnt for _ in range(_VIEWS)]
    known += [((crop(good[i % len(good)], size, rng)[0], known[i][0][1]), CLEAN) for i in range(len(learnt))]
    probe = _fit([image for (image, _), _ in known], [mask for (_, mask), _ in known], [word for _, word in known], lpips)

    pairs = [_with_ground(picture, good[int(rng.integers(len(good)))], size, rng) for picture in unseen]
    shown = [(image, truth) for image, _, truth in pairs]
    words = [picture.word for picture in unseen]
    painted, grounds, masks = [], [], []
    for i, ((_, ground, truth), picture) in enumerate(zip(pairs, unseen, strict=True)):
        radius = np.ones((5, 5), np.uint8)
        mask = snapped(cv2.dilate(truth.astype(np.uint8), radius) > 0, GRID)
        painted.append(paint(ground, mask, caption(picture.word, picture.place, picture.severity, rng), seed + i))
        grounds.append(ground)
        masks.append(truth)
        progress("probe", i + 1, len(unseen))
    read_real = probe([image for image, _ in shown], [mask for _, mask in shown])
    read, unpainted = probe(painted, masks), probe(grounds, masks)
    if pictures is not None:
        _write_grid(pictures, words, [image for image, _ in shown], painted)
    confusion = {word: dict.fromkeys(sorted({*words, CLEAN}), 0) for word in sorted(set(words))}
    for asked, said in zip(words, read, strict=True):
        confusion[asked][said] = confusion[asked].get(said, 0) + 1
    counts = {word: words.count(word) for word in sorted(set(words))}
    return ProbeReport(_accuracy(words, read_real), _accuracy(words, read), _accuracy(words, unpainted), counts, confusion)


def _with_ground(picture: Picture, good: Picture, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A square of a defect, the same square of a good part, and the defect's truth: a broken edge needs an edge to break.

    Returns:
        two S×S×3 uint8 and S×S bool.
    """
    height, width = picture.mask.shape
    ground = cv2.resize(good.image, (width, height), interpolation=cv2.INTER_AREA)
    before = rng.bit_generator.state
    image, truth = crop(picture, size, rng)
    rng.bit_generator.state = before  # the same square again
    return image, crop(replace(picture, image=ground), size, rng)[0], truth


def _fit(
    images: list[np.ndarray], masks: list[np.ndarray], words: list[str], lpips: Lpips
) -> Callable[[list[np.ndarray], list[np.ndarray]], list[str]]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000, class_weight="balanced"))
    model.fit(_features(images, masks, lpips), words)

    def read(more: list[np.ndarray], where: list[np.ndarray]) -> list[str]:
        return [str(word) for word in model.predict(_features(more, where, lpips))]

    return read


@torch.inference_mode()
def _features(images: list[np.ndarray], masks: list[np.ndarray], lpips: Lpips) -> np.ndarray:
    """Mean and maximum over the neighbourhood of the mask, and mean over the rest, of two of SqueezeNet's maps; N×D float32."""
    found = []
    for start in range(0, len(images), 32):
        batch = torch.from_numpy(np.stack(images[start : start + 32])).permute(0, 3, 1, 2).float() / 127.5 - 1
        near = torch.from_numpy(
            np.stack([cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) for mask in masks[start : start + 32]])
        )
        maps, row = lpips.features(batch), []
        for features in (maps[2], maps[6]):
            inside = torch.nn.functional.adaptive_max_pool2d(near[:, None].float(), features.shape[2:])
            area = inside.sum((2, 3)).clamp_min(1)
            mean = (features * inside).sum((2, 3)) / area
            rest = (features * (1 - inside)).sum((2, 3)) / (1 - inside).sum((2, 3)).clamp_min(1)
            row += [mean, (features * inside).amax((2, 3)), mean - rest]
        found.append(torch.cat(row, 1).numpy())
    return np.concatenate(found)


def _accuracy(asked: list[str], read: list[str]) -> dict[str, float]:
    hits = [a == b for a, b in zip(asked, read, strict=True)]
    by_word = {word: float(np.mean([hit for hit, a in zip(hits, asked, strict=True) if a == word])) for word in sorted(set(asked))}
    return {name: round(value, 4) for name, value in (by_word | {"all": float(np.mean(hits))}).items()}


def _write_grid(path: Path, words: list[str], real: list[np.ndarray], painted: list[np.ndarray], columns: int = 10) -> None:
    """For each word a row of real defects and below it what was painted into the same masks on other ground."""
    rows = []
    for word in sorted(set(words)):
        chosen = [i for i, each in enumerate(words) if each == word][:columns]
        for source in (real, painted):
            tiles = [source[i] for i in chosen] + [np.full_like(real[0], 255)] * (columns - len(chosen))
            rows.append(np.hstack(tiles))
    write_image(path, np.vstack(rows))
