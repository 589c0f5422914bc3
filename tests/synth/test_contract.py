"""What every generator that runs without a network promises, whatever it draws. A new one joins with a line in CASES."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from aoi.captions.places import parse_place
from aoi.captions.spec import DefectSpec
from aoi.data.files import read_jsonl
from aoi.data.images import read_image, read_mask, write_image, write_mask
from aoi.errors import DataError
from aoi.synth import displace, mura, perlin
from aoi.synth.blend import changed
from aoi.synth.generate import GenerateOptions, generate_dataset
from aoi.synth.paint import is_grey
from aoi.synth.region import Region, find_region
from aoi.synth.registry import COPYING, GeneratorSettings, create_generator, drawn_names
from aoi.synth.shape import Shape, Window
from aoi.synth.types import Reaching
from aoi.synth.verification import FEATHER

SIZE = 128


@dataclass(frozen=True)
class Case:
    """How a generator is built, and what only it knows."""

    settings: Callable[[Path], dict] = lambda folder: {}
    """From an empty folder, for files it needs, the fields of `GeneratorSettings` that it needs; `GenerateOptions` has them too."""
    varies: tuple[str, tuple[str, ...]] | None = None
    """A parameter of its provenance, and every value that it takes."""
    comes_out: int = 19
    """Of 20 defects, so many pass verification at least."""
    fills: bool = True
    """It takes an outline that it is given; else outlines come with what it copies."""


def references(folder):
    """Two real blots on other sheets and brackets, with their masks."""
    for number, (scene, where) in enumerate([(sheet, (slice(50, 64), slice(40, 60))), (bracket, (slice(40, 52), slice(40, 56)))]):
        image, mask = scene(seed=90 + number)[0], np.zeros((SIZE, SIZE), bool)
        mask[where], image[where] = True, 20
        write_image(folder / "test" / "blot" / f"{number}.png", image)
        write_mask(folder / "ground_truth" / "blot" / f"{number}_mask.png", mask)
    return {"references": folder}


CASES = {
    "perlin": Case(varies=("look", perlin.LOOKS)),
    "cutpaste": Case(varies=("variant", ("plain", "scar"))),
    "cutpaste-plain": Case(varies=("variant", ("plain",))),
    "cutpaste-scar": Case(varies=("variant", ("scar",))),
    "displace": Case(varies=("mode", displace.MODES), comes_out=17),
    "graft": Case(references, comes_out=17, fills=False),
    "shade": Case(varies=("family", mura.FAMILIES)),
}


def sheet(*, grey=False, seed=0):
    """A brushed sheet with a coarser pattern that fills the frame."""
    rng = np.random.default_rng(seed)
    fine = cv2.GaussianBlur(rng.normal(0, 18, (SIZE, SIZE)).astype(np.float32), (0, 0), sigmaX=0.6, sigmaY=4)
    level = 120 + 2 * fine + 12 * np.sin(np.arange(SIZE) / 4)[:, None]
    return np.clip(level[..., None] + (np.zeros(3) if grey else np.array([15, 0, -20])), 0, 255).astype(np.uint8), np.ones(
        (SIZE, SIZE), bool
    )


def bracket(*, grey=False, seed=0):
    """A bright bracket with an arm on a dark plain ground."""
    rng, mask = np.random.default_rng(seed), np.zeros((SIZE, SIZE), np.uint8)
    cv2.rectangle(mask, (28, 26), (82, 94), 1, -1)
    cv2.rectangle(mask, (82, 52), (110, 66), 1, -1)
    fine = cv2.GaussianBlur(rng.normal(0, 30, (SIZE, SIZE)).astype(np.float32), (0, 0), 1.5)
    part = 150 + 2 * fine[..., None] + (np.zeros(3) if grey else np.array([25, 0, -30]))
    return np.clip(np.where(mask[..., None] > 0, part, 40 + rng.normal(0, 1, (SIZE, SIZE, 1))), 0, 255).astype(np.uint8), mask > 0


SCENES = [sheet, bracket]


@pytest.fixture(params=CASES)
def name(request):
    return request.param


@pytest.fixture
def settings(name, tmp_path):
    (folder := tmp_path / "settings").mkdir()
    return CASES[name].settings(folder)


@pytest.fixture
def made(name, settings):
    """Makes a defect in a place: with the region it may change."""
    generator = create_generator(name, GeneratorSettings(**settings))

    def make(image, foreground, seed, spec=None, shape=None):
        region = find_region(foreground, (spec or DefectSpec()).place)
        region = generator.reach(region) if isinstance(generator, Reaching) else region
        return generator.generate(image, region, spec or DefectSpec(), np.random.default_rng(seed), shape), region

    return make


def check_exact(image, defect, region):
    """The mask is what changed; beyond it nothing differs, or, where a change has no edge, a feather too faint to count."""
    np.testing.assert_array_equal(defect.mask, changed(image, defect.image))
    differs = (defect.image != image).any(axis=2)
    assert not ((differs | defect.mask) & ~region.mask).any()
    if defect.repainted is None:
        np.testing.assert_array_equal(differs, defect.mask)
    else:
        np.testing.assert_array_equal(differs | defect.mask, defect.repainted)
        assert not (differs & ~defect.mask & ~cv2.dilate(defect.mask.astype(np.uint8), np.ones((2 * FEATHER + 3,) * 2)).astype(bool)).any()


def test_every_generator_that_draws_is_held_to_this():
    own = {name for name in drawn_names() if type(create_generator(name)).__module__.startswith("aoi.synth.")}  # other tests bring theirs
    assert set(CASES) == {*own, *COPYING}


@pytest.mark.parametrize("grey", [True, False])
@pytest.mark.parametrize("scene", SCENES)
def test_the_mask_is_what_changed_and_nothing_else_did(name, made, scene, grey):
    image, foreground = scene(grey=grey)
    before, seen, shown = image.copy(), set(), 0
    parameter, values = CASES[name].varies or ("", ("",))
    for seed in range(40):
        defect, region = made(image, foreground, seed)
        check_exact(image, defect, region)
        shown += defect.mask.any()
        assert is_grey(defect.image) or not grey
        assert defect.provenance.generator == ("cutpaste" if name.startswith("cutpaste") else name)
        json.dumps(defect.provenance.as_dict(), allow_nan=False)
        seen.add(defect.provenance.parameters.get(parameter, ""))
    np.testing.assert_array_equal(image, before)
    assert shown >= 36  # what a pattern hides is refused and drawn again
    assert seen == set(values)


@pytest.mark.parametrize("scene", SCENES)
def test_the_seed_decides_everything(made, scene):
    one, same, other = (made(*scene(), seed)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.image, same.image)
    assert one.provenance == same.provenance
    assert not np.array_equal(one.image, other.image)


@pytest.mark.parametrize("place", ["left", "upper left", "edge"])
@pytest.mark.parametrize("scene", SCENES)
def test_no_other_place_of_the_part_changes(made, scene, place):
    image, foreground = scene()
    spec = DefectSpec(place=parse_place(place))
    elsewhere = foreground & ~find_region(foreground, spec.place).mask
    for seed in range(8):
        defect, region = made(image, foreground, seed, spec)
        check_exact(image, defect, region)
        assert not ((defect.image != image).any(axis=2) & elsewhere).any()


def test_a_place_that_misses_the_part_is_refused(name, settings):
    image, foreground = bracket()
    nowhere = Region(np.zeros_like(foreground), foreground)
    with pytest.raises(DataError, match="misses the part") as refused:
        create_generator(name, GeneratorSettings(**settings)).generate(image, nowhere, DefectSpec(), np.random.default_rng(0))
    assert refused.value.hint


@pytest.mark.parametrize("scene", SCENES)
def test_a_real_outline_confines_the_change(name, made, scene):
    if not CASES[name].fills:
        pytest.skip("brings its own outlines")
    image, foreground = scene()
    outline = np.zeros(foreground.shape, bool)
    outline[40:80, 36:80] = True
    shape = Shape(Window(30, 30, 90, 90), outline[30:90, 30:90], "real", 20.0, 0.0)
    far = cv2.distanceTransform((~outline).astype(np.uint8), cv2.DIST_L2, 3) > FEATHER
    for seed in range(12):
        defect, region = made(image, foreground, seed, shape=shape)
        check_exact(image, defect, region)
        assert defect.mask.any()
        assert not (defect.mask & far).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 3), (5, 40), (16, 16), (40, 300)])
def test_frames_of_any_size_are_survived(made, size, rng):
    image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    some = np.zeros(size, bool)
    some[: max(1, size[0] // 2), : max(1, size[1] // 2)] = True
    for foreground in (np.ones(size, bool), some):
        for seed in range(8):
            check_exact(image, *made(image, foreground, seed))


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_frames_are_survived(made, level):
    image = np.full((32, 32, 3), level, np.uint8)
    for seed in range(8):
        check_exact(image, *made(image, np.ones((32, 32), bool), seed))


@pytest.mark.parametrize("grey", [True, False])
@pytest.mark.parametrize("scene", SCENES)
def test_a_batch_comes_out_nearly_whole(name, settings, scene, grey, tmp_path):
    for number in range(3):
        write_image(tmp_path / "good" / f"{number}.png", scene(grey=grey, seed=number)[0])
    options = GenerateOptions(name, count=20, seed=5, workers=1, foreground="full" if scene is sheet else "otsu", **settings)
    report = generate_dataset(tmp_path / "good", tmp_path / "out", options)
    assert report.made >= CASES[name].comes_out
    for row in read_jsonl(report.manifest):
        if row["accepted"]:
            image, mask = read_image(tmp_path / "out" / row["image"]), read_mask(tmp_path / "out" / row["mask"])
            np.testing.assert_array_equal(changed(read_image(tmp_path / "good" / row["source"]), image), mask)
