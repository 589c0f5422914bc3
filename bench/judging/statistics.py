"""Does an arm help? Paired intervals, permutation p-values, Holm's correction, and what the test set could have shown at all.

The unit is the physical part: baseline and arm see the same images, so parts are resampled and exchanged as pairs, each with all its
images and for all seeds at once; where every image shows a part of its own, as is usual, the unit is the image. What differs between
seeds (training, the draw of the defects) adds its own spread, with as few degrees of freedom as there are seeds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from aoi.bench.judging.p_values import exchange_p, t_quantile, with_freedom
from aoi.bench.judging.resampling import Evidence, Rows, bootstrap_weights

Verdict = Literal["helps", "hurts", "cannot tell"]
RESAMPLES = 2000
EXCHANGES = 1999
FURTHER = 18000
"""Exchanges more where the first ones leave a p-value of `DOUBT` or less, for a correction over many arms asks for very small ones."""
DOUBT = 0.005
MANY = 30
"""Arms of a data set above which they are drawn: of fewer, the first ones can tell (at best .0015 with ten degrees of freedom)."""
LEVEL = 0.05
"""Intervals cover 1 - LEVEL; a verdict needs a corrected p-value at or below it."""
POWER = 0.8
"""At which the minimum detectable effect is stated."""
TYPE_RESAMPLES = 400
TYPE_METRICS = ("pixel_aupro", "image_auroc")
"""Metrics that are broken down by defect type."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One metric of one arm against the detector alone."""

    delta: float
    """Mean over seeds."""
    low: float
    high: float
    """The paired 95 % interval."""
    p: float
    """Two-sided, not corrected."""
    detectable: float | None
    """The smallest change this test set and these seeds would show with 80 % power, one comparison; None where none could be shown."""
    unchanged: bool
    """True where arm and baseline agree on every image: no hypothesis, hence not counted in the correction."""
    error: float = 0.0
    """Standard error of `delta`."""
    freedom: float = math.inf
    """Degrees of freedom of `error`."""
    least_p: float = 0.0
    """The smallest p-value that so many exchanges and so few seeds can give."""

    def among(self, arms: int) -> Finding:
        """The same with what would be shown of one arm of `arms`, corrected as if it were the only one that has an effect."""
        level = LEVEL / arms
        if self.least_p > level:
            return replace(self, detectable=None)
        return replace(self, detectable=min(1.0, self.error * (t_quantile(1 - level / 2, self.freedom) + t_quantile(POWER, self.freedom))))


UNCHANGED = Finding(0.0, 0.0, 0.0, 1.0, 0.0, True)


