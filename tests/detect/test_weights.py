"""Where backbones are looked for, in which order, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from aoi.detect import weights
from aoi.detect.backbones import load_backbone, resolve_device
from aoi.errors import ConfigError, ModelError


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet-18 up to layer2, random, named as its architecture."""
    import timm

    torch.manual_seed(0)
    network = timm.create_model("resnet18", features_only=True, pretrained=False, out_indices=(0, 1, 2))
    path = tmp_path_factory.mktemp("weights") / "resnet18_random.safetensors"
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    return path


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache and a hub out of reach."""
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.delenv("AOI_WEIGHTS", raising=False)


def test_a_file_names_its_architecture_and_ends_where_its_weights_end(resnet_file: Path) -> None:
    backbone = load_backbone(None, resnet_file)
    assert backbone.name == "resnet18"
    assert [(spec.name, spec.stride, spec.channels) for spec in backbone.available] == [
        ("act1", 2, 64),
        ("layer1", 4, 64),
        ("layer2", 8, 128),
    ]
    assert backbone.layers_for((8, 16)) == ("layer2",)
    assert backbone.layers_for((4, 8)) == ("layer1", "layer2")


def test_a_folder_of_weights_comes_before_everything_but_the_option(
    resnet_file: Path, no_hub: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AOI_WEIGHTS", str(resnet_file.parent))
    assert load_backbone("resnet18").source == str(resnet_file)
    assert load_backbone(None).source == str(resnet_file)
    assert load_backbone("aoi-small").source == "embedded"


def test_nothing_asked_for_and_nothing_found_is_the_embedded_backbone(no_hub: None) -> None:
    backbone = load_backbone()
    assert (backbone.name, backbone.source) == ("aoi-small", "embedded")
    assert {spec.name: (spec.stride, spec.channels) for spec in backbone.available} == {
        "layer1": (4, 64),
        "layer2": (8, 128),
        "layer3": (16, 256),
    }


def test_a_backbone_asked_for_by_name_is_never_replaced(no_hub: None) -> None:
    with pytest.raises(ModelError, match="no weights for backbone wide_resnet50_2") as error:
        load_backbone("wide_resnet50_2")
    assert "AOI_WEIGHTS" in error.value.hint


def test_wrong_names_files_and_layers_are_refused(resnet_file: Path, tmp_path: Path, no_hub: None) -> None:
    with pytest.raises(ConfigError, match="unknown backbone resnet81"):
        load_backbone("resnet81")
    with pytest.raises(ModelError, match="does not exist"):
        load_backbone(None, tmp_path / "none.safetensors")
    torn = tmp_path / "resnet18.safetensors"
    torn.write_bytes(resnet_file.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot read weights"):
        load_backbone(None, torn)
    with pytest.raises(ModelError, match="does not fit resnet50"):
        load_backbone("resnet50", resnet_file)
    with pytest.raises(ConfigError, match="no layer layer9"):
        load_backbone(None, resnet_file).with_layers(["layer9"])
    with pytest.raises(ConfigError, match="unknown torchvision weight"):
        load_backbone("ResNet19_Weights.NONE")
    with pytest.raises(ConfigError, match="cannot be used"):
        resolve_device("tpu0")


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(tmp_path / "sprung"),))

    torch.save({"conv1.weight": Trap()}, tmp_path / "resnet18.pth")
    with pytest.raises(ModelError, match="cannot read weights"):
        load_backbone(None, tmp_path / "resnet18.pth")
    assert not (tmp_path / "sprung").exists()


def test_the_fingerprint_tells_weights_apart(resnet_file: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    state = load_file(resnet_file)
    state["conv1.weight"] = state["conv1.weight"] + 1e-3
    save_file(state, tmp_path / resnet_file.name)
    assert load_backbone(None, resnet_file).fingerprint == load_backbone(None, resnet_file).fingerprint
    assert load_backbone(None, resnet_file).fingerprint != load_backbone(None, tmp_path / resnet_file.name).fingerprint


def test_bare_names_mean_torchvision_weights() -> None:
    assert weights.full_weight_name("resnet18") == "resnet18.tv_in1k"
    assert weights.full_weight_name("wide_resnet50_2") == "wide_resnet50_2.tv_in1k"
    assert weights.full_weight_name("resnet18.a1_in1k") == "resnet18.a1_in1k"


def test_a_torchvision_network_gives_its_last_map_of_each_stride() -> None:
    import torchvision

    backbone = weights.torchvision_backbone(torchvision.models.mobilenet_v2(weights=None), name="MobileNet_V2_Weights.NONE")
    assert [spec.stride for spec in backbone.available] == [2, 4, 8, 16, 32]
    assert len(backbone.layers_for((8, 16))) == 2


def test_real_weights_give_torchvision_features(shared_weights: Path, rng) -> None:
    import numpy as np
    import torchvision

    path = shared_weights / "resnet18_imagenet_conv1-layer3.safetensors"
    backbone = load_backbone(None, path).with_layers(["layer2"])
    image = rng.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    reference = torchvision.models.resnet18(weights=None)
    reference.load_state_dict(weights.read_state_dict(path), strict=False)
    reference.eval()
    x = (torch.from_numpy(image).permute(0, 3, 1, 2) / 255 - torch.tensor(backbone.mean).view(3, 1, 1)) / torch.tensor(backbone.std).view(
        3, 1, 1
    )
    with torch.inference_mode():
        stem = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x.float()))))
        expected = reference.layer2(reference.layer1(stem))
    np.testing.assert_allclose(backbone(image)["layer2"].numpy(), expected.numpy(), atol=1e-4)


def test_a_file_that_is_no_weights_is_not_recommended_to_be_trusted(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("count: 10\n")
    with pytest.raises(ModelError, match="is no state dict, or holds more than tensors") as caught:
        load_backbone(None, tmp_path / "plan.yaml")
    assert "weights_only" not in caught.value.message
