"""What the three quick checks found, and how it is told."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

MIN_SENTENCE_RATIO = 0.5
"""Other words must change at least this share of what other noise changes."""
MIN_SPEARMAN = 0.8


@dataclass(frozen=True, slots=True)
class SentenceCheck:
    """Same image, same noise, other words."""

    between_sentences: float
    """Mean distance over the pixels that either result changed, in CIELAB units (LPIPS where asked for)."""
    between_seeds: float
    """The same for one sentence and other noise."""
    ratio: float
    passed: bool


@dataclass(frozen=True, slots=True)
class SeverityCheck:
    """Same image, same noise, same outline, ten strengths."""

    strengths: tuple[float, ...]
    changes: tuple[float, ...]
    """Mean change over the outline for each strength, over all images, in CIELAB units."""
    spearman: float
    """Rank correlation of the two."""
    worst_spearman: float
    """The smallest of the single images."""
    passed: bool


@dataclass(frozen=True, slots=True)
class PlaceCheck:
    """Nine places on each image."""

    tried: int
    landed: int
    """Defects whose centroid lies in the box of the place that was named."""
    empty: int
    """Defects that changed nothing."""
    pixels_off_the_part: int
    """Changed pixels outside the foreground, over all defects."""
    missed: int
    """Places that have no pixel of the part, so that nothing was tried there."""
    passed: bool


@dataclass(frozen=True, slots=True)
class ChecksReport:
    """What the three checks found."""

    generator: str
    images: int
    sentences: SentenceCheck
    severity: SeverityCheck
    places: PlaceCheck

    @property
    def passed(self) -> bool:
        """All three."""
        return self.sentences.passed and self.severity.passed and self.places.passed

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"passed": self.passed}

    def summary(self) -> str:
        """For people."""
        words, severity, places = self.sentences, self.severity, self.places
        said = [
            f"{_verdict(words.passed)}  words matter: other sentences change {words.between_sentences:.2f}, other noise "
            f"{words.between_seeds:.2f} (ratio {words.ratio:.2f}, at least {MIN_SENTENCE_RATIO})",
            f"{_verdict(severity.passed)}  severity rises: Spearman {severity.spearman:.2f} over {len(severity.strengths)} strengths "
            f"(at least {MIN_SPEARMAN}; single images from {severity.worst_spearman:.2f})",
            f"{_verdict(places.passed)}  places are kept: {places.landed} of {places.tried} landed where they were named, "
            f"{places.pixels_off_the_part} pixels off the part",
        ]
        return "\n".join([f"{self.generator} on {self.images} images", *said])


def _verdict(passed: bool) -> str:
    return "pass" if passed else "FAIL"