@dataclass(frozen=True, slots=True)
class TypeFinding:
    """One metric on good images and the images of one defect type; the interval is of the images alone and not corrected."""

    label: str
    n_images: int
    baseline: float
    value: float
    delta: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One arm at one seed with its metrics under every resample."""

    rows: Rows
    point: dict[str, np.ndarray]
    resampled: dict[str, np.ndarray]
    by_type: dict[str, dict[str, np.ndarray]]
    """By defect type: 1 + R values of each metric of `TYPE_METRICS`, all images first."""


@dataclass(eq=False)
class Court:
    """The resamples and exchanges of one test set, the same for every arm: comparisons stay paired and reproducible."""

    labels: Sequence[str]
    """The label of each test image, `good` or a defect type."""
    parts: Sequence[int] = ()
    """The physical part each image shows; empty where each shows its own."""
    good: str = "good"
    resamples: int = RESAMPLES
    exchanges: int = EXCHANGES
    further: int = 0
    """Exchanges more for p-values up to `DOUBT`. A p-value is below a level up to `DOUBT` only if it is so among all exchanges, and below
    a higher one only if it is so among the first: no level is exceeded more often than with either number alone."""
    seed: int = 0
    weights: np.ndarray = field(init=False)
    swaps: np.ndarray = field(init=False)
    units: np.ndarray = field(init=False)
    """T int64, the parts numbered from 0 as they first come."""

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 20170])
        names = [self.good, *sorted(set(self.labels) - {self.good})]
        strata = np.array([names.index(label) for label in self.labels])
        self.units = in_order(np.asarray(self.parts if len(self.parts) else np.arange(len(strata)), np.int64))
        self.weights = bootstrap_weights(strata, self.resamples, rng, self.units)
        self.swaps = rng.integers(0, 2, (self.exchanges, int(self.units.max(initial=-1)) + 1), dtype=np.uint8)[:, self.units]

    @property
    def types(self) -> tuple[str, ...]:
        """Defect types, sorted."""
        return tuple(sorted(set(self.labels) - {self.good}))

    @property
    def image_freedom(self) -> int:
        """Degrees of freedom of the spread over parts: those of the smaller class, Welch's lower bound for two samples.

        A part with defects of two types counts under each, as it is resampled.
        """
        shown = set(zip(self.labels, self.units.tolist(), strict=True))
        good = sum(label == self.good for label, _ in shown)
        return max(1, min(good - 1, len(shown) - good - len(self.types)))

    def side(self, evidence: Evidence, *, beside: Side | None = None, types: bool = True) -> Side:
        """Resample one arm at one seed.

        Args:
            evidence: its counts.
            beside: another arm at the same seed, such as the baseline: what both agree on is not computed again.
            types: also resample each defect type.
        """
        rows = Rows.of(evidence)
        point = rows.metrics(np.ones((1, len(self.labels))), None if beside is None else (beside.rows, beside.point))
        resampled = rows.metrics(self.weights, None if beside is None else (beside.rows, beside.resampled))
        everything = np.ones((1, len(self.labels)), np.float32)
        by_type = {}
        for label in self.types if types else ():
            kept = np.array([each in (self.good, label) for each in self.labels], np.float32)
            known = None if beside is None else (beside.rows, beside.by_type[label])
            found = rows.metrics(np.concatenate([everything, self.weights[:TYPE_RESAMPLES]]) * kept, known)
            by_type[label] = {name: found[name] for name in TYPE_METRICS}
        return Side(rows, point, resampled, by_type)

    def compare(self, before: Sequence[Side], after: Sequence[Side], exact: Mapping[str, Sequence[float | None]]) -> dict[str, Finding]:
        """Judge an arm.

        Args:
            before, after: baseline and arm, one for each seed, in the same order.
            exact: by metric, the exact change at each seed; the resamples, which count at fixed levels, are centred on it.

        Returns:
            By metric; without those that a seed leaves undefined.
        """
        swapped, more = self._exchanged(before, after, self.swaps), dict[str, np.ndarray]()
        found = {}
        for name, deltas in exact.items():
            known = [delta for delta in deltas if delta is not None]
            if len(known) < len(before) or name not in before[0].point:
                continue
            spread = np.stack(
                [new.resampled[name] - old.resampled[name] for old, new in zip(before, after, strict=True)]
            )  # fmt: skip
            grid = np.array([float(new.point[name][0] - old.point[name][0]) for old, new in zip(before, after, strict=True)])
            if np.isfinite(spread).all() and np.isfinite(grid).all():
                null = swapped.get(name, np.zeros(1))
                found[name] = self._finding(np.array(known), grid, spread, null)
                if self.further and found[name].p <= DOUBT:
                    more = more or self._exchanged(before, after, self._further_swaps)
                    found[name] = self._finding(np.array(known), grid, spread, np.concatenate([null, more[name]]))
        return found

    @functools.cached_property
    def _further_swaps(self) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 20172])
        return rng.integers(0, 2, (self.further, int(self.units.max(initial=-1)) + 1), dtype=np.uint8)[:, self.units]

    def _exchanged(self, before: Sequence[Side], after: Sequence[Side], swaps: np.ndarray) -> dict[str, np.ndarray]:
        """The mean change over seeds when images change sides at random; nothing where arm and baseline agree."""
        found: dict[str, np.ndarray] = {}
        for old, new in zip(before, after, strict=True):
            first, second = old.rows.exchanged(new.rows, swaps)
            for name in first:
                found[name] = found.get(name, 0.0) + (second[name] - first[name]) / len(before)
        return found

    def _finding(self, deltas: np.ndarray, grid: np.ndarray, spread: np.ndarray, swapped: np.ndarray) -> Finding:
        delta = float(deltas.mean())
        if not np.any(deltas) and not np.any(spread):
            return UNCHANGED
        rng = np.random.default_rng([self.seed, 20171])
        noise = SeedNoise.of(deltas)
        images = spread.mean(0) - grid.mean() + delta
        variance = float(images.var(ddof=1))
        freedom = noise.freedom(variance, self.image_freedom)
        drawn = images + noise.resampled(len(images), rng)
        wider = t_quantile(1 - LEVEL / 2, freedom) / t_quantile(1 - LEVEL / 2, np.inf)
        ends = (delta + (float(np.quantile(drawn, q)) - delta) * wider for q in (LEVEL / 2, 1 - LEVEL / 2))
        low, high = (min(1.0, max(-1.0, end)) for end in ends)  # every metric lies in 0-1, so does no change leave -1 to 1
        error = float(np.sqrt(variance + noise.variance))
        null = swapped + rng.normal(size=len(swapped)) * np.sqrt(noise.variance)
        # Of a few parts there are few exchanges, however many are drawn; what differs between seeds blurs them.
        fewest = 0.0 if noise.variance else 2.0 ** (1 - len(set(self.units.tolist())))
        least = max(exchange_p(np.inf, np.zeros(self.exchanges + self.further), freedom), with_freedom(fewest, freedom))
        return Finding(delta, low, high, exchange_p(delta, null, freedom), None, False, error, freedom, least).among(1)

    def by_type(self, before: Sequence[Side], after: Sequence[Side], metric: str) -> tuple[TypeFinding, ...]:
        """The change of one metric for each defect type, good images common to all."""
        found = []
        for label in self.types:
            old = np.mean([side.by_type[label][metric] for side in before], axis=0)
            new = np.mean([side.by_type[label][metric] for side in after], axis=0)
            if np.isfinite(old).all() and np.isfinite(new).all():
                low, high = np.quantile((new - old)[1:], (LEVEL / 2, 1 - LEVEL / 2))
                count = sum(each == label for each in self.labels)
                found.append(TypeFinding(label, count, float(old[0]), float(new[0]), float(new[0] - old[0]), float(low), float(high)))
        return tuple(found)


def in_order(parts: np.ndarray) -> np.ndarray:
    """The same groups (T int) numbered from 0 as they first come: images that stand alone keep their old resamples and exchanges."""
    _, first, which = np.unique(parts, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[which]


@dataclass(frozen=True, slots=True, eq=False)
class SeedNoise:
    """What the choice of seeds adds to the mean change."""

    deviations: np.ndarray
    """S, the change at each seed less their mean."""
    variance: float
    """Of the mean over seeds."""

    @classmethod
    def of(cls, deltas: np.ndarray) -> SeedNoise:
        """With one seed nothing is known of it: the interval is then one for this seed."""
        count = len(deltas)
        return cls(deltas - deltas.mean(), float(deltas.var(ddof=1) / count) if count > 1 else 0.0)

    def freedom(self, images: float, image_freedom: int) -> float:
        """Degrees of freedom of the sum of both variances (Satterthwaite, Biometrics Bulletin 1946)."""
        bottom = images**2 / image_freedom + (self.variance**2 / (len(self.deviations) - 1) if len(self.deviations) > 1 else 0.0)
        return float((images + self.variance) ** 2 / bottom) if bottom > 0 else np.inf

    def resampled(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Means of deviations drawn with replacement, brought to the unbiased variance."""
        seeds = len(self.deviations)
        if seeds < 2:
            return np.zeros(count)
        drawn = self.deviations[rng.integers(0, seeds, (count, seeds))].mean(1)
        return np.asarray(drawn * np.sqrt(seeds / (seeds - 1)))


def verdict(finding: Finding, p_holm: float, *, higher_is_better: bool) -> Verdict:
    """What may be said: the corrected p-value and the interval must agree."""
    if p_holm > LEVEL or finding.low <= 0 <= finding.high:
        return "cannot tell"
    return "helps" if (finding.delta > 0) == higher_is_better else "hurts"
