"""How far an export is from the run it was made of, on real images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aoi.data.images import read_image, resize_image
from aoi.data.layouts import open_dataset
from aoi.data.sources import open_images
from aoi.detect.detector import Scores
from aoi.detect.runtime.export_folder import ExportFolder, Manifest
from aoi.detect.verdict import Thresholds
from aoi.errors import AoiError, DataError

IMAGES = 16
"""Images that are compared."""

Compute = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""n×H×W×3 uint8 to raw maps n×H×W float32 and image scores n."""


@dataclass(frozen=True, slots=True)
class Parity:
    """One way to run an export against the run itself."""

    way: str
    """`network`: the exported file alone; `aoi`: what `aoi detect run` does with it."""
    arithmetic: str
    map_max_error: float
    """Largest absolute difference of any pixel of any map, on the scale of the raw scores."""
    map_mean_error: float
    score_max_error: float
    verdicts_changed: int
    """Images whose OK or NG differs at the image threshold."""
    pixels_changed: float
    """Share of pixels on the other side of the pixel threshold."""
    num_images: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def summary(self) -> str:
        """A line."""
        return (
            f"{self.way:>7} {self.arithmetic}: map {self.map_max_error:.2e} (mean {self.map_mean_error:.1e}), "
            f"score {self.score_max_error:.2e}, {self.verdicts_changed} of {self.num_images} verdicts changed"
        )


def parity_images(named: str | Path | None, dataset: str) -> list[Path]:
    """Up to `IMAGES` real images, spread evenly over those named, or else over the test images of the run's data set.

    Raises:
        DataError: there are none.
    """
    if named is not None:
        path = Path(named)
        tests = [sample.path for sample in open_dataset(path).test] if path.is_dir() and (path / "test").is_dir() else []
        found = tests or open_images(named)
    else:
        try:
            samples = open_dataset(Path(dataset))
        except AoiError as error:
            raise DataError(
                f"the run's data set is not there to compare with: {error.message}", hint="name real images of the part with --images"
            ) from error
        found = [sample.path for sample in samples.test or samples.train_good]
    places = np.linspace(0, len(found) - 1, min(IMAGES, len(found))).round().astype(int)
    return [found[place] for place in places]


def read_pixels(paths: Sequence[Path], size: tuple[int, int]) -> np.ndarray:
    """Images at the network's size, N×H×W×3 uint8.

    Raises:
        DataError: one cannot be read.
    """
    return np.stack([resize_image(read_image(path), size) for path in paths])


def compare(way: str, arithmetic: str, compute: Compute, pixels: np.ndarray, reference: Scores, thresholds: Thresholds) -> Parity:
    """Run `compute` on the pixels, four images at a time, against the reference."""
    maps, scores = np.empty_like(reference.maps), np.empty_like(reference.image_scores)
    for start in range(0, len(pixels), 4):
        part = slice(start, start + 4)
        maps[part], scores[part] = compute(pixels[part])
    difference = np.abs(maps.astype(np.float64) - reference.maps)
    level, pixel_level = thresholds.image_threshold, thresholds.pixel_threshold
    return Parity(
        way=way,
        arithmetic=arithmetic,
        map_max_error=float(difference.max()),
        map_mean_error=float(difference.mean()),
        score_max_error=float(np.abs(scores - reference.image_scores).max()),
        verdicts_changed=int(((scores > level) != (reference.image_scores > level)).sum()),
        pixels_changed=float(((maps > pixel_level) != (reference.maps > pixel_level)).mean()),
        num_images=len(pixels),
    )


def measure(folder: ExportFolder, manifest: Manifest, pixels: np.ndarray, reference: Scores, thresholds: Thresholds) -> tuple[Parity, ...]:
    """Every way to run this export here: the file alone, and what `aoi detect run` makes of it in each arithmetic there is."""
    if manifest.format == "torchscript":
        return (compare("network", "fp32", _torchscript(folder), pixels, reference, thresholds),)
    from aoi.detect.runtime.predictor import open_engine

    ways = [("network", "fp32", False), ("aoi", "fp32", True)] if manifest.search else [("aoi", "fp32", True)]
    if manifest.format == "onnx":
        ways = [("aoi", "fp32", True)]
    else:
        from aoi.detect.runtime.openvino_engine import has_bf16, open_core

        ways += [("aoi", "bf16", True)] if has_bf16(open_core()) else []
    found = []
    for way, arithmetic, cut in ways:
        engine = open_engine(folder, manifest, arithmetic=arithmetic, workers=1, cut=cut)

        def in_batches(images: np.ndarray, engine: Any = engine) -> tuple[np.ndarray, np.ndarray]:
            parts = [engine.scores(images[start : start + engine.batch]) for start in range(0, len(images), engine.batch)]
            return np.concatenate([maps for maps, _ in parts]), np.concatenate([scores for _, scores in parts])

        found.append(compare(way, arithmetic, in_batches, pixels, reference, thresholds))
    return tuple(found)


def _torchscript(folder: ExportFolder) -> Compute:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of a successor to TorchScript, which was asked for
        network = torch.jit.load(str(folder.network("torchscript")))  # type: ignore[no-untyped-call]

    def compute(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            maps, scores = network(torch.from_numpy(images))
        return maps.numpy(), scores.numpy()

    return compute
