from __future__ import annotations

import copy
import random
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from aoi.bench.anomalib.plan import AnomalibPlan
from aoi.bench.results import HIGHER_IS_BETTER
from aoi.bench.run import run_bench
from aoi.data.images import read_image, read_mask, resize_image, write_image
from aoi.detect.features import FeatureSet
from aoi.errors import BackendUnavailable, ConfigError, DataError, ModelError

pytestmark = pytest.mark.slow  # anomalib takes ten seconds to import

SIDE = 128
"""SuperSimpleNet's noise needs a grid of 32."""
RANKING = ("image_auroc", "pixel_auroc", "pixel_aupro", "pixel_ap")


@pytest.fixture(autouse=True)
def _empty_caches(tmp_path, monkeypatch):
    """Nothing that this machine may hold."""
    for name in ("XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))


@pytest.fixture
def detector(tiny_backbone):
    from aoi.bench.anomalib.detector import AnomalibDetector

    def build(model: str, *, seed: int = 0, plan: AnomalibPlan | None = None, backbone=tiny_backbone, **options) -> AnomalibDetector:
        plan = plan or AnomalibPlan(epochs=1, steps=1, batch=2)
        return AnomalibDetector(model, options, plan, backbone=backbone, textures=None, seed=seed)

    return build


def files(root, *parts) -> tuple:
    return tuple(sorted(root.joinpath(*parts).iterdir()))


def images(paths, side: int = SIDE) -> FeatureSet:
    return FeatureSet({}, (side, side), tuple(paths))


@pytest.fixture
def defects(parts, tmp_path):
    """Dark spots on good images."""
    from aoi.bench.anomalib.data import Defects

    sources = files(parts, "train", "good")[:6]
    masks = np.stack([read_mask(path) for path in files(parts, "ground_truth", "spot")])
    for source, mask in zip(sources, masks, strict=True):
        image = read_image(source)
        image[mask] //= 2
        write_image(tmp_path / "spots" / source.name, image)
    return Defects(files(tmp_path, "spots"), masks, sources)


def pixels(path, side: int = 64) -> np.ndarray:
    return resize_image(read_image(path), (side, side)).transpose(2, 0, 1).astype(np.float32) / 255


def test_a_pair_is_a_good_image_and_the_defect_drawn_on_it(parts, defects, rng):
    from aoi.bench.anomalib.data import Batches, OurDefects, with_defects

    good = files(parts, "train", "good")
    drawn = with_defects(good, defects, 0.4, "pairs", rng)
    batches = Batches(drawn, (64, 64), batch=5, steps=8, defects=defects)
    ours, kinds = OurDefects(batches), []
    for batch in batches:
        worse, masks = ours(batch.image)
        assert not batch.gt_mask.any()
        for row, one in enumerate(batches.drawn):
            kinds.append(one.defect is None)
            np.testing.assert_array_equal(batch.image[row].numpy(), pixels(one.image))
            shown = one.image if one.defect is None else defects.images[one.defect]
            np.testing.assert_array_equal(worse[row].numpy(), pixels(shown))
            expected = np.zeros((64, 64)) if one.defect is None else defects.masks[one.defect]
            np.testing.assert_array_equal(masks[row, 0].numpy(), expected)
            assert one.defect is None or one.image == defects.sources[one.defect]
    assert len(kinds) == 40
    assert 0.2 < np.mean(kinds) < 0.6


@pytest.mark.parametrize(("model", "side"), [("Draem", 64), ("Supersimplenet", 128)])
def test_what_a_training_takes_is_told_from_two_steps(model, side, small_plan, parts, tiny_backbone, detector, monkeypatch):
    """Within a factor of three, in processor time, for a machine that others use; alone it is within two."""
    from aoi.bench.anomalib import trial
    from aoi.bench.anomalib.trial import rates

    monkeypatch.setattr(trial, "time", SimpleNamespace(perf_counter=time.process_time))
    name, brief = f"anomalib:{model}", AnomalibPlan(epochs=1, steps=6, batch=6)
    plan = small_plan(parts, detectors=(name,), couplings=("calibrate",), image_size=side, anomalib=brief.model_dump())
    good = images(files(parts, "train", "good"), side)
    found = rates(name, plan, tiny_backbone, good.paths)
    assert (found.batch, found.once) == (6, False)
    made = detector(model, plan=brief)
    began = time.process_time()
    made.fit(good)
    trained = time.process_time()
    made.score(good)
    scored = time.process_time() - trained
    assert 1 / 3 < found.trained(brief, side, len(good)) / (trained - began) < 3
    assert 1 / 3 < found.scored(side, len(good)) / scored < 3


def test_a_model_that_remembers_is_told_by_its_images(small_plan, parts, tiny_backbone):
    from aoi.bench.anomalib.trial import rates

    plan = small_plan(parts, detectors=("anomalib:Padim",), couplings=("calibrate",))
    found = rates("anomalib:Padim", plan, tiny_backbone, files(parts, "train", "good"))
    assert found.once
    assert found.trained(plan.anomalib, 64, 200) > found.trained(plan.anomalib, 64, 20)


def test_labelled_batches_carry_the_defects_and_their_masks(parts, defects, rng):
    from aoi.bench.anomalib.data import Batches, with_defects

    drawn = with_defects(files(parts, "train", "good"), defects, 0.5, "labelled", rng)
    batches = Batches(drawn, (64, 64), batch=6, steps=4, defects=defects, labelled=True)
    for batch in batches:
        for row, one in enumerate(batches.drawn):
            assert bool(batch.gt_label[row]) == (one.defect is not None) == bool(batch.gt_mask[row].any())
            if one.defect is not None:
                np.testing.assert_array_equal(batch.image[row].numpy(), pixels(defects.images[one.defect]))
                np.testing.assert_array_equal(batch.gt_mask[row].numpy(), defects.masks[one.defect])


def test_good_images_come_once_for_models_that_remember_them(parts):
    from aoi.bench.anomalib.data import Batches, good_once

    good = files(parts, "train", "good")
    batches = Batches(good_once(good), (32, 32), batch=4)
    assert len(batches) == 4
    for _ in range(2):
        assert [path for batch in batches for path in batch.image_path] == [str(path) for path in good]


def test_our_backbone_gives_its_own_maps_through_timm(tiny_backbone, rng):
    import dataclasses

    import timm

    from aoi.bench.anomalib.models import register_backbone

    images = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    for backbone in (tiny_backbone, dataclasses.replace(tiny_backbone, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.5), fingerprint="other")):
        network = timm.create_model(register_backbone(backbone), pretrained=True, features_only=True, out_indices=(0, 2)).eval()
        assert network.feature_info.channels() == [12, 20]
        normalised = (
            torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        ) / torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        with torch.no_grad():
            found = network(normalised)
        expected = backbone(images)
        for one, layer in zip(found, ("layer1", "layer3"), strict=True):
            torch.testing.assert_close(one, expected[layer], rtol=1e-4, atol=1e-4)
    student = timm.create_model(register_backbone(tiny_backbone), pretrained=False, features_only=True)
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not torch.equal(student.network.stem.weight, tiny_backbone.network.stem.weight)
    assert not any(parameter.requires_grad for parameter in tiny_backbone.network.parameters())


