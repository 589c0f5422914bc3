"""What results are made from, as keys: content, never names or places."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from aoi.bench.ledger import identity_of
from aoi.data.content import file_hashes
from aoi.detect.feature_store import JoinedMaps, StoredMaps
from aoi.detect.features import FeatureSet


def features_identity(features: FeatureSet) -> str:
    """Stands for every number of the features, hexadecimal.

    Stored ones are told by their folder, whose name is made from the content of the images and of the network, and by which of its
    rows they are; others by their bytes.
    """
    parts: list[Any] = [list(features.image_size), [] if features.layers else file_hashes(features.paths)]
    for name, maps in features.layers.items():
        if isinstance(maps, StoredMaps):
            parts.append([name, *_stored(maps)])
        elif isinstance(maps, JoinedMaps):
            parts.append([name, [_stored(each) for each in maps.parts], _digest(maps.which), _digest(maps.rows)])
        else:
            parts.append([name, list(maps.shape), hashlib.sha256(np.ascontiguousarray(maps).data).hexdigest()])
    return identity_of(parts)


def _stored(maps: StoredMaps) -> list[Any]:
    return [maps.folder.name, maps.path.name, list(maps.shape), "" if maps.rows is None else _digest(maps.rows)]


def _digest(rows: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows, np.int64).data).hexdigest()


@functools.cache
def code_identity() -> str:
    """Changes with the code of the detectors and with what they compute with; nobody has to remember to raise a number."""
    import torch

    import aoi.detect

    sources = sorted(Path(aoi.detect.__file__).parent.glob("*.py"))
    digest = hashlib.sha256(repr((aoi.__version__, torch.__version__, np.__version__, torch.backends.cpu.get_cpu_capability())).encode())
    for source in sources:
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


def content_identity(value: object) -> Any:
    """Stands for a feature set or an array, JSON-ready; other values stand for themselves."""
    if isinstance(value, FeatureSet):
        return features_identity(value)
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()]
    return value
