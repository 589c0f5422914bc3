"""How much there is to do in a plan, task by task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aoi.bench.anomalib.plan import TRAIN, model_of
from aoi.bench.anomalib.trial import Rates
from aoi.bench.arms import Arm, generator_slug, portions, synth_name
from aoi.bench.detectors import folds_for
from aoi.bench.forecast import Shared
from aoi.bench.material.grafts import DRAWN
from aoi.bench.material.miniature import Miniature
from aoi.bench.material.probe import probe_folder
from aoi.bench.material.taken import take
from aoi.bench.plan import Plan
from aoi.bench.plan_options import MIXED, REAL
from aoi.bench.portion import WATCHING, makers_of
from aoi.bench.scale import LEARNED, SEARCH, Step
from aoi.data.defect_pairs import MANIFEST
from aoi.data.parts import siblings
from aoi.data.sample import Dataset, Sample
from aoi.synth.preview import PREVIEW


@dataclass(slots=True)
class Load:
    """How much there is to do; real numbers are multiples of what the miniature did."""

    real: int = 0
    """Real images."""
    images: int = 0
    """Of these, those whose features are not in the cache."""
    defects: dict[str, int] = field(default_factory=dict)
    """By generator: still to be made."""
    featured: int = 0
    """Defects through the backbone."""
    learned: float = 0.0
    """Detectors and their folds fitted, anomalib's apart."""
    scored: float = 0.0
    """Detectors' scores of all images, anomalib's apart."""
    trained: dict[str, float] = field(default_factory=dict)
    """By detector of anomalib's: seconds of its trainings and of what it is asked."""
    arms: dict[str, float] = field(default_factory=dict)
    """By coupling."""
    counted: float = 0.0
    """Arms' maps counted for the statistics."""
    block: int = 0
    """Defects that are read at a time, at most."""
    good: int = 0
    """Good images that are learned at a time, at most."""
    mapped: int = 0
    """Images whose maps are in memory at a time, at most."""

    def __add__(self, other: Load) -> Load:
        return Load(
            self.real + other.real,
            self.images + other.images,
            {name: self.defects.get(name, 0) + other.defects.get(name, 0) for name in {**self.defects, **other.defects}},
            self.featured + other.featured,
            self.learned + other.learned,
            self.scored + other.scored,
            _sum(self.trained, other.trained),
            _sum(self.arms, other.arms),
            self.counted + other.counted,
            max(self.block, other.block),
            max(self.good, other.good),
            max(self.mapped, other.mapped),
        )


def _sum(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {**one, **other}}


def tested(dataset: Dataset, plan: Plan) -> tuple[Sample, ...]:
    """The test images without the parts that the plan takes out; images that show the same by their content are not looked for."""
    taken = {sample.path for sample in take(dataset.test, plan.real)} if plan.takes_out else set()
    parts = siblings(dataset.test, taken)
    return tuple(sample for sample in dataset.test if sample.path not in parts)


