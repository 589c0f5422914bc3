"""Features of images that were made from others, as invented defects are from good images, at the cost of what differs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from aoi.data.images import read_image, resize_image
from aoi.detect.backbones import Backbone
from aoi.detect.boxes import differing
from aoi.detect.fused import FusedNetwork
from aoi.detect.incremental import WORTH_IT, Extent, IncrementalNetwork, proven
from aoi.errors import DataError

if TYPE_CHECKING:
    from aoi.detect.features import Origins

MEMORY = 64 * 2**20
"""Bytes of pictures kept at most, 340 of 256 px."""
_PROBE = 128
"""Side of the images on which parts are compared with wholes, pixels."""


class Pictures:
    """Pictures read last, resized, as far as they fit into memory: defects of several generators were made from the same ones.

    Args:
        memory: bytes.
    """

    def __init__(self, memory: int = MEMORY) -> None:
        self._memory, self._size = memory, 0
        self._found: OrderedDict[tuple[object, ...], np.ndarray] = OrderedDict()

    def __call__(self, path: Path, size: tuple[int, int]) -> np.ndarray:
        """HWC uint8 RGB of `size`; nobody may change it.

        Raises:
            DataError: it cannot be read.
            OSError: it is gone.
        """
        stat = path.stat()
        key = (path.absolute(), stat.st_ino, stat.st_size, stat.st_mtime_ns, size)
        if key not in self._found:
            found = self._found[key] = resize_image(read_image(path), size)
            self._size += found.nbytes
            while self._size > self._memory and len(self._found) > 1:
                self._size -= self._found.popitem(last=False)[1].nbytes
            return found
        self._found.move_to_end(key)
        return self._found[key]


_PICTURES = Pictures()
"""Of this process."""


class Changes:
    """Maps of images of which others are known, computed where these differ.

    Args:
        origins: the others.
        backbone: gave their maps.
        network: its steps.
    """

    def __init__(self, origins: Origins, backbone: Backbone, network: IncrementalNetwork) -> None:
        self._origins, self._backbone, self._network = origins, backbone, network

    def __call__(self, numbers: Sequence[int], images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Layer name to n×C×h×w float32.

        Args:
            numbers: which of the origins' rows say what each image was made from.
            images: n, HWC uint8 RGB.
        """
        extents = [self._extent(number, image) for number, image in zip(numbers, images, strict=True)]
        whole = [at for at, extent in enumerate(extents) if extent is None]
        known = self._origins.features.layers
        maps = {name: np.empty((len(images), *known[name].shape[1:]), np.float32) for name in self._backbone.layers}
        if whole:
            for name, found in self._backbone(np.stack([images[at] for at in whole])).items():
                maps[name][whole] = found.numpy()
        for at, extent in enumerate(extents):
            if extent is not None:
                row = int(self._origins.rows[numbers[at]])
                for name, into in maps.items():
                    into[at] = known[name][row : row + 1][0]
                if extent.computed:
                    self._change(images[at], extent, {name: into[at] for name, into in maps.items()})
        return maps

    def _change(self, image: np.ndarray, extent: Extent, maps: dict[str, np.ndarray]) -> None:
        """Turn the maps of an origin into those of an image, in place."""
        with torch.inference_mode():
            changed = self._network(self._backbone.normalised(image[None]), extent, self._backbone.layers, maps)
            for name, (box, found) in changed.items():
                maps[name][(slice(None), *box.slices)] = found.numpy()

    def _extent(self, number: int, image: np.ndarray) -> Extent | None:
        """What of an image has to be computed; None for all of it."""
        size = self._origins.features.image_size
        try:
            origin = _PICTURES(self._origins.features.paths[int(self._origins.rows[number])], size)
        except (DataError, OSError):
            return None
        changed = differing(image, origin)
        if changed.is_empty:
            return Extent((), ())
        layers = self._backbone.layers
        extent = self._network.extent(size, changed, layers, layers)
        return extent if self._network.share(extent) < WORTH_IT else None


def changes_of(origins: Origins | None, backbone: Backbone, image_size: tuple[int, int]) -> Changes | None:
    """What computes images from their origins; None where nothing is known of these, or parts are not what they are in the whole."""
    if origins is None or backbone.precision != "float32" or backbone.compiled is not None or not isinstance(backbone.fused, FusedNetwork):
        return None
    if origins.features.image_size != image_size or not set(backbone.layers) <= set(origins.features.layers):
        return None
    graph = backbone.fused.graph
    network = None if graph is None else proven(graph, [spec.name for spec in backbone.available], _PROBE)
    return None if network is None else Changes(origins, backbone, network)