def test_supersimplenet_learns_where_our_defects_are(detector, parts, defects):
    from aoi.metrics.pro import aupro

    plan = AnomalibPlan(epochs=2, steps=10, batch=6)
    made = detector("Supersimplenet", plan=plan)
    seen = []
    made.fit_on_defects(images(files(parts, "train", "good")), defects, progress=lambda *args: seen.append(args))
    found = made.score(images(defects.images))
    from aoi.data.images import resize_mask

    masks = np.stack([resize_mask(mask, (SIDE, SIDE)) for mask in defects.masks])
    assert aupro(found.maps, masks) > 0.7
    assert found.maps.dtype == np.float32
    assert ("anomalib:Supersimplenet", 0, 20) in seen
    assert ("anomalib:Supersimplenet", 20, 20) in seen


def test_the_same_seed_gives_the_same_scores_and_global_generators_are_left_alone(detector, parts, defects):
    good, test = images(files(parts, "train", "good")), images(defects.images)
    before = (torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
    found = []
    for seed in (3, 3, 4):
        made = detector("Supersimplenet", seed=seed)
        made.fit(good)
        found.append(made.score(test))
    np.testing.assert_array_equal(found[0].maps, found[1].maps)
    np.testing.assert_array_equal(found[0].image_scores, found[1].image_scores)
    assert not np.array_equal(found[0].maps, found[2].maps)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


@pytest.mark.parametrize("model", ["Draem", "Glass", "Supersimplenet"])
def test_our_defects_take_the_place_of_its_own(model, detector, parts, defects, monkeypatch):
    from anomalib.data.utils.generators import perlin
    from anomalib.models.image.supersimplenet import anomaly_generator

    def refuse(*_, **__):
        raise AssertionError("its own generator was asked")

    made = detector(model)
    monkeypatch.setattr(perlin.PerlinAnomalyGenerator, "forward", refuse)
    monkeypatch.setattr(anomaly_generator.AnomalyGenerator, "forward", refuse)
    good = images(files(parts, "train", "good"), 64)
    made.fit_on_defects(good, defects)
    assert np.isfinite(made.score(images(defects.images, 64)).maps).all()
    with pytest.raises(ModelError, match="its own generator was asked"):
        made.fit(good)


@pytest.mark.parametrize("model", ["Patchcore", "Padim", "Stfpm"])
def test_models_of_good_images_score_raw(model, detector, parts):
    made = detector(model)
    made.fit(images(files(parts, "train", "good"), 64))
    found = made.score(images((*files(parts, "test", "good"), *files(parts, "test", "spot")), 64))
    assert found.maps.shape == (12, 64, 64)
    assert np.isfinite(found.maps).all()
    if model in ("Patchcore", "Padim"):
        assert found.image_scores[6:].mean() > found.image_scores[:6].mean()
        assert model == "Patchcore" or found.maps.max() > 1  # anomalib would have clamped it


def test_learning_from_defects_is_for_models_that_do(detector, parts, defects):
    good = images(files(parts, "train", "good"), 64)
    with pytest.raises(ConfigError, match="does not learn from images of defects"):
        detector("Patchcore").fit_on_defects(good, defects)
    from aoi.bench.anomalib.data import Defects

    with pytest.raises(DataError, match="no invented defects"):
        detector("Draem").fit_on_defects(good, Defects((), defects.masks[:0], ()))
    with pytest.raises(ModelError, match="not been fitted"):
        detector("Draem").score(good)


def test_a_defect_on_another_image_is_no_pair(detector, parts, defects, tmp_path):
    import dataclasses

    from aoi.bench.anomalib.data import on_their_sources

    assert on_their_sources(defects, (64, 64)).all()
    assert on_their_sources(defects, (48, 48)).all()
    moved = tuple(tmp_path / "moved" / path.name for path in defects.images)
    for path, to in zip(defects.images, moved, strict=True):
        write_image(to, np.roll(read_image(path), 9, axis=1))
    one = dataclasses.replace(defects, images=(moved[0], *defects.images[1:]))
    assert on_their_sources(one, (64, 64)).tolist() == [False, *[True] * 5]
    with pytest.raises(DataError, match="compares each defect with the good image under it") as caught:
        detector("Draem").fit_on_defects(images(files(parts, "train", "good"), 64), dataclasses.replace(defects, images=moved))
    assert "Supersimplenet" in caught.value.hint


@pytest.mark.parametrize(
    ("model", "file"), [("EfficientAd", "efficientad_pretrained_weights"), ("Dsr", "vq_model_pretrained"), ("UniNet", "resnet50")]
)
def test_what_would_be_downloaded_is_refused_with_address_and_place(model, file, detector, tmp_path):
    with pytest.raises(BackendUnavailable, match=file) as caught:
        detector(model).check((64, 64))
    assert "https://" in caught.value.hint
    assert str(tmp_path / "cache") in caught.value.message + caught.value.hint
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_efficientad_runs_where_its_files_are(detector, parts, tmp_path, monkeypatch, rng):
    from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel
    from anomalib.utils.path import get_pretrained_weights_dir

    torch.manual_seed(0)
    teacher = get_pretrained_weights_dir() / "efficientad_pretrained_weights" / "pretrained_teacher_small.pth"
    assert str(teacher).startswith(str(tmp_path))
    teacher.parent.mkdir(parents=True)
    torch.save(EfficientAdModel(teacher_out_channels=384, model_size="small").teacher.state_dict(), teacher)
    made = detector("EfficientAd", imagenet_dir=str(tmp_path / "imagenette"))
    with pytest.raises(BackendUnavailable, match="imagenette"):
        made.check((256, 256))
    for i in range(3):
        write_image(tmp_path / "imagenette" / "tench" / f"{i}.png", rng.integers(0, 256, (80, 80, 3), dtype=np.uint8))
    made = detector("EfficientAd", imagenet_dir=str(tmp_path / "imagenette"), plan=AnomalibPlan(epochs=1, steps=2))
    made.check((256, 256))
    good = files(parts, "train", "good")[:3]
    made.fit(images(good, 256))
    assert np.isfinite(made.score(images(good, 256)).maps).all()


def test_options_are_its_constructors_and_misspelt_ones_are_refused(detector):
    with pytest.raises(ConfigError, match="coreset_ratio") as caught:
        detector("Patchcore", coreset_ratio=0.1).check((64, 64))
    assert "coreset_sampling_ratio" in caught.value.hint
    with pytest.raises(ConfigError, match="did you mean anomalib:Patchcore"):
        detector("Patchcor").check((64, 64))
    with pytest.raises(ModelError, match="Fastflow failed while it was built") as caught:
        detector("Fastflow").check((64, 64))
    assert "flow_steps" in caught.value.hint


def test_a_weight_file_goes_into_a_model_that_knows_architectures_by_name(detector, shared_weights, parts):
    from aoi.detect.backbones import load_backbone

    backbone = load_backbone(None, shared_weights / "resnet18_imagenet_conv1-layer3.safetensors")
    made = detector("Fastflow", backbone=backbone)
    made.fit(images(files(parts, "train", "good")))
    inside = made._module.model.feature_extractor.state_dict()
    for key, value in backbone.network.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(inside[key], value), key


def test_a_fitted_model_is_its_tensors(detector, parts):
    good, test = images(files(parts, "train", "good"), 64), images(files(parts, "test", "spot"), 64)
    made = detector("Padim")
    made.fit(good)
    kept = copy.deepcopy(made.state())
    again = detector("Padim")
    again.restore(kept, (64, 64))
    np.testing.assert_allclose(again.score(test).maps, made.score(test).maps, rtol=1e-5)


def test_an_ablation_with_one_of_its_detectors(parts, small_plan, tiny_bench, tmp_path):
    plan = small_plan(
        parts,
        detectors=("padim", "anomalib:Supersimplenet"),
        generators=("perlin",),
        couplings=("calibrate", "train", "segment", "head"),
        seeds=(0,),
        image_size=SIDE,
        anomalib={"epochs": 2, "steps": 2, "batch": 4},
        segment={"side": 32, "width": 4, "epochs": 1, "steps": 2},
    )
    result = run_bench(plan, tmp_path)
    cells = {(row.detector, row.coupling) for row in result.arms}
    mine = {(name, coupling) for name in plan.detectors for coupling in ("none", "calibrate", "segment", "head")}
    assert cells == mine | {("anomalib:Supersimplenet", "train")}
    rows = {(row.detector, row.coupling, row.metric): row for row in result.arms}
    assert {rows["anomalib:Supersimplenet", "calibrate", metric].delta for metric in RANKING} == {0.0}
    assert rows["anomalib:Supersimplenet", "train", "pixel_aupro"].delta != 0
    assert all(rows["anomalib:Supersimplenet", "train", metric].value is not None for metric in HIGHER_IS_BETTER)
    text = (tmp_path / "results.md").read_text()
    assert "left out: padim learns from good images alone" in text
    assert "`train` moves everything" in text
    again = run_bench(plan, tmp_path)
    assert (again.computed, again.resumed) == (0, 9)
    longer = run_bench(
        plan.model_copy(update={"anomalib": AnomalibPlan(epochs=1, steps=1, batch=4), "detectors": ("padim",), "couplings": ("head",)}),
        tmp_path,
    )
    assert longer.computed == 0
