"""What is measured: cases, their sizes, who takes part, how often, and what was asked of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

RIVAL = "anomalib"
START = {"anomalib": 15.0, "aoi": 5.0, "torch": 5.0}
"""Seconds of a process that are not measured: imports, warm-up."""
INVERSES = "not run: 5 GB of covariances, as much again of inverses, and the embedding beside them"
SLOW = 60.0
"""What takes longer is run fewer times."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a case has to reach, measured at one of its headlines."""

    words: str
    kind: str
    """`faster` than anomalib by a factor; at most so many `seconds`; `rate` in images/s at least; memory at most this share of anomalib's
    (`memory`) or of the input (`input`), or so many GiB (`gigabytes`)."""
    value: float
    side: str = "aoi"


@dataclass(frozen=True, slots=True)
class Point:
    """One case at one size."""

    case: str
    title: str
    values: dict[str, Any]
    sides: dict[str, float]
    """Who takes part, and about how many seconds of work it is on two cores."""
    not_run: dict[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    """Where its input lies; no part of what it is."""
    targets: tuple[Target, ...] = ()
    rounds: int = 5

    def key(self, side: str) -> str:
        """Its name in the store: nothing of it changes with the code that is measured."""
        return f"{self.case} {json.dumps(self.values, sort_keys=True)} {side}"

    def rounds_of(self, side: str) -> int:
        """Measurements of one side."""
        return min(self.rounds, 3) if self.sides[side] > SLOW else self.rounds


@dataclass(frozen=True, slots=True)
class Series:
    """One case at several sizes of one thing."""

    axis: str
    """Key in `values`."""
    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """Everything about one operation."""

    name: str
    title: str
    text: str
    headlines: tuple[Point, ...]
    series: tuple[Series, ...] = ()

    def points(self) -> list[Point]:
        """All of them, each once; where two say the same, the first counts."""
        found: dict[str, Point] = {}
        for point in (*self.headlines, *(point for series in self.series for point in series.points)):
            found.setdefault(point.key(""), point)
        return list(found.values())

    def without(self, sides: Iterable[str]) -> Case:
        """The same with fewer sides."""
        left_out = set(sides)

        def fewer(points: Iterable[Point]) -> tuple[Point, ...]:
            return tuple(replace(p, sides={side: cost for side, cost in p.sides.items() if side not in left_out}) for p in points)

        series = tuple(replace(each, points=fewer(each.points)) for each in self.series)
        return replace(self, headlines=fewer(self.headlines), series=series)


def spaced(number: int) -> str:
    """Thousands apart."""
    return f"{number:,}".replace(",", "\u2009")


def coreset_point(count: int, k: int, sides: Iterable[str], *, depth: int = 384, rounds: int = 3, **more: Any) -> Point:
    """Greedy k-center of `k` of `count` points; anomalib and the plain form make k passes over all points."""
    work = float(count) * k * depth
    seconds = {"anomalib": 2e-9 * work, "torch": 4e-10 * work, "aoi": 0.1 + 2e-11 * work, "aoi float32": 0.1 + 4e-11 * work}
    title = f"{spaced(count)} × {depth}, {spaced(k)} chosen ({100 * k / count:.3g} %)"
    values = {"count": count, "k": k, "depth": depth}
    return Point("coreset", title, values, {side: seconds[side] for side in sides}, rounds=rounds, **more)


def coreset_case(*, quick: bool) -> Case:
    """Selection of a memory bank."""
    every = ("anomalib", "torch", "aoi", "aoi float32")
    text = (
        "Greedy k-center selection of a PatchCore's memory bank from all patch features of the good images. anomalib selects in a random "
        "projection of the features, the others in the features themselves; every radius is taken in the features themselves."
    )
    if quick:
        small = tuple(coreset_point(n, 60, every[::2], depth=32, rounds=2) for n in (1000, 2000, 4000))
        head = coreset_point(2000, 60, every, depth=32, rounds=2, not_run={"a rival": "not run: to show how that looks"})
        return Case("coreset", "Coreset", text, (head,), (Series("count", "points N", small),))
    long = "not run: too many passes over too many points"
    heads = (
        coreset_point(51_200, 5120, every, rounds=5, targets=(Target("at least 100 times as fast as anomalib", "faster", 100),)),
        coreset_point(218_112, 2181, every, rounds=5, targets=(Target("at least 60 times as fast as anomalib", "faster", 60),)),
        coreset_point(
            218_112, 21_811, every[2:], rounds=5, not_run={"anomalib": long, "torch": long},
            targets=(
                Target("at most 25 s with bf16 products", "seconds", 25),
                Target("at most 60 s without", "seconds", 60, "aoi float32"),
                Target("memory at most 1.2 times the embeddings", "input", 1.2),
            ),
        ),
    )  # fmt: skip
    sizes = tuple(coreset_point(n, 1024, every if n <= 51_200 else every[1:]) for n in (12_800, 25_600, 51_200, 102_400, 204_800))
    ks = tuple(coreset_point(51_200, k, every) for k in (256, 512, 1024, 2048, 4096))
    return Case("coreset", "Coreset", text, heads, (Series("count", "points N", sizes), Series("k", "chosen points k", ks)))


def search_point(bank: int, queries: int, sides: Iterable[str], *, depth: int = 384, **more: Any) -> Point:
    """Nearest of `bank` features to `queries`."""
    work = float(bank) * queries * depth
    seconds = {"anomalib": 2e-11 * work, "torch": 2e-11 * work, "aoi": 4e-12 * work, "aoi float32": 1.5e-11 * work}
    title = f"bank of {spaced(bank)} × {depth}, {spaced(queries)} queries"
    return Point("search", title, {"bank": bank, "queries": queries, "depth": depth}, {side: seconds[side] for side in sides}, **more)


def search_case(*, quick: bool) -> Case:
    """Distance of patches to the bank."""
    every = ("anomalib", "torch", "aoi", "aoi float32")
    text = "Distance of every patch to its nearest feature of the memory bank. The bank is prepared before the clock starts."
    if quick:
        banks = tuple(search_point(m, 500, every[::2], depth=32, rounds=2) for m in (500, 1000, 2000))
        return Case("search", "Search", text, banks[:1], (Series("bank", "bank size M", banks),))
    head = search_point(21_811, 8192, every, targets=(Target("at least 5 times as fast as anomalib", "faster", 5),))
    banks = tuple(search_point(m, 4096, every, rounds=3) for m in (2726, 5453, 10_906, 21_811, 43_622))
    return Case("search", "Search", text, (head,), (Series("bank", "bank size M", banks),))


def padim_point(
    images: int, dims: int, side_px: int, sides: Iterable[str], channels: tuple[int, int, int] = (64, 128, 256), **more: Any
) -> Point:
    """Gaussians of `images` images of `side_px` pixels, a grid cell every 4."""
    positions = (side_px // 4) ** 2
    work = float(positions) * dims * dims * (images + dims)
    seconds = {"anomalib": 1.5e-9 * work, "aoi": 1e-10 * work, "aoi from disk": 2e-10 * work}
    title = f"{images} images of {side_px} px, {dims} dimensions"
    values = {"images": images, "dims": dims, "side": side_px, "channels": list(channels)}
    return Point("padim", title, values, {side: seconds[side] for side in sides}, **more)


def padim_case(*, quick: bool) -> Case:
    """Fit of PaDiM."""
    both, disk = ("anomalib", "aoi"), ("aoi from disk",)
    text = (
        "PaDiM's fit from feature maps of ResNet-18's shapes (Wide ResNet-50's for 550 dimensions) in memory to Gaussians: channels "
        "picked, brought to one grid, means, covariances, inverses. `aoi from disk` reads the maps from files within the measurement, as "
        "`aoi detect fit` does where they do not fit."
    )
    if quick:
        sizes = tuple(padim_point(12, 8, side, both, (8, 8, 8), rounds=2) for side in (32, 64, 128))
        return Case("padim", "PaDiM", text, sizes[:1], (Series("side", "image side, pixels", sizes),))
    heads = (
        padim_point(
            213, 100, 256, both + disk,
            targets=(
                Target("at least 5 times as fast as anomalib", "faster", 5),
                Target("a third of anomalib's memory", "memory", 1 / 3, "aoi from disk"),
            ),
        ),
        padim_point(
            213, 550, 256, disk, (256, 512, 1024), rounds=3, not_run={"anomalib": INVERSES},
            targets=(Target("at most 6 GB of memory", "gigabytes", 6, "aoi from disk"),),
        ),
        padim_point(
            640, 550, 256, disk, (256, 512, 1024), rounds=3, not_run={"anomalib": INVERSES},
            targets=(Target("at most 6 GB of memory", "gigabytes", 6, "aoi from disk"),),
        ),
    )  # fmt: skip
    sizes = tuple(padim_point(128, 100, side, both, rounds=3) for side in (64, 128, 192, 256))
    counts = tuple(padim_point(images, 100, 128, both, rounds=3) for images in (32, 64, 128, 256, 512))
    return Case("padim", "PaDiM", text, heads, (Series("side", "image side, pixels", sizes), Series("images", "images", counts)))


def aupro_point(images: int, side_px: int, sides: Iterable[str], **more: Any) -> Point:
    """AUPRO of `images` maps of `side_px` pixels squared, half of them with a defect."""
    work = float(images) * side_px**2
    seconds = {"anomalib": 5e-7 * work, "aoi": 2e-8 * work, "aoi streamed": 6e-8 * work}
    title = f"{images} maps of {side_px} × {side_px}"
    return Point("aupro", title, {"images": images, "side": side_px}, {side: seconds[side] for side in sides}, **more)


def aupro_case(*, quick: bool) -> Case:
    """The dearest metric."""
    every = ("anomalib", "aoi", "aoi streamed")
    text = (
        "AUPRO up to a false positive rate of 0.3, exact. `aoi streamed` counts scores in bins instead, in memory that does not grow with "
        "the maps, with a bound on its error (`aoi.metrics.streaming`)."
    )
    if quick:
        sizes = tuple(aupro_point(6, side, every, rounds=2) for side in (32, 64, 128))
        return Case("aupro", "AUPRO", text, sizes[:1], (Series("side", "map side, pixels", sizes),))
    head = aupro_point(100, 512, every, targets=(Target("at least 10 times as fast as anomalib", "faster", 10),))
    sizes = tuple(aupro_point(100, side, every, rounds=3) for side in (64, 128, 256, 512))
    counts = tuple(aupro_point(images, 256, every, rounds=3) for images in (25, 50, 100, 200))
    return Case("aupro", "AUPRO", text, (head,), (Series("side", "map side, pixels", sizes), Series("images", "maps", counts)))
