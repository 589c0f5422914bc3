"""Batches for anomalib's models: good images, and our defects where its own anomaly generator would have made some up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from aoi.bench.couplings.segmentation import Images, deck
from aoi.data.images import resize_mask

Feeding = Literal["pairs", "labelled"]
"""How a model takes defects: as a good image that its augmenter makes worse, or as images of either kind with their masks."""


@dataclass(frozen=True, slots=True, eq=False)
class Defects:
    """Invented defects with the good image under each."""

    images: tuple[Path, ...]
    masks: np.ndarray
    """S×H×W bool."""
    sources: tuple[Path, ...]
    """The S good images they were drawn on."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """One training image."""

    image: Path
    defect: int | None
    """Which defect belongs to it; None where it stays good."""


NEARLY = 4.0
"""Mean difference of grey levels up to which a defect's image is its source's outside the defect: resizing and saving leave less."""


def on_their_sources(defects: Defects, size: tuple[int, int]) -> np.ndarray:
    """S bool: which defects lie on the very image that is called their source; real ones, and those made elsewhere, may not.

    Args:
        size: (height, width) at which they are compared, pixels.
    """
    images, found = Images(size), np.zeros(len(defects.images), bool)
    for i, (path, source) in enumerate(zip(defects.images, defects.sources, strict=True)):
        around = ~cv2.dilate(resize_mask(defects.masks[i], size).astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
        difference = np.abs(images(path).astype(np.float32) - images(source))[around]
        found[i] = difference.size > 0 and float(difference.mean()) <= NEARLY
    return found


def good_once(good: Sequence[Path]) -> tuple[Drawn, ...]:
    """Every good image once, in order: what models that remember features want."""
    return tuple(Drawn(path, None) for path in good)


def good_for_ever(good: Sequence[Path], rng: np.random.Generator) -> Iterator[Drawn]:
    """Good images in random order, each once before any comes again."""
    yield from (Drawn(good[i], None) for i in deck(len(good), rng))


def with_defects(good: Sequence[Path], defects: Defects, share: float, feeding: Feeding, rng: np.random.Generator) -> Iterator[Drawn]:
    """Good images and defects for ever, mixed at random.

    Args:
        share: of images that stay good.
        feeding: `pairs` draws the good image under a defect, `labelled` the defect's own.
    """
    goods, bads = deck(len(good), rng), deck(len(defects.images), rng)
    while True:
        if rng.random() < share:
            yield Drawn(good[next(goods)], None)
        else:
            i = next(bads)
            yield Drawn((defects.sources if feeding == "pairs" else defects.images)[i], i)


class Batches(IterableDataset):  # type: ignore[type-arg]
    """anomalib's batches of drawn images.

    Args:
        source: images that an epoch begins anew, or an endless draw of which it takes the next ones.
        size: (height, width), pixels.
        batch: images at a time.
        steps: batches an epoch of an endless draw.
        defects: what drawn numbers mean; None where all images are good.
        labelled: put the defects' masks and labels into the batches.
    """

    def __init__(
        self,
        source: Sequence[Drawn] | Iterator[Drawn],
        size: tuple[int, int],
        *,
        batch: int,
        steps: int | None = None,
        defects: Defects | None = None,
        labelled: bool = False,
    ) -> None:
        super().__init__()
        self.images, self.source, self.size, self.batch = Images(size), source, size, batch
        self.defects, self.labelled = defects, labelled
        self.steps = steps if isinstance(source, Iterator) else -(-len(source) // batch)
        self.drawn: list[Drawn] = []
        """Of the batch given last."""

    def __len__(self) -> int:
        return self.steps or 0

    def __iter__(self) -> Iterator[Any]:
        source = iter(self.source)
        for _ in range(len(self)):
            yield self._batch(list(islice(source, self.batch)))

    def _batch(self, drawn: list[Drawn]) -> Any:
        from anomalib.data import ImageBatch

        self.drawn = drawn
        masks = np.zeros((len(drawn), *self.size), bool)
        if self.labelled and self.defects is not None:
            for row, one in enumerate(drawn):
                if one.defect is not None:
                    masks[row] = resize_mask(self.defects.masks[one.defect], self.size)
        labels = torch.tensor([self.labelled and one.defect is not None for one in drawn])
        pixels = np.stack([self.images(one.image) for one in drawn])
        return ImageBatch(
            image=unit(pixels), gt_label=labels, gt_mask=torch.from_numpy(masks), image_path=[str(one.image) for one in drawn]
        )

    def worse(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The images of the last batch with their defects, B×3×H×W in [0, 1], and masks B×1×H×W float32."""
        if self.defects is None:
            raise RuntimeError("there are no defects to show")
        pixels, masks = [], np.zeros((len(self.drawn), 1, *self.size), np.float32)
        for row, one in enumerate(self.drawn):
            pixels.append(self.images(one.image if one.defect is None else self.defects.images[one.defect]))
            if one.defect is not None:
                masks[row, 0] = resize_mask(self.defects.masks[one.defect], self.size)
        return unit(np.stack(pixels)), torch.from_numpy(masks)


def unit(pixels: np.ndarray) -> torch.Tensor:
    """N×3×H×W float32 in [0, 1] of N×H×W×3 uint8."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255


class OurDefects(nn.Module):
    """Stands where a model has its anomaly generator, and gives it the batch with our defects in it."""

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self.batches = batches

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The images with defects, B×3×H×W in [0, 1], and masks B×1×H×W, for the good images given."""
        worse, masks = self.batches.worse()
        return worse.to(images), masks.to(images)


class NothingAdded(nn.Module):
    """Stands where a model adds noise to features, and adds none: the defects are in the images already."""

    def forward(
        self, input_features: torch.Tensor | None, adapted_features: torch.Tensor, masks: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Everything as it came."""
        return input_features, adapted_features, masks, labels


class Material(LightningDataModule):  # type: ignore[misc]
    """What a model is trained on; validation, where a model asks for some, sees good images alone.

    Args:
        train: the batches.
        validation: the same for a model that measures itself on good images.
    """

    def __init__(self, train: Batches, validation: Batches) -> None:
        super().__init__()
        self.train_batch_size = train.batch
        self.train, self.validation = train, validation

    def train_dataloader(self) -> DataLoader[Any]:
        """One epoch."""
        return DataLoader(self.train, batch_size=None, num_workers=0)

    def val_dataloader(self) -> DataLoader[Any]:
        """Good images, once."""
        return DataLoader(self.validation, batch_size=None, num_workers=0)


class Steps(Callback):  # type: ignore[misc]
    """Reports every step of a training.

    Args:
        report: called with the number of finished steps.
    """

    def __init__(self, report: Callable[[int], None]) -> None:
        self.report = report
        self.done = 0

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """One more."""
        self.done += 1
        self.report(self.done)
