"""The coupling `head`: a discriminative head taught by invented defects, and how boldly it joins the one-class map.

Its boldness is the plan's, or is chosen on invented defects of other makers than the head's teacher, on the good images of fold 0. A head
that real defects taught, or grafts of them, may be judged by these (`judges: [real]`): they are few, so that all of them judge. It is
taught once for every fold, and answers for the real defects and the good images of the fold that it was not taught with. In such a plan
every other head keeps the usual boldness: what knows no real defect is not told by them how loud to be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from aoi.bench.couplings.fusion import Choice, Judge, choose_fusion, fixed
from aoi.bench.couplings.group import UNTAUGHT, Group, Outcome, baseline, from_fold_0
from aoi.bench.couplings.paired import Sight
from aoi.bench.couplings.probing import watch_of
from aoi.bench.couplings.taught import Taught, read_taught
from aoi.bench.material.images import SynthImages
from aoi.bench.plan_options import OF_REAL, QUIET, REAL
from aoi.configs.strict import validated
from aoi.data.progress import Progress, silent
from aoi.detect.detector import Scores
from aoi.detect.features import FeatureSet
from aoi.detect.head import QUANTILES, WEIGHTS, Fusion, Head, HeadOptions, fit_fusion, train_head
from aoi.detect.head_training import good_ground


def head(group: Group, generator: str, progress: Progress = silent) -> Outcome:
    """A head taught by synthetic masks, fused with the one-class map; fold 0 is held out from it to standardise."""
    images, good, fold = group.synth[generator], group.held_out.good, group.held_out.fold
    settings = group.plan.head
    options = validated(HeadOptions, settings.training, where="head.training")
    kept = np.flatnonzero(fold == 0)
    if not (fold[images.sources] != 0).any():
        return replace(baseline(group), details={"untaught": UNTAUGHT})
    taught = _taught(group, images, options, progress)
    chosen = _chosen(group, generator, taught, options, progress)
    fusion = chosen.fusion
    maps = fusion.maps(group.test.maps, taught.test)
    kept_scores = Scores(good.maps[kept], good.image_scores[kept])
    fused_good = fusion.maps(kept_scores.maps, taught.good)
    details = chosen.as_dict() | {"weight": fusion.weight, "level": fusion.level, "scale": fusion.scale, "image_rule": settings.image_rule}
    scores = Scores(fused_good, fusion.image_scores(kept_scores, fused_good, settings.image_rule))
    fused = None if settings.image_rule == "one-class" else fusion.image_scores(group.test, maps, settings.image_rule)
    return from_fold_0(group, maps, scores, details, fused)


def _chosen(group: Group, generator: str, taught: Taught, options: HeadOptions, progress: Progress) -> Choice:
    """The plan's boldness, or the one that its judges ask for."""
    settings, good = group.plan.head, group.held_out.good
    weights = WEIGHTS if settings.weight == "auto" else (settings.weight,)
    quantiles = QUANTILES if settings.quantile == "auto" else (settings.quantile,)
    if not settings.chooses:
        return fixed(fit_fusion(good.maps, taught.good, weight=weights[0], quantile=quantiles[0]), quantiles[0])
    if REAL in settings.judges:
        quiet = fixed(fit_fusion(good.maps, taught.good, weight=QUIET[0], quantile=QUIET[1]), QUIET[1])
        if generator not in OF_REAL or len(np.unique(group.held_out.fold[group.synth[generator].sources])) < 2:
            return quiet  # what knows no real defect, or so few that without their fold there is nothing to teach
        logits, judge = _judged_by_real(group, generator, taught, options, progress)
        chosen = choose_fusion(good.maps, logits, [judge], seed=group.seed, weights=weights, quantiles=quantiles)
        if not chosen.fusion.weight:
            return quiet  # of what gains so little, a handful cannot tell
        # What was chosen speaks through the head that does not know fold 0, whose own good cells say where its voice begins.
        fusion = fit_fusion(good.maps, taught.good, weight=chosen.fusion.weight, quantile=chosen.quantile)
        return replace(chosen, fusion=fusion)
    judges = _judges(group, generator, taught.head, taught.good)
    see = _seer(group, taught.head, taught.good)
    return choose_fusion(good.maps, taught.good, judges, seed=group.seed, weights=weights, quantiles=quantiles, see=see)


def _judged_by_real(group: Group, generator: str, taught: Taught, options: HeadOptions, progress: Progress) -> tuple[np.ndarray, Judge]:
    """What heads say of good images and real defects they were not taught with: a head for every fold.

    Returns:
        N×h×w float32 logits of the good images; and all real defects taken out of the test as the judge, beside these images.
    """
    real, held, fold = group.synth[REAL], group.held_out, group.held_out.fold
    clean = np.empty((len(fold), *taught.good.shape[1:]), np.float32)
    found = np.empty((len(real.sources), *taught.good.shape[1:]), np.float32)
    for number in range(int(fold.max()) + 1):
        kept, shown = np.flatnonzero(fold == number), np.flatnonzero(fold[real.sources] == number)
        clean[kept], told = _answers(group, generator, number, taught, options, progress)
        if len(shown):  # of a handful smaller than the folds, some hold none
            found[shown] = told
    masks = np.concatenate([real.masks, np.zeros((len(fold), *real.masks.shape[1:]), bool)])
    maps = np.concatenate([held.synth[REAL].maps, held.good.maps])
    return clean, Judge(REAL, maps, np.concatenate([found, clean]), masks, np.concatenate([real.sources, np.arange(len(fold))]))


