"""Images through a frozen backbone, once each, kept as feature maps that every detector shares."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from aoi.data.content import file_hash
from aoi.data.images import read_image, resize_image
from aoi.data.progress import Progress, silent
from aoi.detect.backbones import Backbone
from aoi.detect.derived import changes_of
from aoi.detect.feature_store import FeatureWriter, JoinedMaps, StoredMaps, read_folder, written_folder
from aoi.detect.verdict import BadImage
from aoi.errors import DataError

BATCH = 16
"""Images per forward pass; fixed, so that an image's features do not depend on how a command was split up."""
CACHE_SCHEMA = 2


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSet:
    """Feature maps of some images at one size through one backbone."""

    layers: Mapping[str, np.ndarray | StoredMaps | JoinedMaps]
    """Layer name to N×C×h×w float32, finest grid first; on disk when it came from a cache."""
    image_size: tuple[int, int]
    """Height and width of the network's input, pixels."""
    paths: tuple[Path, ...]
    """The N image files, in order."""

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def folder(self) -> Path | None:
        """Where the maps lie if they are on disk."""
        return next((maps.folder for maps in self.layers.values() if not isinstance(maps, np.ndarray)), None)

    def take(self, indices: Sequence[int] | np.ndarray) -> FeatureSet:
        """The images at `indices`, in that order; copies of what is in memory."""
        chosen = np.asarray(indices, dtype=np.int64)
        return FeatureSet(
            {name: maps[chosen] if isinstance(maps, np.ndarray) else maps.take(chosen) for name, maps in self.layers.items()},
            self.image_size,
            tuple(self.paths[i] for i in chosen),
        )

    def only(self, layers: Sequence[str]) -> FeatureSet:
        """The same images with `layers` alone, so that nothing else is copied about."""
        return FeatureSet({name: self.layers[name] for name in layers}, self.image_size, self.paths)

    def batches(self, size: int = 64, *, channels: Mapping[str, np.ndarray] | None = None) -> Iterator[dict[str, torch.Tensor]]:
        """Layer name to n×C×h×w float32 tensors, at most `size` images at a time, in order.

        Args:
            channels: of each layer that is wanted, which channels, int64 ascending; None for all of all layers.
        """
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            if channels is None:
                found = {name: np.ascontiguousarray(maps[part]) for name, maps in self.layers.items()}
            else:
                found = {name: _picked(self.layers[name], part, chosen) for name, chosen in channels.items()}
            yield {name: torch.from_numpy(maps) for name, maps in found.items()}


def _picked(maps: np.ndarray | StoredMaps | JoinedMaps, part: slice, chosen: np.ndarray) -> np.ndarray:
    """Some channels of the images in a slice."""
    return maps[part][:, chosen] if isinstance(maps, np.ndarray) else maps.channels(part, chosen)


def joined(sets: Sequence[FeatureSet], which: np.ndarray, rows: np.ndarray) -> FeatureSet:
    """Images of several sets in one order; of maps on disk nothing is read, others are copied.

    Args:
        sets: with the layers of the first, at its size.
        which: N int64, the set of each image.
        rows: N int64, which of its set's images it is.
    """
    layers = {name: _joined_maps([each.layers[name] for each in sets], which, rows) for name in sets[0].layers}
    paths = tuple(sets[number].paths[row] for number, row in zip(which, rows, strict=True))
    return FeatureSet(layers, sets[0].image_size, paths)


def _joined_maps(parts: Sequence[np.ndarray | StoredMaps | JoinedMaps], which: np.ndarray, rows: np.ndarray) -> np.ndarray | JoinedMaps:
    stored = tuple(maps for maps in parts if isinstance(maps, StoredMaps))
    if len(stored) == len(parts):
        return JoinedMaps(stored, which, rows)
    return gathered([maps[:] for maps in parts], which, rows)