@dataclass(frozen=True, slots=True)
class Workload:
    """What arms of one data set need.

    Args:
        extracted: of the real images, how many have features in the cache.
        extracted_good: of the good ones to learn from.
        out: the ablation's folder.
        supply: by generator, defects that are there, real ones or from a folder: nothing is drawn for them.
        rates: of anomalib's detectors.
        normals, kept_normals: images of a folder of generated normals, and how many of them have features in the cache.
    """

    plan: Plan
    name: str
    dataset: Dataset
    mini: Miniature
    extracted: int
    out: Path
    supply: Mapping[str, int] = field(default_factory=dict)
    rates: Mapping[str, Rates] = field(default_factory=dict)
    normals: int = 0
    kept_normals: int = 0
    extracted_good: int = 0

    def of(self, step: Step, *, made: bool = False) -> Load:
        """What one task does.

        Args:
            made: other tasks have made the defects.
        """
        arms = list(step.wanted)
        if step.lot == LEARNED:
            good = len(self.dataset.train_good)
            return Load(real=good, images=good - self.extracted_good)
        if step.portion is None:
            images, extracted = self._test(arms), self.extracted - self.extracted_good
            return Load(real=images + self.normals, images=images - extracted + self.normals - self.kept_normals)
        load = Load(block=self._all(arms))
        for lot in () if made else self._lots(arms, *step.portion):
            if step.lot not in (None, WATCHING if lot.probe else lot.maker):
                continue
            load.featured += lot.wanted
            if not lot.given:
                load.defects[lot.maker] = load.defects.get(lot.maker, 0) + lot.wanted - lot.kept
        return load + self._computed(arms, step.portion[1]) if step.lot is None else load

    def _computed(self, arms: list[Arm], shots: int) -> Load:
        """Fits, scores and couplings of a portion."""
        # A search by itself finds the scores of the detector as it was.
        own = {arm.detector for arm in arms if model_of(arm.detector) is None and arm.coupling != SEARCH}
        good, detectors = shots or len(self.dataset.train_good), len(own)
        seen, mini = self._test(arms) + good + self._all(arms), self.mini
        mixed = self.plan.most if any(arm.generator == MIXED for arm in arms) else 0  # copies of maps that its parts were scored for
        load = Load(learned=detectors * good / mini.train, scored=detectors * seen / mini.images, good=good, mapped=seen + mixed)
        load.trained = {
            name: self._trained([arm for arm in arms if arm.detector == name], rates, good) for name, rates in self.rates.items()
        }
        for arm in arms:
            if arm.coupling != TRAIN:
                stage, amount = self._arm(arm, good)
                load.arms[stage] = load.arms.get(stage, 0.0) + amount
            load.counted += self._tested / mini.test
        return load

    def _trained(self, arms: list[Arm], rates: Rates, good: int) -> float:
        """Seconds of one of anomalib's detectors: trained on all good images, without each fold, and twice for each arm that teaches it."""
        if not arms:
            return 0.0
        plan, side, folds = self.plan.anomalib, self.plan.image_size, min(self.plan.anomalib.folds, good)
        alone = rates.trained(plan, side, good) + folds * rates.trained(plan, side, good - good // folds)
        asked = self._test(arms) + good + self._all(arms)
        taught = [arm for arm in arms if arm.coupling == TRAIN]
        again = rates.trained(plan, side, good) + rates.trained(plan, side, good - good // folds)
        return alone + len(taught) * again + rates.scored(side, asked + len(taught) * (self._tested + good // folds))

    def _arm(self, arm: Arm, good: int) -> tuple[str, float]:
        """Its stage, and how many times the miniature's work it is."""
        test, options, mini = self._tested, self.plan.segment, self.mini
        if arm.is_baseline:
            return "baseline", test / mini.test
        if arm.coupling in options.couplings:
            return arm.coupling, options.epochs * options.steps / mini.segment_steps
        lent = self.normals if arm.coupling == "normals" and self.normals else arm.amount or self.plan.most
        return arm.coupling, (test + good + lent) / mini.images

    def _test(self, arms: Iterable[Arm]) -> int:
        """Test images, each as often as something else was done to it."""
        return self._tested * len({arm.condition.degradation for arm in arms})

    @property
    def _tested(self) -> int:
        """Test images without the defects that are taken out."""
        return len(tested(self.dataset, self.plan))

    def _all(self, arms: list[Arm]) -> int:
        """Defects of a portion, the probe's among them."""
        return sum(map(self._amount, makers_of(self.plan, arms))) + len(self.plan.watchers(arms)) * self.plan.probe.count

    def _amount(self, maker: str) -> int:
        """Defects of one generator in a portion: of real ones all that were taken out, whatever the plan's amount."""
        most = self.plan.most
        return self.supply[REAL] if maker == REAL else min(most, self.supply.get(maker, most))

    def _lots(self, arms: list[Arm], seed: int, shots: int) -> list[_Lot]:
        plan, found = self.plan, []
        for maker in makers_of(plan, arms):
            if maker in self.supply:
                found.append(_Lot(maker, self._amount(maker), self._amount(maker), False, given=True))
                continue
            folder = self.out / "synth" / self.name / generator_slug(maker) / synth_name(seed, shots)
            found.append(_Lot(maker, plan.most, _on_disk(folder, plan.most), False))
        for maker in self.plan.watchers(arms):
            folder = probe_folder(self.out, self.name, maker, seed, shots)
            found.append(_Lot(maker, plan.probe.count, _on_disk(folder, plan.probe.count), True))
        return found

    def shared(self, arms: list[Arm]) -> list[Shared]:
        """What these arms have in common."""
        fits, lots = 0, []
        for seed, shots in portions(arms):
            block = [arm for arm in arms if (arm.seed, arm.condition.shots) == (seed, shots)]
            good = shots or len(self.dataset.train_good)
            fits += sum(1 + min(folds_for(name, self.plan), good) for name in {arm.detector for arm in block})
            lots += self._lots(block, seed, shots)
        real, name = len(self.dataset.train_good) + self._test(arms), self.name
        probe, given = [lot for lot in lots if lot.probe], [lot for lot in lots if lot.given]
        own = [lot for lot in lots if not lot.probe and not lot.given]
        watched = sum(self.plan.watched(arm.coupling) for arm in arms)
        fed = sum(arm.generator in self.supply for arm in arms)
        drawn = sum(not arm.is_baseline for arm in arms) - fed
        fed_normals = sum(arm.coupling == "normals" for arm in arms)
        return [
            *([_shared(f"{name}: defects of the probe, which vetoes choices, made", probe, watched)] if probe else []),
            Shared(f"{name}: real images through the backbone", real, self.extracted, len(arms)),
            *(
                [Shared(f"{name}: generated normals through the backbone", self.normals, self.kept_normals, fed_normals)]
                if self.normals
                else []
            ),
            *([_shared(f"{name}: defects made", own, drawn)] if own else []),
            *([_shared(f"{name}: defects that need no making, real or from a folder", given, fed)] if given else []),
            Shared(f"{name}: detectors fitted, on all good images and without each fold", fits, 0, len(arms)),
        ]


@dataclass(frozen=True, slots=True)
class _Lot:
    """Defects of one generator, seed and number of good images."""

    maker: str
    wanted: int
    kept: int
    """Of these, how many are there."""
    probe: bool
    """They veto choices."""
    given: bool = False
    """Nobody makes them."""


def _shared(what: str, lots: list[_Lot], used_by: int) -> Shared:
    return Shared(what, sum(lot.wanted for lot in lots), sum(lot.kept for lot in lots), used_by)


def _on_disk(folder: Path, wanted: int) -> int:
    """Of the defects that are wanted, those that need not be made: all of them where the folder is finished, were some given up or not."""
    if (folder / MANIFEST).is_file() or ((folder / PREVIEW).is_file() and any(folder.glob(f"{DRAWN}-*"))):
        return wanted
    return min(wanted, sum(1 for part in (folder, *folder.glob(f"{DRAWN}-*")) for _ in part.glob("test/*/*.png")))
