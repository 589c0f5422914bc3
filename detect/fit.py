"""`aoi detect fit`: good images in, a run folder out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aoi.configs.strict import StrictModel
from aoi.data.content import dataset_fingerprint
from aoi.data.files import writable_folder, write_json, write_jsonl
from aoi.data.layouts import open_dataset
from aoi.data.leaks import SHOWN, contents
from aoi.data.nearness import nearly_the_same
from aoi.data.progress import Progress, silent
from aoi.data.provenance import provenance
from aoi.data.sample import Dataset
from aoi.data.sources import require_train_good
from aoi.detect.approximate import SearchQuality
from aoi.detect.backbones import Backbone, load_backbone
from aoi.detect.calibration import (
    IMAGE_PERCENTILE,
    PIXEL_PERCENTILE,
    Expected,
    GoodScores,
    expected_of,
    good_scores,
    require_enough,
    thresholds_from,
)
from aoi.detect.detector import Detector, detector_family, make_detector
from aoi.detect.evaluation import forget_evaluations
from aoi.detect.features import BATCH, FeatureSet, extract
from aoi.detect.fit_report import FitReport
from aoi.detect.known_defects import DefectFolder, find_defects, read_defects
from aoi.detect.learnt import copies_told, learnt_images
from aoi.detect.logs import log_fit
from aoi.detect.measure import Stopwatch, peak_memory_mb
from aoi.detect.run_folder import COMMAND, RunConfig, RunFolder, save_detector, write_config, write_meta
from aoi.detect.verdict import BadImage, Thresholds, ThresholdSource
from aoi.detect.weights import backbone_identity
from aoi.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What to fit and how; everything else is the papers' default."""

    model: str = "patchcore"
    backbone: str | None = None
    """Weight name; None for the best that is on this machine, the embedded one at the least."""
    weights: Path | None = None
    precision: str = "float32"
    """Of the backbone's arithmetic: float32, bfloat16, or auto for bfloat16 where the hardware is faster at it."""
    compile: bool = False
    """Compile the backbone: no other results than in the last digits, and no setting of the run."""
    image_size: tuple[int, int] = (256, 256)
    """Height, width of the network's input."""
    layers: tuple[str, ...] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of the detector's options model."""
    seed: int = 0
    threshold_source: ThresholdSource = "crossval"
    defects: Path | None = None
    """Known defects with masks, between which and held-out good images the thresholds lie; None for percentiles of good images."""
    image_percentile: float = IMAGE_PERCENTILE
    pixel_percentile: float = PIXEL_PERCENTILE
    min_area: int = 0
    max_area: int | None = None
    device: str = "auto"
    overwrite: bool = False


def fit_run(dataset: Path, out: Path | None, options: FitOptions, *, progress: Progress = silent) -> FitReport:
    """Fit a detector on a data set's good training images and write its run folder.

    A finished run with the same settings and data is returned as it is; an unfinished one is finished, with the features it has.

    Args:
        dataset: an MVTec layout, or a plain folder of good images.
        out: the run folder; None for `runs/<model>/<category>/<run_id>`.

    Raises:
        DataError, ConfigError, ModelError: see their messages.
    """
    watch = Stopwatch()
    source = open_dataset(dataset)
    require_train_good(source)
    backbone, family = load_backbone(options.backbone, options.weights, device=options.device), detector_family(options.model)
    backbone = backbone.with_layers(options.layers or backbone.layers_for(family.strides)).with_precision(options.precision)
    backbone = backbone.with_compilation(BATCH) if options.compile else backbone
    template = make_detector(options.model, options.options, layers=backbone.layers, seed=options.seed, device=backbone.device)
    config = _resolved(source, backbone, template.options, options)
    folder = RunFolder(out or _default_folder(config))
    listed = None if options.defects is None else find_defects(options.defects, source, seed=options.seed, progress=progress)
    inputs = {"dataset": dataset_fingerprint(source)} | ({} if listed is None else {"defects": listed.fingerprint})
    kept = _finished(folder, config, inputs, backbone, overwrite=options.overwrite)
    if kept is not None:
        return kept
    different = _begin(folder, config, source, listed, progress)
    watch.lap("load")
    extraction = extract([sample.path for sample in source.train_good], backbone, options.image_size, cache=folder.cache, progress=progress)
    features = extraction.features
    if len(features) < 2:
        raise DataError(
            f"only {len(features)} readable good images in {source.root}", hint="`aoi data check` lists what is wrong with the rest"
        )
    defects = None if listed is None else read_defects(listed, features, backbone, cache=folder.cache, progress=progress)
    watch.lap("features")
    detector = _fresh(config, backbone)
    detector.fit(features, progress=progress)
    watch.lap("fit")
    good = good_scores(
        lambda: _fresh(config, backbone), detector, features, source=config.threshold_source, seed=config.seed, defects=defects,
        progress=progress,
    )  # fmt: skip
    thresholds = thresholds_from(good, image_percentile=config.image_percentile, pixel_percentile=config.pixel_percentile)
    watch.lap("thresholds")
    _write(folder, detector, backbone, thresholds, good, features)
    report = FitReport(
        folder.root, config.model, config.category, backbone.name, backbone.source, len(features), thresholds,
        watch.seconds(), peak_memory_mb(), (*extraction.bad, *(() if defects is None else defects.bad)), resumed=False, search=good.search,
        expected=expected_of(good, thresholds), num_different=different, warnings=_warnings(len(features), different, listed),
    )  # fmt: skip
    _declare_whole(folder, report, config, backbone, inputs)
    return report


