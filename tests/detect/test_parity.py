"""The same backbone, bank and settings give anomalib's maps and scores."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from aoi.data.images import read_image, resize_image
from aoi.detect.backbones import Backbone, load_backbone
from aoi.detect.detector import make_detector
from aoi.detect.features import FeatureSet

SIZE = (256, 256)


@pytest.fixture(scope="module")
def backbone(shared_weights: Path) -> Backbone:
    return load_backbone("resnet18", shared_weights / "resnet18_imagenet_conv1-layer3.safetensors").with_layers(
        ("layer1", "layer2", "layer3")
    )


@pytest.fixture(scope="module")
def images(shared_data: Path) -> np.ndarray:
    """12 good transistors to fit on, 4 test images of which 3 are defective; N×H×W×3 uint8."""
    root = shared_data / "mvtec_ad" / "transistor"
    paths = sorted((root / "train" / "good").iterdir())[:12]
    paths += [sorted((root / "test" / label).iterdir())[0] for label in ("good", "bent_lead", "damaged_case", "misplaced")]
    return np.stack([resize_image(read_image(path), SIZE) for path in paths])


def features_of(backbone: Backbone, images: np.ndarray) -> FeatureSet:
    maps = {name: found.numpy() for name, found in backbone(images).items()}
    return FeatureSet(maps, SIZE, tuple(Path(str(i)) for i in range(len(images))))


def normalised(images: np.ndarray, backbone: Backbone) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (backbone.mean, backbone.std))
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std


def anomalib_model(kind: str, backbone: Backbone, **options):
    warnings.simplefilter("ignore")
    from anomalib.models.image.padim.torch_model import PadimModel
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    layers = ["layer2", "layer3"] if kind == "patchcore" else ["layer1", "layer2", "layer3"]
    model = (PatchcoreModel if kind == "patchcore" else PadimModel)(layers=layers, backbone="resnet18", pre_trained=False, **options)
    own = {key.removeprefix("network."): value for key, value in backbone.network.state_dict().items()}
    inner = model.feature_extractor.feature_extractor
    missing = inner.load_state_dict(own, strict=False).missing_keys
    assert not [key for key in missing if not key.endswith("num_batches_tracked")]
    return model.eval()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_patchcore_equals_anomalib(backbone: Backbone, images: np.ndarray) -> None:
    ours = make_detector(
        "patchcore", {"coreset_ratio": 0.02, "upsampling": "nearest", "image_score": "patch"}, layers=("layer2", "layer3"), seed=0
    )
    ours.fit(features_of(backbone, images[:12]))
    theirs = anomalib_model("patchcore", backbone, num_neighbors=9)
    theirs.memory_bank = torch.from_numpy(ours.state()["memory_bank"])
    found = ours.score(features_of(backbone, images[12:]))
    with torch.inference_mode():
        expected = theirs(normalised(images[12:], backbone))
    np.testing.assert_allclose(found.maps, expected.anomaly_map[:, 0].numpy(), atol=1e-4)
    np.testing.assert_allclose(found.image_scores, expected.pred_score.flatten().numpy(), atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_padim_equals_anomalib(backbone: Backbone, images: np.ndarray) -> None:
    """anomalib adds 1e-5 to its 0.01 on the diagonal; so does this test."""
    ours = make_detector("padim", {"dims": 40, "epsilon": 0.01001}, layers=("layer1", "layer2", "layer3"), seed=0)
    train = features_of(backbone, images[:12])
    ours.fit(train)
    theirs = anomalib_model("padim", backbone, n_features=40)
    theirs.idx = torch.from_numpy(ours.state()["channels"])
    theirs.train()
    theirs.feature_extractor.eval()
    with torch.inference_mode():
        theirs(normalised(images[:12], backbone))
        theirs.fit()
        expected = theirs.eval()(normalised(images[12:], backbone))
    found = ours.score(features_of(backbone, images[12:]))
    scale = float(expected.anomaly_map.max())
    np.testing.assert_allclose(found.maps / scale, expected.anomaly_map[:, 0].numpy() / scale, atol=1e-4)
    np.testing.assert_allclose(found.image_scores / scale, expected.pred_score.flatten().numpy() / scale, atol=1e-4)
