"""One row of `manifest.jsonl`: what was asked for, what was drawn, what came out, and what was refused on the way."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Rejection:
    """One try that did not become an image."""

    attempt: int
    source: str
    cause: Literal["source", "place", "defect", "blocked"]
    """The good image cannot be read, the place misses its part, the defect failed verification, or a safety checker withheld it."""
    reason: str


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One defect, made or given up."""

    index: int
    accepted: bool
    reason: str | None
    """Why it was given up; None if it was made."""
    generator: str
    kind: str
    label: str
    place: str
    seed: tuple[int, int, int]
    """What the randomness was derived from: the batch's seed, the index, the attempt."""
    source: str
    """The good image, relative to the folder given."""
    source_sha256: str
    """Hash of the file's bytes."""
    source_pixels: str
    """Hash of its decoded pixels at full size: equal for the same picture in another lossless format."""
    parameters: dict[str, Any]
    """What the generator drew."""
    image: str | None = None
    """Relative to the output folder, as is `mask`."""
    mask: str | None = None
    image_sha256: str | None = None
    mask_sha256: str | None = None
    size: tuple[int, int] | None = None
    """Width and height in pixels."""
    mask_area: int = 0
    """Pixels."""
    foreground_fraction: float = 0.0
    """`mask_area` in relation to the part's area."""
    bbox: tuple[int, int, int, int] | None = None
    """x0, y0, x1, y1 in pixels, end-exclusive."""
    change: float = 0.0
    """Mean change inside the mask, in grey levels of 255."""
    rejections: tuple[Rejection, ...] = ()
    prompt: str = ""
    """The sentence as it was given."""
    prompt_sent: str = ""
    """What was sent to the text encoder."""
    notes: tuple[str, ...] = ()
    """What was not understood or not possible, and what was done instead."""
    model: str | None = None
    """The checkpoint that painted it; None where none did."""
    verification: dict[str, Any] | None = None
    """The numbers of `aoi.synth.verification.Verification`: of the defect if it was made, else of the last try."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)