def _begin(folder: RunFolder, config: RunConfig, source: Dataset, listed: DefectFolder | None, progress: Progress) -> int:
    """Write settings and what is going to be learnt from; how many different pictures that are."""
    good = contents([sample.path for sample in source.train_good], progress=progress) if listed is None else listed.good
    learnt = learnt_images(good, None if listed is None else listed.shown, where=source.root)
    if config.threshold_source != "train":
        require_enough(len(learnt.good.keys))
    writable_folder(folder.root)
    forget_evaluations(folder.root)
    write_config(folder, config)
    learnt.write(folder.root)
    return learnt.different


def _warnings(images: int, different: int, listed: DefectFolder | None) -> tuple[str, ...]:
    near = () if listed is None else nearly_the_same(listed.near, "known defect", "known defects", SHOWN)
    return (*copies_told(images, different), *near)


def _resolved(source: Dataset, backbone: Backbone, checked: Any, options: FitOptions) -> RunConfig:
    assert isinstance(checked, StrictModel)
    return RunConfig(
        model=options.model,
        dataset=str(source.root.resolve()),
        category=source.name,
        backbone=backbone.name,
        weights=backbone.source,
        precision=backbone.precision,
        layers=backbone.layers,
        image_size=options.image_size,
        seed=options.seed,
        options=checked.model_dump(),
        threshold_source=options.threshold_source,
        defects=None if options.defects is None else str(options.defects.resolve()),
        image_percentile=options.image_percentile,
        pixel_percentile=options.pixel_percentile,
        min_area=options.min_area,
        max_area=options.max_area,
    )


def _fresh(config: RunConfig, backbone: Backbone) -> Detector:
    return make_detector(config.model, config.options, layers=config.layers, seed=config.seed, device=backbone.device)


def _default_folder(config: RunConfig) -> Path:
    run_id = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return Path("runs") / config.model / config.category / run_id


def _finished(folder: RunFolder, config: RunConfig, inputs: Mapping[str, str], backbone: Backbone, *, overwrite: bool) -> FitReport | None:
    """The report of the run that is there already, None when there is work to do.

    Raises:
        ConfigError: the folder holds something else.
        DataError: it is a file.
    """
    if folder.root.exists() and not folder.root.is_dir():
        raise DataError(f"{folder.root} is a file, not a folder", hint="choose another --out")
    if not folder.root.exists() or not any(folder.root.iterdir()):
        return None
    if not (folder.config.is_file() or folder.cache.is_dir()):  # nor is it overwritten: what another command wrote may not come again
        raise ConfigError(f"{folder.root} is not empty and not a run folder", hint="choose another --out")
    if overwrite:
        folder.meta.unlink(missing_ok=True)  # from here on the folder is an unfinished run
    if not folder.meta.is_file():
        return None
    meta = folder.read_meta()
    same = folder.read_config() == config and meta.get("inputs", {}) == inputs
    if not same or meta.get("backbone", {}).get("fingerprint") != backbone.fingerprint:
        raise ConfigError(f"{folder.root} holds a run with other settings or data", hint="choose another --out, or add --overwrite")
    skipped = tuple(BadImage(Path(row["image_path"]), row["reason"]) for row in meta["skipped"])
    return FitReport(
        folder.root, config.model, config.category, backbone.name, backbone.source, meta["num_train"], folder.read_thresholds(),
        meta["seconds"], meta["peak_memory_mb"], skipped, resumed=True,
        search=SearchQuality(**meta["search"]) if meta.get("search") else None,
        expected=Expected(**meta["expected"]) if meta.get("expected") else None, num_different=meta.get("num_different"),
        warnings=tuple(meta.get("warnings", ())),
    )  # fmt: skip


def _write(
    folder: RunFolder, detector: Detector, backbone: Backbone, thresholds: Thresholds, good: GoodScores, features: FeatureSet
) -> None:
    save_detector(folder, detector, backbone)
    write_json(folder.thresholds, thresholds.as_dict())
    rows = [
        {"image_path": str(features.paths[i]), "pred_score": float(score), "scored_by": good.source}
        for i, score in zip(good.indices, good.scores.image_scores, strict=True)
    ]
    write_jsonl(folder.root / "preds_train.jsonl", rows)
    log_fit(folder.root / "logs", np.asarray(good.scores.image_scores), thresholds)


def _declare_whole(folder: RunFolder, report: FitReport, config: RunConfig, backbone: Backbone, inputs: dict[str, str]) -> None:
    meta = provenance(COMMAND, seed=config.seed, inputs=inputs)
    compiled = backbone.compiled is not None and backbone.compiled.failure is None
    meta |= {"backbone": backbone_identity(backbone), "compiled": compiled, "threshold_source": config.threshold_source}
    details = report.as_dict()
    meta |= {
        key: details[key]
        for key in ("num_train", "num_different", "warnings", "seconds", "peak_memory_mb", "skipped", "search", "expected")
    }
    write_meta(folder, meta)
    shutil.rmtree(folder.cache, ignore_errors=True)
