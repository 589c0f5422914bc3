"""The arms of one seed and so many good images: defects are made once, detectors fitted once, and every arm kept as it is finished."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from aoi.bench.arms import Arm, cell_of, generator_slug, synth_name
from aoi.bench.cache.sharing import Sharing
from aoi.bench.cache.store import Reading
from aoi.bench.couplings.group import PROBE, Fits, Group, baseline
from aoi.bench.couplings.rules import RULES
from aoi.bench.detectors import folds_for, fresh_detector
from aoi.bench.heldout import LaterScores, cross_validate
from aoi.bench.ledger import WATCHED_BY
from aoi.bench.material.images import RealImages, SynthImages
from aoi.bench.material.mixture import Mixture, mixed_images
from aoi.bench.material.probe import probe_folder, probe_images
from aoi.bench.material.sizes import Sizes
from aoi.bench.material.sources import Place, defects
from aoi.bench.measure import arm_metrics
from aoi.bench.plan import TAUGHT, Plan
from aoi.bench.plan_checks import company_of
from aoi.bench.plan_options import MIXED, REAL, Candidate
from aoi.bench.state import Run
from aoi.detect.detector import Detector, Scores, detector_family
from aoi.detect.features import FeatureSet, extract_features

BANK = "coreset_ratio"
"""The option that says how large a bank is."""

WATCHING = "those that watch"
"""The lot of defects that may veto choices, of whichever generator."""


def run_seed(run: Run, tests: Mapping[str, RealImages], seed: int, shots: int, wanted: list[Arm], identities: Mapping[Arm, str]) -> None:
    """The arms of one seed and so many good images: defects are made once and serve every detector, coupling and degradation.

    Args:
        tests: the real images by degradation.
    """
    tests = {name: real.with_shots(shots, seed) for name, real in tests.items()}
    sharing = Sharing(run.cache, device=run.backbone.device, clock=run.clock)
    with run.cache.reading() as cache:
        real = next(iter(tests.values()))
        synth = {maker: _drawn(run, real, seed, shots, maker, cache) for maker in makers_of(run.plan, wanted)}
        probes = _probes(run, real, seed, shots, wanted, cache)
        train = real.train
        drawn = [images.features for images in (*synth.values(), *probes.values())]
        if any(arm.generator == MIXED for arm in wanted):
            synth[MIXED] = _mixed(run, real, synth, seed, shots)
        sizes = Sizes([train, *(real.test for real in tests.values()), *drawn], partial(_extract, run, cache))
        needed = {name: tests[name] for name in dict.fromkeys(arm.condition.degradation for arm in wanted)}

        @functools.cache
        def groups(detector: str) -> dict[str, Group]:
            found = _groups(run, needed, synth, probes, detector, seed, sharing, sizes)
            other = company_of(detector, run.plan.detectors)
            return found if other is None else {name: replace(each, company=partial(company, other, name)) for name, each in found.items()}

        def company(detector: str, degradation: str) -> Group:
            return groups(detector)[degradation]

        for detector in run.plan.detectors:
            for arm in (arm for arm in wanted if arm.detector == detector):
                _run_arm(run, groups(detector)[arm.condition.degradation].with_first(arm.amount, arm.generator), arm, identities[arm])


def makers_of(plan: Plan, arms: Iterable[Arm]) -> list[str]:
    """The generators whose defects these arms need, of a mixture its parts; the probe's left out."""
    arms = list(arms)
    judges = [*plan.judges] if any(arm.coupling in TAUGHT for arm in arms) else []
    judges += [REAL] if any(map(plan.judged_by_real, arms)) else []
    return list(dict.fromkeys([*(kind for arm in arms if not arm.is_baseline for kind in plan.kinds(arm.generator)), *judges]))


def lots_of(plan: Plan, arms: Sequence[Arm]) -> list[str]:
    """What defects a portion needs, in lots that may be made by themselves: one for each generator, and `WATCHING`."""
    return [*makers_of(plan, arms), *([WATCHING] if plan.watchers(arms) else [])]


def make_defects(run: Run, tests: Mapping[str, RealImages], seed: int, shots: int, wanted: list[Arm], lot: str) -> None:
    """One lot of defects that `wanted` may need and their features, for whoever computes these arms afterwards with the same cache.

    Args:
        lot: of `lots_of`; nothing is done where `wanted` has no use for it.
    """
    if lot not in lots_of(run.plan, wanted):
        return
    real = next(iter(tests.values())).with_shots(shots, seed)
    with run.cache.reading() as cache:
        if lot == WATCHING:
            _probes(run, real, seed, shots, wanted, cache)
        else:
            _drawn(run, real, seed, shots, lot, cache)


def _mixed(run: Run, real: RealImages, synth: Mapping[str, SynthImages], seed: int, shots: int) -> SynthImages:
    """The mixture of what other generators drew."""
    with run.timed(f"synth {MIXED}"):
        folder = run.out / "synth" / real.name / MIXED / synth_name(seed, shots)
        found = mixed_images(real, synth, run.plan.kinds(MIXED), run.plan.most, folder)
        run.notes.keep(real.name, MIXED, (seed, shots), said=found.said)
    return found


