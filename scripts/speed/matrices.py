"""The sides of the cases that need no pictures: coreset, search, PaDiM's fit, AUPRO.

A side is a generator that stops three times: when its imports and a small warm-up are done, when its input is there, and when the work is
done, with what came out of it. The clock runs between the last two, memory is counted from the first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

Stages = Iterator[dict[str, Any] | None]
CHECKABLE = 5e11
"""Products in a covering radius that are worth the check."""


def patches(count: int, depth: int, device: str, seed: int = 0) -> torch.Tensor:
    """Embeddings with the structure of real ones: many clusters, few strong directions, faint variation; count×depth float32."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(40, depth, generator=torch.Generator().manual_seed(1000)) / 40**0.5
    centres = torch.randn(512, 40, generator=torch.Generator().manual_seed(1001)) * 2
    found = torch.empty(count, depth)
    for start in range(0, count, 8192):
        n = min(8192, count - start)
        which = torch.randint(512, (n,), generator=generator)
        strong = centres[which] + 0.5 * torch.randn(n, 40, generator=generator)
        found[start : start + n] = strong @ basis + 0.05 * torch.randn(n, depth, generator=generator)
    return found.to(device)


def plain_greedy(points: torch.Tensor, k: int) -> list[int]:
    """Gonzalez' algorithm as published, one pass over all points a choice, in float32."""
    norms = points.square().sum(1)
    last = torch.zeros((), dtype=torch.int64, device=points.device)
    chosen, distance = [last], torch.full((len(points),), torch.inf, device=points.device)
    while len(chosen) < k:
        distance = torch.minimum(distance, norms + norms[last] - 2 * (points @ points[last]))
        last = distance.argmax()
        chosen.append(last)
    return torch.stack(chosen).tolist()


def covering_radius(points: torch.Tensor, chosen: list[int]) -> float:
    """Largest distance of a point to its nearest chosen one."""
    centres = points[torch.tensor(chosen, device=points.device)]
    return max(float(torch.cdist(part, centres).amin(1).max()) for part in torch.split(points, 2048))


def coreset(side: str, values: dict[str, Any], device: str) -> Stages:
    count, k, depth = values["count"], values["k"], values["depth"]
    if side == "anomalib":
        from anomalib.models.components.sampling import KCenterGreedy

        def select(points: torch.Tensor, k: int) -> list[int]:
            # half a point more, so that its truncation of ratio · N gives k
            return KCenterGreedy(points, (k + 0.5) / len(points)).select_coreset_idxs()

    elif side == "torch":
        select = plain_greedy
    else:
        from aoi.detect.coreset import greedy_k_center

        def select(points: torch.Tensor, k: int) -> list[int]:
            return greedy_k_center(points, k, start=0, coarse=False if side == "aoi float32" else None).indices.tolist()

    select(patches(2000, depth, device, seed=1), 50)
    yield None
    points = patches(count, depth, device)
    yield None
    chosen = select(points, k)
    yield {
        "chosen": len(set(chosen)),
        "input_mb": points.nbytes / 2**20,
        "check": lambda: {**_radius(points, chosen), **arithmetic(side, device)},
    }


def arithmetic(side: str, device: str) -> dict[str, Any]:
    """What aoi takes its products in; the answer is the same."""
    if not side.startswith("aoi"):
        return {}
    from aoi.detect.precision import has_coarse_products

    coarse = side == "aoi" and has_coarse_products(torch.device(device))
    return {"products in": "bfloat16" if coarse else "float32"}


def _radius(points: torch.Tensor, chosen: list[int]) -> dict[str, Any]:
    if points.numel() * len(chosen) > CHECKABLE:
        return {}
    return {"covering radius": round(covering_radius(points, chosen), 5)}


def search(side: str, values: dict[str, Any], device: str) -> Stages:
    depth = values["depth"]
    if side == "anomalib":
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        def prepare(bank: torch.Tensor) -> Any:
            model = PatchcoreModel.__new__(PatchcoreModel)
            torch.nn.Module.__init__(model)
            model.memory_bank = bank
            return lambda queries: model.nearest_neighbors(queries, 1)[0]

    elif side == "torch":

        def prepare(bank: torch.Tensor) -> Any:
            return lambda queries: torch.cat([torch.cdist(part, bank).min(1).values for part in torch.split(queries, 2048)])

    else:
        from aoi.detect.neighbours import MemoryBank

        def prepare(bank: torch.Tensor) -> Any:
            found = MemoryBank(bank, coarse=False if side == "aoi float32" else None)
            return lambda queries: found.nearest(queries)[0]

    with torch.inference_mode():
        prepare(patches(600, depth, device, seed=2))(patches(600, depth, device, seed=3))
        yield None
        nearest, queries = prepare(patches(values["bank"], depth, device)), patches(values["queries"], depth, device, seed=1)
        yield None
        distance = nearest(queries)
        yield {"check": lambda: {"mean distance": round(float(distance.double().mean()), 6), **arithmetic(side, device)}}