def _answers(
    group: Group, generator: str, number: int, taught: Taught, options: HeadOptions, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the good images and of the real defects of one fold by the head that was taught without that fold."""
    layers, fold, real = group.head_layers, group.held_out.fold, group.synth[REAL]
    shown = real.features.take(np.flatnonzero(fold[real.sources] == number)).only(layers)
    if number == 0:
        return taught.good, taught.head.logits(shown)
    lesson = _lesson(group, group.synth[generator], number)
    kept = group.real.train.take(np.flatnonzero(fold == number)).only(layers)

    def answers() -> tuple[np.ndarray, np.ndarray]:
        trained = _trained(group, lesson, options, progress)
        return trained.logits(kept), trained.logits(shown)

    return group.once("answers of heads", [*lesson.identity(group, options), kept, shown], answers)


@dataclass(frozen=True, slots=True, eq=False)
class _Lesson:
    """What a head is taught with: everything outside one fold."""

    good: FeatureSet
    defects: FeatureSet
    masks: np.ndarray

    def ground(self, group: Group, options: HeadOptions) -> list[object]:
        """All that decides what good images are like, whatever the defects: all heads of a seed share it."""
        return [self.good, group.head_layers, options.model_dump(mode="json"), group.seed]

    def identity(self, group: Group, options: HeadOptions) -> list[object]:
        """All that decides a head."""
        return [*self.ground(group, options), self.defects, self.masks]


def _lesson(group: Group, images: SynthImages, held: int) -> _Lesson:
    """Good images outside a fold, and the defects on them; of defects that all lie on it, all."""
    fold, layers = group.held_out.fold, group.head_layers
    learned, drawn = np.flatnonzero(fold != held), np.flatnonzero(fold[images.sources] != held)
    return _Lesson(group.real.train.take(learned).only(layers), images.features.take(drawn).only(layers), images.masks[drawn])


def _trained(group: Group, lesson: _Lesson, options: HeadOptions, progress: Progress) -> Head:
    """A head."""
    layers = group.head_layers
    ground = group.once("good ground", lesson.ground(group, options), lambda: good_ground(lesson.good, layers, options, seed=group.seed))
    return train_head(
        lesson.good, lesson.defects, lesson.masks, layers=layers, options=options, seed=group.seed, ground=ground, progress=progress
    )


def _taught(group: Group, images: SynthImages, options: HeadOptions, progress: Progress) -> Taught:
    """The head that does not know fold 0, its logits of the test images and of that fold's good images.

    They do not depend on the detector: the next one finds them.
    """
    layers, lesson = group.head_layers, _lesson(group, images, 0)
    kept = group.real.train.take(np.flatnonzero(group.held_out.fold == 0)).only(layers)

    def taught() -> Taught:
        trained = _trained(group, lesson, options, progress)
        return Taught(trained, trained.logits(group.real.test.only(layers)), trained.logits(kept))

    return group.shared("heads", [*lesson.identity(group, options), kept, group.real.test.only(layers)], taught, read_taught)


def _seer(group: Group, trained: Head, good_logits: np.ndarray) -> Callable[[Fusion], Sight] | None:
    """How well a fusion sees the probe; None where there is none."""
    watch = watch_of(group)
    if watch is None:
        return None
    logits, clean = trained.logits(watch.features), group.held_out.good.maps[group.held_out.fold == 0]
    return lambda fusion: watch.sight(fusion.maps(watch.one_class, logits), fusion.maps(clean, good_logits))


def _judges(group: Group, generator: str, trained: Head, good_logits: np.ndarray) -> list[Judge]:
    """Defects of the plan's judges on the good images of fold 0, and those images; the head's own teacher only where there is no other."""
    clean = group.held_out.good.maps[group.held_out.fold == 0]
    found = []
    others = {name: group.kept(name) for name in group.plan.head.judges if name not in group.plan.kinds(generator)}
    others = {name: kept for name, kept in others.items() if len(kept)}
    for name, kept in (others or {generator: group.kept(generator)}).items():
        images = group.synth[name]
        found.append(
            Judge(
                name,
                np.concatenate([group.held_out.synth[name].maps[kept], clean]),
                np.concatenate([trained.logits(images.features.take(kept)), good_logits]) if len(kept) else good_logits,
                np.concatenate([images.masks[kept], np.zeros(clean.shape, bool)]),
                np.concatenate([images.sources[kept], np.flatnonzero(group.held_out.fold == 0)]),
            )
        )
    return found
