"""Making the defects of one batch, each from its own number alone, so that any process may make any of them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from aoi.data.content import file_hash, pixel_hash
from aoi.data.files import write_bytes
from aoi.data.images import png_bytes, read_image, resize_image
from aoi.errors import DataError
from aoi.synth.foreground import find_foreground
from aoi.synth.manifest import ManifestRow, Rejection
from aoi.synth.options import GenerateOptions
from aoi.synth.paint import is_grey
from aoi.synth.region import Region, find_region
from aoi.synth.registry import create_generator
from aoi.synth.types import SynthDefect
from aoi.synth.verification import verify
from aoi.synth.visibility import mean_change

_MAX_SOURCES = 64
"""How many good images are looked at for one defect before it is given up, when they cannot be read or the place misses the part."""
_KEPT_SOURCES = 6


@dataclass(frozen=True, slots=True)
class Source:
    """One good image that defects may be drawn on."""

    path: Path
    name: str
    """Relative to what the user named; goes into the manifest."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A source, read and understood."""

    image: np.ndarray
    """HWC uint8 RGB at the output's size."""
    region: Region
    sha256: str
    pixels: str
    grey: bool


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """The outcome of one number: the defect, if there is one, and how it came about."""

    row: ManifestRow
    prepared: Prepared | None
    defect: SynthDefect | None


def source_at(seed: int, index: int, step: int, sources: int) -> int:
    """Which source serves defect `index`: each round over all sources is a new shuffle; `step` moves on from a source that failed."""
    round_, place = divmod(index, sources)
    return int(_shuffle(seed, round_, sources)[(place + step) % sources])


@lru_cache(maxsize=4)
def _shuffle(seed: int, round_: int, sources: int) -> np.ndarray:
    return np.random.default_rng([seed, round_, sources]).permutation(sources)


class Batch:
    """Everything needed to make any defect of a batch; one for each process.

    Args:
        sources: the good images.
        options: what to make.
    """

    def __init__(self, sources: tuple[Source, ...], options: GenerateOptions) -> None:
        self.sources, self.options = sources, options
        self.spec, self.generator = options.spec, create_generator(options.generator, options.settings)
        self.unreadable: dict[str, str] = {}
        """Names of sources that could not be read, and why."""
        self._prepared: OrderedDict[int, Prepared] = OrderedDict()

    def attempts(self, index: int) -> Attempt:
        """Make defect `index`: sources in their order until one serves, seeds in their order until a defect passes."""
        rejections: list[Rejection] = []
        for step in range(min(len(self.sources), _MAX_SOURCES)):
            which = source_at(self.options.seed, index, step, len(self.sources))
            name = self.sources[which].name
            prepared = self._prepare(which)
            if prepared is None:
                rejections.append(Rejection(0, name, "source", self.unreadable[name]))
            elif not prepared.region.is_usable:
                rejections.append(Rejection(0, name, "place", f"{self.spec.place.name!r} misses the part"))
            else:
                return self._try(index, name, prepared, rejections)
        reason = rejections[-1].reason if rejections else "no source"
        row = self._row(index, 0, rejections[-1].source, None, None, tuple(rejections), reason)
        return Attempt(row, None, None)

    def _try(self, index: int, name: str, prepared: Prepared, rejections: list[Rejection]) -> Attempt:
        options, region = self.options, prepared.region
        reason: str | None = None
        for attempt in range(options.max_tries):
            rng = np.random.default_rng([options.seed, index, attempt])
            defect = self.generator.generate(prepared.image, region, self.spec, rng)
            reason = verify(prepared.image, defect.image, defect.mask, region, self.spec, mask=defect.mask).reason
            if reason is None:
                row = self._row(index, attempt, name, prepared, defect, tuple(rejections), None)
                return Attempt(row, prepared, defect)
            rejections.append(Rejection(attempt, name, "defect", reason))
        return Attempt(self._row(index, options.max_tries - 1, name, prepared, None, tuple(rejections), reason), prepared, None)

    def _row(
        self,
        index: int,
        attempt: int,
        name: str,
        prepared: Prepared | None,
        defect: SynthDefect | None,
        rejections: tuple[Rejection, ...],
        reason: str | None,
    ) -> ManifestRow:
        area = 0 if defect is None else int(defect.mask.sum())
        part = 1 if prepared is None else int(prepared.region.foreground.sum())
        return ManifestRow(
            index=index,
            accepted=defect is not None,
            reason=reason,
            generator=self.options.generator,
            kind=self.spec.kind,
            label=self.options.folder,
            place=self.spec.place.name,
            seed=(self.options.seed, index, attempt),
            source=name,
            source_sha256="" if prepared is None else prepared.sha256,
            source_pixels="" if prepared is None else prepared.pixels,
            parameters={} if defect is None else dict(defect.provenance.parameters),
            size=None if prepared is None else (prepared.image.shape[1], prepared.image.shape[0]),
            mask_area=area,
            foreground_fraction=round(area / part, 6),
            bbox=None if defect is None else defect.bbox,
            change=0.0 if defect is None or prepared is None else round(mean_change(prepared.image, defect.image, defect.mask), 3),
            rejections=rejections,
        )

    def _prepare(self, which: int) -> Prepared | None:
        """Read a source, find its part and region; None (and a note in `unreadable`) if it cannot be read."""
        source = self.sources[which]
        if source.name in self.unreadable:
            return None
        if which not in self._prepared:
            try:
                full, sha256 = read_image(source.path), file_hash(source.path)
            except DataError as error:
                self.unreadable[source.name] = error.message
                return None
            size = self.options.size
            image = full if size is None else resize_image(full, (size, size))
            region = find_region(find_foreground(image, self.options.foreground), self.spec.place)
            if len(self._prepared) >= _KEPT_SOURCES:
                self._prepared.popitem(last=False)
            self._prepared[which] = Prepared(image, region, sha256, pixel_hash(full), is_grey(image))
        return self._prepared[which]


def write_defect(batch: Batch, index: int, out: Path) -> ManifestRow:
    """Make defect `index` and write its image and mask under `out`; the row is complete, hashes included."""
    attempt = batch.attempts(index)
    if attempt.defect is None or attempt.prepared is None:
        return attempt.row
    row, defect, label = attempt.row, attempt.defect, batch.options.folder
    texts = {"synthetic": "true", "generator": row.generator, "kind": row.kind, "seed": "-".join(map(str, row.seed)), "source": row.source}
    grey = attempt.prepared.grey and is_grey(defect.image)  # a third of the bytes and of the time, and reads back the same
    image = png_bytes(defect.image[..., 0] if grey else defect.image, texts)
    mask = png_bytes(defect.mask.astype(np.uint8) * 255, texts)
    names = (f"test/{label}/{index:06d}.png", f"ground_truth/{label}/{index:06d}_mask.png")
    for name, content in zip(names, (image, mask), strict=True):
        write_bytes(out / name, content)
    digests = tuple(hashlib.sha256(content).hexdigest() for content in (image, mask))
    return replace(row, image=names[0], mask=names[1], image_sha256=digests[0], mask_sha256=digests[1])
