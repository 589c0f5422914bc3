"""Every coupling by name, and two of them: invented defects may set a detector's thresholds, or teach it a head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from aoi.bench.anomalib.plan import TRAIN
from aoi.bench.couplings.fusion import Judge, choose_fusion, fixed
from aoi.bench.couplings.group import UNTAUGHT, CouplingRule, baseline, from_fold_0
from aoi.bench.couplings.group import Group as Group
from aoi.bench.couplings.group import Outcome as Outcome
from aoi.bench.couplings.negative import negative
from aoi.bench.couplings.normals import normals
from aoi.bench.couplings.paired import Sight
from aoi.bench.couplings.probing import watch_of
from aoi.bench.couplings.segment import segment, segment_legacy
from aoi.bench.couplings.segment_plan import LEAKING
from aoi.bench.couplings.select import select
from aoi.bench.couplings.taught import Taught, read_taught
from aoi.bench.couplings.train import train
from aoi.bench.couplings.weighting import weight
from aoi.bench.material.images import SynthImages
from aoi.configs.strict import validated
from aoi.data.progress import Progress, silent
from aoi.detect.calibration import between
from aoi.detect.detector import Scores
from aoi.detect.head import QUANTILES, WEIGHTS, Fusion, Head, HeadOptions, fit_fusion, train_head
from aoi.detect.head_training import good_ground


def calibrate(group: Group, generator: str, progress: Progress = silent) -> Outcome:
    """Thresholds between held-out good images and held-out synthetic defects; maps and scores stay the detector's own.

    The rule is that of `aoi detect fit --defects`, and sees synthetic truth only.
    """
    image, pixel = between(group.held_out.good, group.held_out.synth[generator], group.synth[generator].masks)
    return Outcome(group.test.maps, group.test.image_scores, image, pixel, {"image_threshold": image, "pixel_threshold": pixel})


def head(group: Group, generator: str, progress: Progress = silent) -> Outcome:
    """A head taught by synthetic masks, fused with the one-class map; fold 0 is held out from it to standardise and to choose."""
    images, good, fold = group.synth[generator], group.held_out.good, group.held_out.fold
    settings = group.plan.head
    options = validated(HeadOptions, settings.training, where="head.training")
    learned, kept = np.flatnonzero(fold != 0), np.flatnonzero(fold == 0)
    drawn = np.flatnonzero(fold[images.sources] != 0)
    if not len(drawn):
        return replace(baseline(group), details={"untaught": UNTAUGHT})
    taught = _taught(group, images, learned, drawn, options, progress)
    trained, logits, good_logits = taught.head, taught.test, taught.good
    weights = WEIGHTS if settings.weight == "auto" else (settings.weight,)
    quantiles = QUANTILES if settings.quantile == "auto" else (settings.quantile,)
    if not settings.chooses:
        chosen = fixed(fit_fusion(good.maps, good_logits, weight=weights[0], quantile=quantiles[0]), quantiles[0])
    else:
        judges = _judges(group, generator, trained, good_logits)
        see = _seer(group, trained, good_logits)
        chosen = choose_fusion(good.maps, good_logits, judges, seed=group.seed, weights=weights, quantiles=quantiles, see=see)
    fusion = chosen.fusion
    maps = fusion.maps(group.test.maps, logits)
    kept_scores = Scores(good.maps[kept], good.image_scores[kept])
    fused_good = fusion.maps(kept_scores.maps, good_logits)
    details = chosen.as_dict() | {"weight": fusion.weight, "level": fusion.level, "scale": fusion.scale, "image_rule": settings.image_rule}
    scores = Scores(fused_good, fusion.image_scores(kept_scores, fused_good, settings.image_rule))
    fused = None if settings.image_rule == "one-class" else fusion.image_scores(group.test, maps, settings.image_rule)
    return from_fold_0(group, maps, scores, details, fused)


def _taught(group: Group, images: SynthImages, learned: np.ndarray, drawn: np.ndarray, options: HeadOptions, progress: Progress) -> Taught:
    """A head, its logits of the test images and of the good images of fold 0: they do not depend on the detector, the next one finds them.

    What good images are like does not depend on the defects either: all heads of a seed share it.
    """
    layers = group.head_layers
    good, defects, masks = group.real.train.take(learned).only(layers), images.features.take(drawn).only(layers), images.masks[drawn]
    kept = group.real.train.take(np.flatnonzero(group.held_out.fold == 0)).only(layers)
    alike = [good, layers, options.model_dump(mode="json"), group.seed]

    def taught() -> Taught:
        ground = group.once("good ground", alike, lambda: good_ground(good, layers, options, seed=group.seed))
        trained = train_head(good, defects, masks, layers=layers, options=options, seed=group.seed, ground=ground, progress=progress)
        return Taught(trained, trained.logits(group.real.test.only(layers)), trained.logits(kept))

    return group.shared("heads", [*alike, defects, masks, kept, group.real.test.only(layers)], taught, read_taught)


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


RULES: dict[str, CouplingRule] = {
    "calibrate": calibrate,
    "head": head,
    "select": select,
    "negative": negative,
    "weight": weight,
    "normals": normals,
    "segment": segment,
    TRAIN: train,
    LEAKING: segment_legacy,
}
"""By the name a plan gives them."""