def _drawn(run: Run, real: RealImages, seed: int, shots: int, generator: str, cache: Reading) -> SynthImages:
    """The defects of a generator, made or found."""
    with run.timed(f"synth {generator}"):
        folder = run.out / "synth" / real.name / generator_slug(generator) / synth_name(seed, shots)
        place, elsewhere = Place(generator, seed, folder, cache), run.elsewhere.get((real.name, generator))
        found = defects(real, place, run.backbone, run.plan, elsewhere, progress=run.progress)
        run.notes.keep(real.name, generator, (seed, shots), said=found.said, near=found.near)
    return found


def _probes(run: Run, real: RealImages, seed: int, shots: int, wanted: list[Arm], cache: Reading) -> dict[str, SynthImages]:
    """What choices are watched with, by generator; without those that find nothing to make a defect of."""
    found = {}
    for generator in run.plan.watchers(wanted):
        with run.timed("probe"):
            folder = probe_folder(run.out, real.name, generator, seed, shots)
            found[generator] = probe_images(real, generator, seed, folder, run.backbone, run.plan, cache, progress=run.progress)
    return {name: images for name, images in found.items() if images is not None}


def _groups(
    run: Run,
    tests: Mapping[str, RealImages],
    synth: dict[str, SynthImages],
    probes: dict[str, SynthImages],
    detector: str,
    seed: int,
    sharing: Sharing,
    sizes: Sizes,
) -> dict[str, Group]:
    """By degradation what arms share: the detector is fitted once."""
    layers = run.layers[detector]

    def fresh() -> Detector:
        return fresh_detector(detector, run.plan, run.backbone, layers=layers, seed=seed)

    def shared() -> Detector:
        return sharing.detector(fresh(), layers)

    train = next(iter(tests.values())).train.only(layers)
    fitted = shared()
    with run.timed("test scores"):
        fitted.fit(train)

    def tested(real: RealImages) -> Scores:
        with run.timed("test scores"):
            return fitted.score(real.test.only(layers), progress=run.progress)

    every = synth | {PROBE.format(name): images for name, images in probes.items()}
    drawn = {name: (images.features.only(layers), images.sources) for name, images in every.items() if name != MIXED}
    timed = partial(run.timed, "held-out scores")
    held_out = cross_validate(shared, train, drawn, folds=folds_for(detector, run.plan), seed=seed, timed=timed, progress=run.progress)
    if MIXED in synth:
        alone = held_out.synth
        mixed = LaterScores(lambda: Mixture.of(synth, run.plan.kinds(MIXED), run.plan.most).scores(alone))
        held_out = replace(held_out, synth={**alone, MIXED: mixed})
    fits = Fits(fresh, train, held_out.fold, None if layers else fitted, fit=lambda made, images: sharing.fitted(made, layers, images))
    make = partial(_variant, run, detector, seed, sharing, sizes)
    return {
        name: Group(
            real,
            synth,
            LaterScores(partial(tested, real)),
            held_out,
            run.head_layers,
            detector,
            make,
            fits,
            seed,
            run.plan,
            sharing,
            probes,
        )
        for name, real in tests.items()
    }


def _variant(
    run: Run, detector: str, seed: int, sharing: Sharing, sizes: Sizes, candidate: Candidate
) -> tuple[Detector, Callable[[FeatureSet], FeatureSet]]:
    """A detector with a candidate's settings, without smoothing, and what it reads of images."""
    layers = run.backbone.layers_for(candidate.strides or detector_family(detector).strides)
    options = {**run.plan.options.get(detector, {}), **candidate.options, "blur_sigma": 0}
    made = fresh_detector(detector, run.plan, run.backbone, layers=layers, seed=seed, options=options)
    begun = smaller(run.plan.options.get(detector, {}), candidate)
    before = begun and fresh_detector(detector, run.plan, run.backbone, layers=layers, seed=seed, options={**begun, "blur_sigma": 0})
    return sharing.detector(made, layers, before or None), lambda images: sizes(images.only(layers), candidate.image_size)


def smaller(own: Mapping[str, Any], candidate: Candidate) -> dict[str, Any] | None:
    """The plan's own options of a detector where a candidate has nothing else but a larger bank, which then goes on from theirs."""
    larger = candidate.options.get(BANK)
    same = candidate == Candidate(options={BANK: larger}) and BANK in own
    return dict(own) if same and larger > own[BANK] else None


def _extract(run: Run, cache: Reading, paths: Sequence[Path], size: tuple[int, int]) -> FeatureSet:
    with run.timed("features"):
        return extract_features(paths, run.backbone, size, cache=cache, progress=run.progress)


def _run_arm(run: Run, group: Group, arm: Arm, identity: str) -> None:
    began = time.perf_counter()
    with run.timed(arm.coupling if not arm.is_baseline else "baseline"):
        outcome = baseline(group) if arm.is_baseline else RULES[arm.coupling](group, arm.generator, run.progress)
        metrics = arm_metrics(outcome, group)
    with run.timed("evidence"):
        evidence = run.archive.keep(outcome, group.real, pictures=arm.seed == run.plan.seeds[0])
    chose = not arm.is_baseline and run.plan.chooses(arm.coupling)
    record = {
        "arm": cell_of(arm, run.plan.most).named() | {"seed": arm.seed},
        "metrics": metrics,
        "image_threshold": outcome.image_threshold,
        "pixel_threshold": outcome.pixel_threshold,
        "details": ({WATCHED_BY: group.watched_by} if chose else {}) | outcome.details,
        "evidence": evidence,
        "counts": group.real.counts,
        "seconds": round(time.perf_counter() - began, 3),
    }
    run.ledger.write(arm, identity, record)
    run.records[arm] = record
    run.progress("bench", len(run.records), run.total)