def gathered(sets: Sequence[np.ndarray], which: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of several arrays in one order, N×…, of the first one's dtype; arguments as for `joined`."""
    found = np.empty((len(which), *sets[0].shape[1:]), sets[0].dtype)
    for number, each in enumerate(sets):
        found[which == number] = each[rows[which == number]]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Extraction:
    """Features of the images that could be read, and the ones that could not."""

    features: FeatureSet
    bad: tuple[BadImage, ...]


def load_batches(paths: Sequence[Path], size: tuple[int, int], batch: int = BATCH) -> Iterator[list[tuple[Path, np.ndarray | BadImage]]]:
    """Read and resize images ahead of the consumer, `batch` at a time, in order; an unreadable one comes as a `BadImage`.

    Yields:
        lists of (path, HWC uint8 RGB of `size`, or why there is none).
    """

    def load(path: Path) -> np.ndarray | BadImage:
        try:
            return resize_image(read_image(path), size)
        except DataError as error:
            return BadImage(path, error.message)

    with ThreadPoolExecutor(max_workers=2) as pool:
        chunks = [paths[start : start + batch] for start in range(0, len(paths), batch)]
        ahead = [[pool.submit(load, path) for path in chunk] for chunk in chunks[:2]]
        for i, chunk in enumerate(chunks):
            if i + 2 < len(chunks):
                ahead.append([pool.submit(load, path) for path in chunks[i + 2]])
            yield [(path, future.result()) for path, future in zip(chunk, ahead.pop(0), strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class Origins:
    """What images were made from: other images, whose maps are known."""

    features: FeatureSet
    """Of the other images."""
    rows: np.ndarray
    """N int64, which of them each image was made from."""


class FeatureKeeper(Protocol):
    """Keeps extractions on disk for more than one command."""

    def kept(self, key: str, write: Callable[[Path], None], read: Callable[[Path], Extraction | None]) -> Extraction:
        """The extraction of a key: what `read` makes of its folder, after `write` has filled that where there was none."""


def extract(
    paths: Sequence[Path],
    backbone: Backbone,
    image_size: tuple[int, int],
    *,
    cache: Path | FeatureKeeper | None = None,
    origins: Origins | None = None,
    progress: Progress = silent,
) -> Extraction:
    """Features of every readable image among `paths`.

    Args:
        paths: image files.
        backbone: the frozen network; its `layers` decide what is kept.
        image_size: (height, width) every image is resized to, antialiased bilinear, without keeping the aspect.
        cache: finished extractions, keyed by the content of the images, weights and size: a folder, or who keeps several; None keeps
            features in memory.
        origins: what the images were made from, where that is known: it saves time and changes nothing.
        progress: called with stage `features`.
    """
    key = features_key(paths, backbone, image_size) if cache is not None and paths else None
    if cache is not None and key is not None:
        if not isinstance(cache, Path):
            return cache.kept(
                key,
                lambda folder: _into_folder(folder, paths, backbone, image_size, origins, progress),
                lambda folder: _read_cache(folder, paths),
            )
        kept = _read_cache(cache / key, paths)
        if kept is not None:
            progress("features", len(paths), len(paths))
            return kept
        _to_folder(cache / key, paths, backbone, image_size, origins, progress)
        kept = _read_cache(cache / key, paths)
        if kept is not None:
            return kept
    return _to_memory(paths, backbone, image_size, origins, progress)


def extract_features(
    paths: Sequence[Path],
    backbone: Backbone,
    image_size: tuple[int, int],
    *,
    cache: Path | FeatureKeeper | None = None,
    origins: Origins | None = None,
    progress: Progress = silent,
) -> FeatureSet:
    """Like `extract`, for callers to whom an unreadable image is an error.

    Raises:
        DataError: naming the first unreadable image and how many there are.
    """
    extraction = extract(paths, backbone, image_size, cache=cache, origins=origins, progress=progress)
    if extraction.bad:
        first = extraction.bad[0]
        more = f" (and {len(extraction.bad) - 1} more)" if len(extraction.bad) > 1 else ""
        raise DataError(f"{first.reason}{more}", hint="`aoi data check` lists every unreadable file; replace or delete them")
    return extraction.features


def _to_folder(
    folder: Path, paths: Sequence[Path], backbone: Backbone, image_size: tuple[int, int], origins: Origins | None, progress: Progress
) -> None:
    """Features straight to disk: no more than a batch of them is ever in memory."""
    with written_folder(folder) as writer:
        _write(writer, paths, backbone, image_size, origins, progress)


def _into_folder(
    folder: Path, paths: Sequence[Path], backbone: Backbone, image_size: tuple[int, int], origins: Origins | None, progress: Progress
) -> None:
    """The same into a folder that is there."""
    with ExitStack() as stack:
        _write(FeatureWriter(folder, stack), paths, backbone, image_size, origins, progress)


def _write(
    writer: FeatureWriter,
    paths: Sequence[Path],
    backbone: Backbone,
    image_size: tuple[int, int],
    origins: Origins | None,
    progress: Progress,
) -> None:
    bad: list[BadImage] = []
    for _, maps, unread in _batches(paths, backbone, image_size, origins, progress):
        writer.add(maps)
        bad += unread
    writer.finish(image_size=image_size, bad=[each.as_dict() for each in bad])


def _to_memory(
    paths: Sequence[Path], backbone: Backbone, image_size: tuple[int, int], origins: Origins | None, progress: Progress
) -> Extraction:
    kept: list[Path] = []
    bad: list[BadImage] = []
    layers: dict[str, np.ndarray] = {}
    for images, maps, unread in _batches(paths, backbone, image_size, origins, progress):
        for name, found in maps.items():
            if name not in layers:
                layers[name] = np.empty((len(paths), *found.shape[1:]), np.float32)
            layers[name][len(kept) : len(kept) + len(images)] = found
        kept += images
        bad += unread
    features = FeatureSet({name: array[: len(kept)] for name, array in layers.items()}, image_size, tuple(kept))
    return Extraction(features, tuple(bad))


def _batches(
    paths: Sequence[Path], backbone: Backbone, image_size: tuple[int, int], origins: Origins | None, progress: Progress
) -> Iterator[tuple[list[Path], dict[str, np.ndarray], list[BadImage]]]:
    """Readable images of a batch, their maps by layer, and the unreadable ones; stage `features`."""
    known, done = changes_of(origins, backbone, image_size), 0
    progress("features", 0, len(paths))
    for chunk in load_batches(paths, image_size):
        bad = [image for _, image in chunk if isinstance(image, BadImage)]
        images = [(number, path, image) for number, (path, image) in enumerate(chunk, done) if not isinstance(image, BadImage)]
        pictures, maps = [image for _, _, image in images], dict[str, np.ndarray]()
        if images and known is not None:
            maps = known([number for number, _, _ in images], pictures)
        elif images:
            maps = {name: found.cpu().numpy() for name, found in backbone(np.stack(pictures)).items()}
        done += len(chunk)
        yield [path for _, path, _ in images], maps, bad
        progress("features", done, len(paths))


def features_key(paths: Sequence[Path], backbone: Backbone, image_size: tuple[int, int]) -> str:
    """Everything that decides the features of images, hexadecimal: their content, the network and the size."""
    made_by = (CACHE_SCHEMA, backbone.fingerprint, backbone.precision, backbone.device.partition(":")[0], backbone.layers, image_size)
    digest = hashlib.sha256(repr(made_by).encode())
    if backbone.compiled is not None:
        digest.update(b"compiled")  # the last digits differ
    elif backbone.precision == "bfloat16":
        digest.update(b"from map to map")  # where each product was rounded by itself, more than the last digits
    with ThreadPoolExecutor(max_workers=2) as pool:
        for content in pool.map(_hash_or_reason, paths):
            digest.update(content.encode())
    return digest.hexdigest()[:32]


def _hash_or_reason(path: Path) -> str:
    try:
        return file_hash(path)
    except DataError as error:
        return error.message


def _read_cache(folder: Path, paths: Sequence[Path]) -> Extraction | None:
    found = read_folder(folder)
    if found is None:
        return None
    maps, meta = found
    reasons = {row["image_path"]: row["reason"] for row in meta["bad"]}
    kept = tuple(path for path in paths if str(path) not in reasons)
    if any(len(each) != len(kept) for each in maps.values()):
        return None
    bad = tuple(BadImage(path, reasons[str(path)]) for path in paths if str(path) in reasons)
    return Extraction(FeatureSet(maps, tuple(meta["image_size"]), kept), bad)
