import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoi.captions.places import parse_place
from aoi.captions.spec import DefectSpec, SizeRange
from aoi.data.images import write_image
from aoi.errors import ConfigError, DataError
from aoi.synth.blend import changed
from aoi.synth.cutpaste import strip
from aoi.synth.paint import is_grey, moved_paint
from aoi.synth.perlin import LOOKS, put
from aoi.synth.region import find_region
from aoi.synth.registry import GeneratorSettings, create_generator, generator_names, register
from aoi.synth.shape import FAMILIES
from aoi.synth.texture import folder_texture, list_textures
from aoi.synth.types import Provenance, SynthDefect

NAMES = ("perlin", "cutpaste", "cutpaste-plain", "cutpaste-scar")


def surface(seed=0, size=128, *, grey=False):
    """Brushed metal with a darker corner: something every look shows on."""
    rng = np.random.default_rng(seed)
    field = cv2.GaussianBlur(rng.normal(0, 40, (size, size)).astype(np.float32), (0, 0), sigmaX=6, sigmaY=0.8)
    image = 120 + field[..., None] + np.linspace(-30, 30, size)[None, :, None] + (np.zeros(3) if grey else np.array([15, 0, -20]))
    return np.clip(image, 0, 255).astype(np.uint8)


def disc(size=128):
    return np.hypot(*np.mgrid[-size // 2 : size // 2, -size // 2 : size // 2]) < 0.42 * size


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    name=st.sampled_from(NAMES),
    place=st.sampled_from(["anywhere", "upper left", "右", "centre", "edge"]),
    blend=st.sampled_from(["feather", "poisson", "hard"]),
    grey=st.booleans(),
)
def test_only_the_mask_changes_and_only_in_the_region(seed, name, place, blend, grey):
    image, spec = surface(grey=grey), DefectSpec(place=parse_place(place))
    region, before = find_region(disc(), spec.place), image.copy()
    defect = create_generator(name, GeneratorSettings(blend=blend)).generate(image, region, spec, np.random.default_rng(seed))
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(defect.mask, changed(image, defect.image))
    np.testing.assert_array_equal(defect.image[~defect.mask], image[~defect.mask])
    assert not (defect.mask & ~region.mask).any()
    assert is_grey(defect.image) or not grey
    json.dumps(defect.provenance.as_dict(), allow_nan=False)


@pytest.mark.parametrize("name", NAMES)
def test_severity_raises_the_change(name):
    region, generator = find_region(disc()), create_generator(name)
    changes = []
    for severity in np.linspace(0, 1, 10):
        spec = DefectSpec(severity=float(severity), size=SizeRange(0.03, 0.03))
        defects = [generator.generate(surface(), region, spec, np.random.default_rng(seed)) for seed in range(12)]
        changes.append(np.mean([np.abs(defect.image.astype(float) - surface()).sum() for defect in defects]))
    assert (np.diff(changes) > 0).all()


def test_defects_are_as_large_as_asked_for():
    region, generator = find_region(np.ones((128, 128), bool)), create_generator("perlin")
    for wanted in (50, 400):
        spec = DefectSpec(size=SizeRange(wanted, wanted, "pixels"), severity=1.0)
        areas = [generator.generate(surface(), region, spec, np.random.default_rng(seed)).mask.sum() for seed in range(30)]
        assert 0.7 * wanted <= np.median(areas) <= 2.2 * wanted


def test_perlin_shows_every_look_and_outline():
    region, generator = find_region(disc()), create_generator("perlin")
    drawn = [generator.generate(surface(), region, DefectSpec(), np.random.default_rng(seed)).provenance.parameters for seed in range(120)]
    assert {each["look"] for each in drawn} == set(LOOKS)
    assert {each["outline"] for each in drawn} == set(FAMILIES)


def test_no_box_shows_along_a_pasted_piece(rng):
    """The steepest step along the outline of a piece, laid on by each blend."""
    image, painted = np.full((128, 128, 3), 90, np.uint8), np.full((128, 128, 3), 200, np.float32)
    region = find_region(np.ones((128, 128), bool))
    for area in (200, 800):
        shape = strip(region, area, scar=False, rng=rng)
        steps = {}
        for blend in ("feather", "poisson", "hard"):
            final, _ = put(image, painted[shape.window.slices], shape, 1.0, region, GeneratorSettings(blend=blend))
            steps[blend] = max(np.abs(np.diff(final[..., 0].astype(int), axis=axis)).max() for axis in (0, 1))
        assert steps["hard"] == 110
        assert steps["feather"] < 60
        assert steps["poisson"] < 10


def test_moved_material_is_the_image_itself_turned():
    image = surface()
    same = moved_paint(image, (20, 30), (11, 15), (25.0, 37.0), 0.0)
    np.testing.assert_allclose(same, image[20:31, 30:45], atol=1)
    turned = moved_paint(image, (20, 30), (11, 11), (25.0, 35.0), np.pi)
    np.testing.assert_allclose(turned, image[20:31, 30:41][::-1, ::-1], atol=1)


def test_textures_come_from_the_folder(tmp_path):
    pink = np.full((40, 30, 3), (255, 0, 200), np.uint8)
    write_image(tmp_path / "deep" / "粉.png", pink)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    paths = list_textures(tmp_path)
    assert len(paths) == 2
    for seed in range(8):
        piece, name = folder_texture(paths, (64, 90), np.random.default_rng(seed))
        assert piece.shape == (64, 90, 3)
        assert name == "粉.png"
        np.testing.assert_allclose(piece, np.broadcast_to(pink[0, 0], piece.shape), atol=1)


def test_texture_folders_that_cannot_serve_are_refused(tmp_path):
    with pytest.raises(DataError, match="no pictures"):
        list_textures(tmp_path)
    with pytest.raises(DataError, match="no texture folder"):
        create_generator("perlin", GeneratorSettings(textures=tmp_path / "missing"))
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(DataError, match="none of the 1"):
        folder_texture(list_textures(tmp_path), (8, 8), np.random.default_rng(0))


def test_names_are_unique_and_unknown_ones_list_the_known():
    assert set(NAMES) <= set(generator_names())
    with pytest.raises(ConfigError) as error:
        create_generator("perlim")
    assert "perlin" in error.value.hint
    assert "cutpaste" in error.value.hint
    with pytest.raises(ConfigError, match="already"):

        @register("perlin")
        def impostor(settings):
            raise AssertionError

    assert type(create_generator("perlin")).__name__ == "PerlinGenerator"


@pytest.mark.parametrize("opacity", [(0, 1), (0.8, 0.2), (0.5, 1.5)])
def test_impossible_opacities_are_refused(opacity):
    with pytest.raises(ConfigError, match="opacity"):
        GeneratorSettings(opacity=opacity)


def test_a_defect_knows_its_box_and_refuses_a_wrong_mask():
    mask = np.zeros((20, 30), bool)
    defect = SynthDefect(np.zeros((20, 30, 3), np.uint8), mask.copy(), Provenance("test", "anomaly", "anywhere"))
    assert defect.bbox is None
    mask[4:7, 10:12] = True
    assert SynthDefect(defect.image, mask, defect.provenance).bbox == (10, 4, 12, 7)
    with pytest.raises(DataError, match="mask is"):
        SynthDefect(defect.image, mask.T, defect.provenance)
