"""Chooses the constants of the head's fusion on drawn data sets, never on the data sets of `docs/RESULTS.md`.

    python scripts/choose_fusion.py --weights resnet18.safetensors --work WORK

For each seed it draws a data set (`aoi data sample`), invents Perlin and CutPaste defects on its training images, trains a head on both
and prints the change in AUROC, AUPRO@0.3 and AP of the drawn test images' maps for every quantile of silence and every weight, for
PatchCore 1 % and PaDiM.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from aoi.data.files import read_jsonl
from aoi.data.images import read_mask
from aoi.data.layouts import open_dataset
from aoi.data.procedural.dataset import write_sample_dataset
from aoi.data.truth import truth_masks
from aoi.detect.backbones import Backbone, load_backbone
from aoi.detect.calibration import good_scores
from aoi.detect.detector import Detector, make_detector
from aoi.detect.features import FeatureSet, extract_features
from aoi.detect.head import Head, fit_fusion, train_head
from aoi.metrics.summary import evaluate_maps
from aoi.synth.generate import generate_dataset
from aoi.synth.options import GenerateOptions

SIZE = (256, 256)
QUANTILES = (0.5, 0.9, 0.99)
WEIGHTS = (0.25, 0.5, 1.0, 2.0)


def taught_head(parts: Path, work: Path, train: FeatureSet, backbone: Backbone, seed: int) -> Head:
    """A head trained on 150 defects of each generator, drawn on four fifths of the training images."""
    paths, masks = [], []
    for generator in ("perlin", "cutpaste"):
        out = work / f"{generator}{seed}"
        generate_dataset(train.paths[len(train) // 5 :], out, GenerateOptions(generator=generator, count=150, seed=seed, size=256))
        rows = [row for row in read_jsonl(out / "manifest.jsonl") if row["accepted"]]
        paths += [out / str(row["image"]) for row in rows]
        masks += [read_mask(out / str(row["mask"])) for row in rows]
    synth = extract_features(paths, backbone, SIZE)
    learned = train.take(range(len(train) // 5, len(train)))
    return train_head(learned, synth, np.stack(masks), layers=backbone.layers_for((8, 16)), seed=seed)


def measure(weights: Path, work: Path, seed: int) -> None:
    """Print one table."""
    parts = work / f"parts{seed}"
    write_sample_dataset(parts, train_good=100, test_good=40, per_defect=15, seed=seed)
    source = open_dataset(parts)
    backbone = load_backbone(None, weights).with_layers(("layer1", "layer2", "layer3"))
    train = extract_features([sample.path for sample in source.train_good], backbone, SIZE)
    test = extract_features([sample.path for sample in source.test], backbone, SIZE)
    labels, truth = np.array([sample.is_anomalous for sample in source.test]), truth_masks(list(source.test), SIZE)
    head = taught_head(parts, work, train, backbone, seed)
    held_out, logits = head.logits(train.take(range(len(train) // 5))), head.logits(test)
    for model, strides, options in (("patchcore", (8, 16), {"coreset_ratio": 0.01}), ("padim", (4, 8, 16), {})):

        def fresh(model: str = model, strides: tuple[int, ...] = strides, options: dict[str, float] = options) -> Detector:
            return make_detector(model, options, layers=backbone.layers_for(strides), seed=seed)

        fitted = fresh()
        fitted.fit(train)
        scores = fitted.score(test)
        good = good_scores(fresh, fitted, train, source="holdout", seed=seed).scores.maps
        before = evaluate_maps(scores.image_scores, labels, scores.maps, truth)
        print(f"seed {seed} {model}: {before.pixel_auroc:.4f} {before.pixel_aupro:.4f} {before.pixel_ap:.4f}", flush=True)
        for quantile in QUANTILES:
            for weight in WEIGHTS:
                fusion = fit_fusion(good, held_out, weight=weight, quantile=quantile)
                after = evaluate_maps(scores.image_scores, labels, fusion.maps(scores.maps, logits), truth)
                deltas = [getattr(after, name) - getattr(before, name) for name in ("pixel_auroc", "pixel_aupro", "pixel_ap")]
                print(
                    f"seed {seed} {model} quantile {quantile} weight {weight}: " + " ".join(f"{delta:+.4f}" for delta in deltas), flush=True
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", default="11,12")
    args = parser.parse_args()
    for seed in args.seeds.split(","):
        measure(args.weights, args.work, int(seed))


if __name__ == "__main__":
    main()
