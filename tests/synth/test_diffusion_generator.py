"""The prompted generator end to end, with a random checkpoint in the stock layout."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from aoi.captions.spec import DefectSpec
from aoi.errors import ConfigError, ModelError
from aoi.synth.diffusion.catalogue import fetch, find_model, locate_model, models
from aoi.synth.diffusion.crop import Square
from aoi.synth.diffusion.generator import lost_grain
from aoi.synth.diffusion.pipeline import open_inpainter
from aoi.synth.diffusion.settings import DiffusionSettings
from aoi.synth.region import Region, find_region
from aoi.synth.registry import GeneratorSettings, create_generator
from aoi.synth.shape import noise_shape
from aoi.synth.types import Job

SPEC = DefectSpec(kind="anomaly", prompt="a dark stain")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.clip(rng.normal(120, 10, (90, 120, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def region() -> Region:
    part = np.zeros((90, 120), bool)
    part[10:80, 10:110] = True
    return find_region(part)


def job(image: np.ndarray, region: Region, seed: int, spec: DefectSpec = SPEC) -> Job:
    return Job(image, region, spec, np.random.default_rng(seed), noise_shape(region, 200, np.random.default_rng(seed), "blob"))


def generator(folder: Path, **changes):
    values = {"model": str(folder), "steps": 3, "guidance": 3.0, "batch_size": 3}
    return create_generator("diffusion", GeneratorSettings(diffusion=DiffusionSettings(**(values | changes))))


@pytest.fixture(scope="module")
def plain(tiny_inpainting):
    return generator(tiny_inpainting)


def test_everything_outside_the_feathered_mask_is_bit_identical(plain, image, region):
    defect = plain.generate_batch([job(image, region, 1)])[0]
    untouched = ~defect.repainted
    np.testing.assert_array_equal(defect.image[untouched], image[untouched])
    assert defect.mask.any()
    assert not (defect.mask & untouched).any()
    assert not (defect.repainted & ~region.foreground).any()
    assert defect.repainted.mean() < 0.5
    json.dumps(defect.provenance.as_dict())
    assert defect.provenance.parameters["prompt_sent"] == "a dark stain"


def test_a_picture_depends_on_its_own_job_alone(plain, image, region):
    together = plain.generate_batch([job(image, region, seed) for seed in (1, 2, 3)])
    again = plain.generate_batch([job(image, region, seed) for seed in (1, 2, 3)])
    alone = [plain.generate_batch([job(image, region, seed)])[0] for seed in (1, 2, 3)]
    for one, same, other in zip(together, again, alone, strict=True):
        np.testing.assert_array_equal(one.image, same.image)
        assert np.abs(one.image.astype(int) - other.image).max() <= 1  # the rounding of differently shaped products
    assert not np.array_equal(together[0].image, together[1].image)


@pytest.mark.parametrize("changes", [{"gpp": 1.0}, {"mgni": "posterior"}, {"mgni": "paper"}, {"sag": True, "sag_inside": (1.0, 2.0)}])
def test_perturbation_injection_and_adaptive_guidance_change_the_picture_inside(changes, plain, tiny_inpainting, image, region):
    before = plain.generate_batch([job(image, region, 1)])[0]
    changed = generator(tiny_inpainting, **changes).generate_batch([job(image, region, 1)])[0]
    assert not np.array_equal(before.image, changed.image)
    np.testing.assert_array_equal(changed.image[~changed.repainted], image[~changed.repainted])


def test_adaptive_guidance_of_one_strength_is_plain_guidance(plain, tiny_inpainting, image, region):
    same = generator(tiny_inpainting, sag=True, sag_inside=(3.0, 3.0)).generate_batch([job(image, region, 1)])[0]
    assert np.abs(same.image.astype(int) - plain.generate_batch([job(image, region, 1)])[0].image).max() <= 1


def test_severity_decides_how_much_is_painted_anew(plain, image, region):
    jobs = [job(image, region, 1, replace(SPEC, severity=severity)) for severity in (0.0, 1.0)]
    strengths = [defect.provenance.parameters["strength"] for defect in plain.generate_batch(jobs)]
    assert strengths == [0.3, 1.0]


def test_of_several_candidates_the_one_that_changed_most_is_kept(tiny_inpainting, image, region):
    parameters = generator(tiny_inpainting, candidates=3).generate_batch([job(image, region, 1)])[0].provenance.parameters
    assert len(parameters["scores"]) == len(parameters["seeds"]) == 3
    assert parameters["candidate"] == int(np.argmax(parameters["scores"]))
    assert parameters["ranked_by"].startswith("masked")


def test_a_withheld_picture_is_counted_and_changes_nothing(tiny_inpainting, image, region):
    blocked = generator(tiny_inpainting)
    pipeline = blocked.inpainter.pipeline
    pipeline.run_safety_checker = lambda image, device, dtype: (image, [True] * len(image))
    defect = blocked.generate_batch([job(image, region, 1)])[0]
    assert "safety checker" in defect.provenance.parameters["blocked"]
    np.testing.assert_array_equal(defect.image, image)


def test_an_adapter_changes_the_picture(plain, tiny_inpainting, image, region, tmp_path):
    from diffusers import StableDiffusionInpaintPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = StableDiffusionInpaintPipeline.from_pretrained(tiny_inpainting)
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    pipeline.save_lora_weights(tmp_path, unet_lora_layers=get_peft_model_state_dict(pipeline.unet))
    before = plain.generate_batch([job(image, region, 1)])[0].image
    for given in (str(tmp_path), f"{tmp_path / 'pytorch_lora_weights.safetensors'}:2.0"):
        assert not np.array_equal(generator(tiny_inpainting, loras=(given,)).generate_batch([job(image, region, 1)])[0].image, before)
    with pytest.raises(ModelError, match="there is no adapter"):
        open_inpainter(DiffusionSettings(model=str(tiny_inpainting), loras=(str(tmp_path / "nothing"),)))


def copied(folder: Path, out: Path) -> Path:
    return Path(shutil.copytree(folder, out))


def test_what_is_no_inpainting_checkpoint_is_refused_in_a_sentence(tiny_inpainting, tmp_path):
    with pytest.raises(ModelError, match="no model_index"):
        open_inpainter(DiffusionSettings(model=str(tmp_path)))

    torn = copied(tiny_inpainting, tmp_path / "torn")
    weights = torn / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be opened"):
        open_inpainter(DiffusionSettings(model=str(torn)))

    pickled = copied(tiny_inpainting, tmp_path / "pickled")
    weights = pickled / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match="pickled"):
        open_inpainter(DiffusionSettings(model=str(pickled)))

    with pytest.raises(ConfigError, match="no CUDA device") if not torch.cuda.is_available() else pytest.raises(ModelError):
        open_inpainter(DiffusionSettings(model=str(tiny_inpainting), device="cuda:0" if not torch.cuda.is_available() else "cuda:99"))


def test_a_text_to_image_checkpoint_is_no_inpainting_checkpoint(tiny_inpainting, tmp_path):
    from diffusers import UNet2DConditionModel

    folder = copied(tiny_inpainting, tmp_path / "plain")
    config = json.loads((folder / "unet" / "config.json").read_text()) | {"in_channels": 4}
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    with pytest.raises(ModelError, match="takes 4 channels, not 9"):
        open_inpainter(DiffusionSettings(model=str(folder)))


def test_the_catalogue_knows_licences_and_downloads_nothing_unasked(monkeypatch, tmp_path):
    monkeypatch.setattr("aoi.synth.diffusion.catalogue._cached", lambda hub: None)
    catalogue = models()
    assert catalogue.default.hub == "sd2-community/stable-diffusion-2-inpainting"
    assert all(model.licence for model in catalogue.models)
    assert "not fetched" in catalogue.summary()
    json.dumps(catalogue.as_dict())
    with pytest.raises(ConfigError, match="openrail") as caught:
        fetch("sd2")
    assert "--accept-licence" in caught.value.hint
    with pytest.raises(ConfigError, match="unknown model"):
        find_model("sd3")
    for name, hint in (
        (None, "aoi models fetch sd2"),
        ("sd15", "aoi models fetch sd15"),
        ("someone/model", "aoi models fetch someone/model"),
    ):
        with pytest.raises(ModelError) as missing:
            locate_model(name)
        assert hint in missing.value.hint
    with pytest.raises(ModelError, match="neither a folder nor a known model"):
        locate_model("nonsense")
    with pytest.raises(ModelError, match="cannot be used yet"):
        locate_model("flux-fill")


def test_what_training_wrote_is_found_one_folder_below(tiny_inpainting, tmp_path):
    copied(tiny_inpainting, tmp_path / "out" / "model")
    assert locate_model(str(tmp_path / "out")) == (str(tmp_path / "out"), tmp_path / "out" / "model")


def test_a_checkpoint_may_say_what_it_paints_best_with(tiny_inpainting, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_inpainting, folder)
    (folder / "aoi.json").unlink(missing_ok=True)
    usual = open_inpainter(DiffusionSettings(model=str(folder)))
    assert (usual.steps, usual.guidance) == (50, 7.5)
    (folder / "aoi.json").write_text('{"steps": 7, "guidance": 2.5}')
    advised = open_inpainter(DiffusionSettings(model=str(folder)))
    told = open_inpainter(DiffusionSettings(model=str(folder), guidance=1.0))
    assert (advised.steps, advised.guidance) == (7, 2.5)
    assert (told.steps, told.guidance) == (7, 1.0)
    (folder / "aoi.json").write_text('{"guidance": "much"}')
    with pytest.raises(ModelError, match="damaged"):
        open_inpainter(DiffusionSettings(model=str(folder)))


def test_where_the_model_sees_less_than_the_image_shows_the_grain_comes_back():
    """A picture painted as it was comes out as it was, however much larger the square is than the model's resolution."""
    rng = np.random.default_rng(0)
    image = np.clip(rng.normal(120, 30, (200, 260, 3)), 0, 255).astype(np.uint8)
    square = Square(10, 20, 160, 64)
    seen = square.put(square.cut(image).astype(np.float32), (200, 260))
    inside = np.zeros((200, 260), bool)
    inside[10:170, 20:180] = True
    restored = seen + lost_grain(image, seen, seen, square)
    np.testing.assert_allclose(restored[inside], image[inside], atol=1e-3)
    assert not restored[~inside].any()
    darker = lost_grain(image, seen, seen * 0.3, square)
    assert 0.2 < darker[inside].std() / (restored - seen)[inside].std() < 0.4


@pytest.mark.parametrize(
    "changes", [{}, {"gpp": 0.5, "mgni": "posterior", "sag": True}, {"guidance": 1.0}], ids=["plain", "all", "unguided"]
)
def test_a_checkpoint_with_two_text_encoders_paints_too(tiny_inpainting_xl, image, region, changes):
    painter = generator(tiny_inpainting_xl, **changes)
    defects = painter.generate_batch([job(image, region, seed) for seed in (1, 2)])
    for defect in defects:
        np.testing.assert_array_equal(defect.image[~defect.repainted], image[~defect.repainted])
        assert defect.mask.any()
    other = painter.generate_batch([job(image, region, 1, DefectSpec(kind="anomaly", prompt="rust"))])[0]
    assert not np.array_equal(defects[0].image, other.image)
