"""What a fit made and what it cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aoi.detect.approximate import SearchQuality
from aoi.detect.calibration import Expected
from aoi.detect.verdict import BadImage, Thresholds


@dataclass(frozen=True, slots=True)
class FitReport:
    """What a fit made and what it cost."""

    run: Path
    model: str
    category: str
    backbone: str
    backbone_source: str
    num_train: int
    thresholds: Thresholds
    seconds: dict[str, float]
    """`load`, `features`, `fit`, `thresholds` and `total`; `features` includes reading the images."""
    peak_memory_mb: float
    skipped: tuple[BadImage, ...]
    resumed: bool
    search: SearchQuality | None
    """What an approximate search misses; None where the search is exact."""
    expected: Expected | None = None
    """What the thresholds would have done to what they were chosen on; None where no defects are known."""
    num_different: int | None = None
    """How many different pictures the good images show; None in a run of an earlier version."""
    warnings: tuple[str, ...] = ()
    """Sentences for whoever reads the thresholds."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; the thresholds at the top level, as in `evaluate`."""
        features = self.seconds.get("features") or float("nan")
        return {
            "run": str(self.run),
            "model": self.model,
            "category": self.category,
            "backbone": self.backbone,
            "backbone_source": self.backbone_source,
            "num_train": self.num_train,
            "num_different": self.num_different,
            "image_threshold": self.thresholds.image_threshold,
            "pixel_threshold": self.thresholds.pixel_threshold,
            "threshold_source": self.thresholds.source,
            "num_defects": self.thresholds.num_defects,
            "expected": None if self.expected is None else asdict(self.expected),
            "seconds": self.seconds,
            "images_per_s": self.num_train / features,
            "peak_memory_mb": self.peak_memory_mb,
            "skipped": [bad.as_dict() for bad in self.skipped],
            "warnings": list(self.warnings),
            "resumed": self.resumed,
            "search": None if self.search is None else self.search.as_dict(),
        }

    def summary(self) -> str:
        """A few lines for people."""
        lines = [
            f"{self.model} on {self.category}: {self.num_train} good images, backbone {self.backbone} ({self.backbone_source})",
            f"image threshold {self.thresholds.image_threshold:.4g}, pixel threshold {self.thresholds.pixel_threshold:.4g} "
            f"({self.thresholds.source}, {self.thresholds.num_images} good images"
            + (f" and {self.thresholds.num_defects} known defects)" if self.thresholds.num_defects else ")"),
            *([] if self.expected is None else [self.expected.summary()]),
            *([] if self.search is None else [self.search.summary()]),
            "already fitted with these settings" if self.resumed else f"fitted in {self.seconds['total']:.1f} s",
            f"run folder: {self.run}",
        ]
        said = [f"skipped: {bad.reason}" for bad in self.skipped] + [f"warning: {line}" for line in self.warnings]
        return "\n".join([*said, *lines])
