"""The embedded backbone: it fits where ResNet-18 fits, its weights are the ones its card describes, and it imitates its teacher."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from aoi.detect import embedded
from aoi.detect.embedded import CHANNELS, DEPTHS, LAYERS, AoiSmall, card, load_embedded
from aoi.errors import ModelError

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "detect" / "weights" / "aoi-small.safetensors"


@pytest.fixture(scope="module")
def backbone() -> AoiSmall:
    return load_embedded()


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def coins(side: int) -> torch.Tensor:
    """A photograph that was never trained on, ImageNet-normalised, 1×3×S×S."""
    import cv2
    import skimage

    photo = cv2.imread(str(Path(skimage.__file__).parent / "data" / "coins.png"), cv2.IMREAD_COLOR_RGB)
    pixels = torch.from_numpy(cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA)).permute(2, 0, 1)[None].float() / 255
    return (pixels - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


@pytest.mark.parametrize("size", [(256, 256), (224, 320), (97, 131), (32, 33)])
def test_maps_have_the_shapes_of_resnet18_at_any_size(backbone: AoiSmall, size: tuple[int, int]) -> None:
    from torchvision.models import resnet18
    from torchvision.models.feature_extraction import create_feature_extractor

    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        ours = backbone(images)
        theirs = create_feature_extractor(resnet18(weights=None).eval(), list(LAYERS))(images)
    assert list(ours) == list(LAYERS)
    assert {name: tuple(f.shape) for name, f in ours.items()} == {name: tuple(f.shape) for name, f in theirs.items()}


def test_it_is_plain_convolutions_ready_for_inference(backbone: AoiSmall) -> None:
    kinds = {type(m) for m in backbone.modules() if not list(m.children())}
    assert kinds == {torch.nn.Conv2d, torch.nn.ReLU}
    assert not backbone.training
    assert not any(p.requires_grad for p in backbone.parameters())
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}


def test_features_are_rectified_and_every_layer_speaks(backbone: AoiSmall) -> None:
    features = backbone(coins(256))
    for name, channels in zip(LAYERS, CHANNELS, strict=True):
        assert features[name].min() == 0
        assert (features[name].amax((0, 2, 3)) > 0).sum() > 0.9 * channels


def test_only_the_layers_asked_for_are_read_out(backbone: AoiSmall) -> None:
    images = coins(128)
    every = backbone(images)
    some = backbone(images, layers=("layer2", "layer3"))
    assert set(some) == {"layer2", "layer3"}
    assert torch.equal(some["layer2"], every["layer2"])


def test_an_image_does_not_feel_its_batch(backbone: AoiSmall) -> None:
    images = torch.cat([coins(128), torch.randn(3, 3, 128, 128)])
    together, alone = backbone(images), backbone(images[:1])
    for name in LAYERS:
        torch.testing.assert_close(together[name][:1], alone[name], atol=1e-4, rtol=1e-4)


def test_the_card_describes_these_weights() -> None:
    content, written = WEIGHTS.read_bytes(), card()
    assert written["sha256"] == hashlib.sha256(content).hexdigest()
    assert written["bytes"] == len(content) <= 3_000_000
    assert written["licence"] == "Apache-2.0"
    assert written["teacher"]["licence"] == "BSD-3-Clause"
    assert written["parameters"] == sum(p.numel() for p in AoiSmall().parameters())
    assert tuple(written["depths"]) == DEPTHS
    assert all({"seed", "steps", "batch", "photo_share"} <= set(stage) for stage in written["recipe"])
    assert written["images"]["seen"] == sum(stage["images_seen"] for stage in written["recipe"])
    assert not set(written["images"]["scikit_image_photographs"]) & set(written["images"]["held_out_photographs"])
    assert written["sha256"][:16] in WEIGHTS.with_suffix(".md").read_text(encoding="utf-8")


def test_missing_damaged_or_foreign_weights_are_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    monkeypatch.setattr(embedded, "_weights_folder", lambda: tmp_path)
    file = tmp_path / "aoi-small.safetensors"
    with pytest.raises(ModelError, match="missing") as missing:
        load_embedded()
    assert missing.value.hint
    for content in (b"", WEIGHTS.read_bytes()[:1000]):
        file.write_bytes(content)
        with pytest.raises(ModelError, match="damaged"):
            load_embedded()
    save_file({"stem.0.weight": torch.zeros(3)}, file)
    with pytest.raises(ModelError, match="another version"):
        load_embedded()


def test_it_imitates_its_teacher_on_a_photograph_it_never_saw(backbone: AoiSmall, shared_weights: Path) -> None:
    from safetensors.torch import load_file
    from torchvision.models import resnet18
    from torchvision.models.feature_extraction import create_feature_extractor

    teacher = resnet18(weights=None)
    missing = teacher.load_state_dict(load_file(shared_weights / "resnet18_imagenet_conv1-layer3.safetensors"), strict=False)
    assert all(key.startswith(("layer4", "fc")) for key in missing.missing_keys)
    with torch.inference_mode():
        theirs = create_feature_extractor(teacher.eval(), list(LAYERS))(coins(256))
        ours = backbone(coins(256))
    for name in LAYERS:
        spread = (theirs[name] - theirs[name].mean((2, 3), keepdim=True)).square().mean()
        assert (ours[name] - theirs[name]).square().mean() / spread < 0.85
        assert ours[name].std() == pytest.approx(float(theirs[name].std()), rel=0.35)


@pytest.mark.usefixtures("scripts")
def test_folding_changes_no_output() -> None:
    from backbone_export import folded
    from train_backbone import TrainedBlock

    torch.manual_seed(0)
    trained = AoiSmall(TrainedBlock)
    for module in trained.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 2)
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before, after = trained.eval()(images), folded(trained)(images)
    for name in LAYERS:
        assert before[name].std() > 0.01
        torch.testing.assert_close(after[name], before[name], atol=1e-3, rtol=1e-3)


@pytest.mark.usefixtures("scripts")
def test_the_loss_is_zero_only_for_the_teacher_and_pulls_up_dead_channels() -> None:
    from train_backbone import layer_loss, residual

    teacher = torch.randn(2, 8, 12, 12).relu()
    variance = teacher.var((0, 2, 3))
    below_zero = torch.where(teacher > 0, teacher, -torch.rand_like(teacher))
    assert layer_loss(below_zero, teacher, variance) == 0
    assert layer_loss(teacher * 0.9, teacher, variance) > 0
    dead = torch.full((1,), -1.0, requires_grad=True)
    residual(dead, torch.ones(1)).square().sum().backward()
    assert dead.grad is not None
    assert dead.grad.item() < 0


@pytest.mark.usefixtures("scripts")
def test_training_images_depend_on_seed_and_place_alone(tmp_path: Path) -> None:
    from backbone_images import Batches
    from backbone_scenes import random_scene

    photos = [np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)]
    scenes = np.stack([random_scene(np.random.default_rng((7, i)), 96, photos) for i in range(12)])
    again = np.stack([random_scene(np.random.default_rng((7, i)), 96, photos) for i in range(12)])
    assert np.array_equal(scenes, again)
    assert (scenes.reshape(12, -1).std(1) > 0).sum() > 9
    np.save(tmp_path / "pool.npy", scenes)
    whole = Batches(tmp_path / "pool.npy", 3, (48, 64), 5, 0, 6)
    resumed = Batches(tmp_path / "pool.npy", 3, (48, 64), 5, 4, 6)
    assert len(resumed) == 2
    assert np.array_equal(whole[4], resumed[0])
    assert whole[0].shape != whole[1].shape or not np.array_equal(whole[0], whole[1])


@pytest.mark.slow
def test_it_is_at_least_twice_as_fast_as_resnet18(backbone: AoiSmall) -> None:
    from torchvision.models import resnet18
    from torchvision.models.feature_extraction import create_feature_extractor

    teacher = create_feature_extractor(resnet18(weights=None).eval(), list(LAYERS)).to(memory_format=torch.channels_last)
    images = torch.randn(8, 3, 256, 256).contiguous(memory_format=torch.channels_last)
    best = {}
    with torch.inference_mode():
        for name, model in (("ours", backbone), ("theirs", teacher)) * 6:
            began = time.perf_counter()
            model(images)
            best[name] = min(best.get(name, 1e9), time.perf_counter() - began)
    assert best["ours"] * 2 < best["theirs"]


def test_bfloat16_hardly_moves_the_features_and_belongs_to_the_run(tmp_path) -> None:
    from aoi.detect.backbones import load_backbone
    from aoi.errors import ConfigError

    backbone = load_backbone("aoi-small")
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    exact, coarse = backbone(images), backbone.with_precision("bfloat16")(images)
    for name, found in exact.items():
        assert coarse[name].dtype == found.dtype
        assert 0 < float((coarse[name] - found).norm() / found.norm()) < 0.03
    assert backbone.with_precision("auto").precision in ("float32", "bfloat16")
    with pytest.raises(ConfigError, match="unknown precision"):
        backbone.with_precision("float8")