def padim(side: str, values: dict[str, Any], device: str) -> Stages:
    shapes = [(channels, max(1, values["side"] // (4 << i))) for i, channels in enumerate(values["channels"])]
    if side == "anomalib":
        yield from _padim_anomalib(shapes, values, device)
        return
    from aoi.detect.detector import make_detector
    from aoi.detect.features import FeatureSet

    def fitted(maps: dict[str, Any], count: int, dims: int) -> Any:
        detector = make_detector("padim", {"dims": dims}, layers=tuple(maps), seed=0, device=device)
        detector.fit(FeatureSet(maps, (values["side"], values["side"]), tuple(Path(str(i)) for i in range(count))))
        return detector

    with tempfile.TemporaryDirectory(prefix="aoi-speed-") as place:
        fitted(feature_maps([(4, 8), (8, 4), (8, 2)], 4), 4, 6)
        yield None
        count = values["images"]
        maps = _stored(Path(place), shapes, count) if side == "aoi from disk" else feature_maps(shapes, count)
        yield None
        detector = fitted(maps, count, values["dims"])
        yield {"check": lambda: {"positions": detector.grid[0] * detector.grid[1]}}


def feature_maps(shapes: list[tuple[int, int]], count: int) -> dict[str, np.ndarray]:
    """Layer name to count×C×h×h float32 of noise around one, for (C, h) of each layer."""
    rng = np.random.default_rng(0)
    return {f"layer{i}": rng.standard_normal((count, c, h, h), np.float32) + np.float32(1) for i, (c, h) in enumerate(shapes, 1)}


def _stored(place: Path, shapes: list[tuple[int, int]], count: int) -> dict[str, Any]:
    """The same in files, written image by image."""
    from aoi.detect.feature_store import open_maps

    rng, layers = np.random.default_rng(0), {}
    for i, (channels, grid) in enumerate(shapes, 1):
        array = np.lib.format.open_memmap(place / f"{i}.npy", "w+", np.float32, (count, channels, grid, grid))
        for image in array:
            image[:] = rng.standard_normal(image.shape, np.float32) + 1
        array.flush()
        del array
        layers[f"layer{i}"] = open_maps(place / f"{i}.npy")
    return layers


def _padim_anomalib(shapes: list[tuple[int, int]], values: dict[str, Any], device: str) -> Stages:
    """What its training does with the feature maps of a batch, and then its fit."""
    from anomalib.models.components.stats import MultiVariateGaussian
    from anomalib.models.image.padim.torch_model import PadimModel

    model = PadimModel.__new__(PadimModel)
    torch.nn.Module.__init__(model)
    total = sum(channels for channels, _ in shapes)
    model.idx = torch.randperm(total, generator=torch.Generator().manual_seed(0))[: values["dims"]]
    model.layers = [f"layer{i}" for i in range(1, len(shapes) + 1)]
    MultiVariateGaussian().to(device).fit(torch.randn(4, 6, 8, 8, device=device))
    yield None
    maps = {name: torch.from_numpy(found).to(device) for name, found in feature_maps(shapes, values["images"]).items()}
    yield None
    batches = range(0, values["images"], 32)
    embedding = torch.vstack([model.generate_embedding({name: found[i : i + 32] for name, found in maps.items()}) for i in batches])
    _, inverse = MultiVariateGaussian().to(device).fit(embedding)
    yield {"check": lambda: {"positions": len(inverse)}}


def aupro(side: str, values: dict[str, Any], device: str) -> Stages:
    if side == "anomalib":
        from anomalib.metrics.aupro import _AUPRO

        def area(maps: np.ndarray, masks: np.ndarray) -> dict[str, Any]:
            metric = _AUPRO().to(device)
            metric.update(torch.from_numpy(maps).to(device), torch.from_numpy(masks.view(np.uint8)).to(device))
            return {"AUPRO": round(float(metric.compute()), 6)}

    elif side == "aoi streamed":
        from aoi.metrics.streaming import StreamedMaps

        def area(maps: np.ndarray, masks: np.ndarray) -> dict[str, Any]:
            seen = StreamedMaps()
            for start in range(0, len(maps), 8):
                seen.add(maps[start : start + 8], masks[start : start + 8])
            value, error = seen.aupro()
            return {"AUPRO": round(value, 6), "bound": f"{error:.1g}"}

    else:
        from aoi.metrics.pro import aupro as exact

        def area(maps: np.ndarray, masks: np.ndarray) -> dict[str, Any]:
            return {"AUPRO": round(float(exact(maps, masks)), 6)}

    area(*drawn_maps(2, 64))
    yield None
    maps, masks = drawn_maps(values["images"], values["side"])
    yield None
    found = area(maps, masks)
    yield {"check": lambda: found, "input_mb": (maps.nbytes + masks.nbytes) / 2**20}


def drawn_maps(images: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth noise within 0–1 and a defect in every other image; scores there are raised."""
    import cv2

    rng = np.random.default_rng(0)
    maps, masks = np.empty((images, side, side), np.float32), np.zeros((images, side, side), bool)
    for i in range(images):
        cv2.GaussianBlur(rng.random((side, side), np.float32), (0, 0), 4, dst=maps[i])
        if i % 2 == 0:
            y, x = rng.integers(0, side * 3 // 4, 2)
            masks[i, y : y + side // 8, x : x + side // 8] = True
    maps += 0.05 * masks
    return maps, masks
