"""Unevenness: soft outlines, texture as it was, contrast by severity, families, words, outlines; see also test_contract.py."""

import cv2
import numpy as np
import pytest

from aoi.captions.prompt import parse_prompt
from aoi.captions.spec import DefectSpec, SizeRange
from aoi.data.files import read_jsonl
from aoi.data.images import write_image
from aoi.synth.blend import CHANGE, changed, settle_within
from aoi.synth.checks import CheckOptions, run_checks
from aoi.synth.generate import GenerateOptions, generate_dataset
from aoi.synth.mura import FAMILIES, draw_veil, veil_of
from aoi.synth.paint import luma
from aoi.synth.region import find_region
from aoi.synth.registry import create_generator
from aoi.synth.shade import FAMILIES_OF_KINDS, OWN_SIZE, shaded
from aoi.synth.shape import Shape, Window
from aoi.synth.verification import verify
from aoi.synth.visibility import least_visible, visibility

SIZE = 128


def brushed(size=SIZE, *, grey=False, seed=0):
    """A brushed sheet that fills the frame."""
    rng = np.random.default_rng(seed)
    fine = cv2.GaussianBlur(rng.normal(0, 18, (size, size)).astype(np.float32), (0, 0), sigmaX=0.6, sigmaY=4)
    level = 120 + 2.0 * fine[..., None] + (np.zeros(3) if grey else np.array([15, 0, -20]))
    return np.clip(level, 0, 255).astype(np.uint8), np.ones((size, size), bool)


def part(size=SIZE, *, grey=False, seed=0):
    """A textured disc with a dark hole before a bright ground, and its foreground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size]
    radius = np.hypot(y - size / 2, x - size / 2)
    inside = radius < 0.4 * size
    fine = cv2.GaussianBlur(rng.normal(0, 12, (size, size)).astype(np.float32), (0, 0), 0.8)
    disc = np.where(radius < 0.15 * size, 6.0, 100 + fine)[..., None] + (np.zeros(3) if grey else np.array([20, 0, -15]))
    image = np.where(inside[..., None], disc, 220 + rng.normal(0, 1, (size, size, 1)))
    return np.clip(image, 0, 255).astype(np.uint8), inside


def made(image, foreground, seed, spec=None, shape=None):
    spec = spec or DefectSpec()
    region = find_region(foreground, spec.place)
    return create_generator("shade").generate(image, region, spec, np.random.default_rng(seed), shape), region


def fine_of(image):
    grey = luma(image.astype(np.float32))
    return grey - cv2.GaussianBlur(grey, (0, 0), 1)


@pytest.mark.parametrize("grey", [True, False])
def test_the_texture_stays_unless_it_is_dulled(grey):
    image, foreground = brushed(grey=grey)
    alike, kept, lost = [], [], []
    for seed in range(40):
        defect, _ = made(image, foreground, seed)
        inner = cv2.erode(defect.mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        before, after = fine_of(image)[inner], fine_of(defect.image)[inner]
        if defect.provenance.parameters["dull"] == 0:
            alike.append(np.corrcoef(before, after)[0, 1])
            kept.append(after.std() / before.std() - 1)
            assert np.sign(kept[-1]) == np.sign(defect.provenance.parameters["contrast"])  # a factor, not an offset
        else:
            lost.append(after.std() / before.std() - 1 - max(0, defect.provenance.parameters["contrast"]))
    assert np.median(alike) > 0.985
    assert min(alike) > 0.94  # small spots rise fast enough to show among the finest texture
    assert np.abs(kept).max() < 0.3
    assert len(lost) >= 4
    assert max(lost) < -0.05


def test_the_change_is_a_factor_on_every_colour():
    image = np.dstack([np.full((40, 40), level, np.uint8) for level in (200, 100, 50)])
    gain = np.full((40, 40), 0.2, np.float32)
    np.testing.assert_array_equal(shaded(image, gain, np.ones(3, np.float32))[0, 0], (240, 120, 60))
    np.testing.assert_array_equal(shaded(image, -gain, np.array([1, 0.5, 0], np.float32))[0, 0], (160, 90, 50))
    np.testing.assert_array_equal(shaded(image[..., :1].repeat(3, axis=2), 2 * gain, np.ones(3, np.float32))[0, 0], (255, 255, 255))


def test_no_outline_shows():
    """Beside the outline the change is a few levels and falls away; on a plain surface nothing steps by more than two levels."""
    image = np.full((SIZE, SIZE, 3), 120, np.uint8)
    for seed in range(40):
        defect, _ = made(image, np.ones((SIZE, SIZE), bool), seed)
        change = np.abs(defect.image[..., 0].astype(int) - 120)
        sharp = defect.provenance.parameters["family"] == "edge"
        rim = cv2.dilate(defect.mask.astype(np.uint8), np.ones((3, 3))) - cv2.erode(defect.mask.astype(np.uint8), np.ones((3, 3)))
        steps = np.abs(np.diff(change, axis=0))[(rim[1:] & rim[:-1]) > 0]
        assert np.quantile(steps, 0.9) <= (4 if sharp else 2)
        assert defect.image[~defect.mask].min() >= 120 - CHANGE
        assert defect.image[~defect.mask].max() <= 120 + CHANGE


@pytest.mark.parametrize("scene", [brushed, part])
def test_severity_is_contrast(scene):
    image, foreground = scene()
    for seed in range(12):
        defects = [made(image, foreground, seed, DefectSpec(severity=severity))[0] for severity in (0.0, 0.25, 0.5, 0.75, 1.0)]
        contrasts = [abs(defect.provenance.parameters["contrast"]) for defect in defects]
        assert contrasts == sorted(contrasts)
        assert contrasts[0] < contrasts[-1]
        whole = defects[-1].mask
        changes = [np.abs(defect.image.astype(int) - image)[whole].mean() for defect in defects]
        assert changes == sorted(changes)


def test_contrast_is_what_the_field_calls_mura():
    """On a quiet surface from just visible to 15 % of the brightness; what its texture hides is stronger."""
    plain = np.full((SIZE, SIZE, 3), 200, np.uint8)
    whole = np.ones((SIZE, SIZE), bool)
    contrasts = [abs(made(plain, whole, seed)[0].provenance.parameters["contrast"]) for seed in range(60)]
    assert min(contrasts) > 0.03
    assert 0.13 < max(contrasts) <= 0.17
    rng = np.random.default_rng(0)
    rough = np.clip(200 + cv2.GaussianBlur(rng.normal(0, 300, (SIZE, SIZE)), (0, 0), 4)[..., None].repeat(3, axis=2), 0, 255).astype(
        np.uint8
    )
    strong = [abs(made(rough, whole, seed)[0].provenance.parameters["contrast"]) for seed in range(60)]
    assert np.median(strong) > 1.2 * np.median(contrasts)


@pytest.mark.parametrize("scene", [brushed, part])
def test_the_least_that_is_visible_has_a_visibility_of_one(scene):
    image, foreground = scene()
    mask = cv2.erode(foreground.astype(np.uint8), np.ones((25, 25), np.uint8), borderValue=0) > 0
    levels = least_visible(image, mask, foreground)
    shifted = np.where(mask[..., None], np.clip(np.rint(image + levels), 0, 255), image).astype(np.uint8)
    assert visibility(image, shifted, mask, foreground) == pytest.approx(1, abs=0.25)


def test_areas_are_large_unless_a_size_is_named():
    image, foreground = brushed()
    shares = [made(image, foreground, seed)[0].mask.mean() for seed in range(40)]
    assert OWN_SIZE[0] * 0.7 < min(shares) < 0.12
    assert 0.25 < max(shares) <= OWN_SIZE[1] + 0.01
    for wanted in (400, 1600):
        spec = DefectSpec(size=SizeRange(wanted, wanted, "pixels"))
        areas = [made(image, foreground, seed, spec)[0].mask.sum() for seed in range(20)]
        assert 0.8 * wanted <= np.median(areas) <= 1.01 * wanted


def test_dark_holes_and_the_background_are_left_alone():
    image, foreground = part(grey=True)
    generous = cv2.dilate(foreground.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    hole = np.hypot(*(np.mgrid[0:SIZE, 0:SIZE] - SIZE / 2)) < 0.15 * SIZE - 6
    shaded_discs = 0
    for seed in range(30):
        defect, _ = made(image, generous, seed)
        if np.median(image[defect.mask]) < 60:
            continue  # the hole itself is shaded
        shaded_discs += 1
        assert (defect.mask & hole).sum() <= 0.15 * hole.sum()
        assert (defect.mask & ~cv2.dilate(foreground.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)).sum() < 0.02 * SIZE**2
    assert shaded_discs > 20


def test_black_parts_turn_hazy():
    black = np.full((SIZE, SIZE, 3), 14, np.uint8)
    for seed in range(12):
        defect, region = made(black, np.ones((SIZE, SIZE), bool), seed)
        assert defect.provenance.parameters["contrast"] > 0
        assert verify(black, defect.image, defect.asked, region, DefectSpec(), mask=defect.mask, repainted=defect.repainted).accepted


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scene", [brushed, part])
def test_every_family_is_soft_and_as_large_as_asked_for(family, scene):
    _, foreground = scene()
    region = find_region(foreground)
    for seed in range(8):
        area = int(0.15 * foreground.sum())
        veil = draw_veil(region, family, area, np.random.default_rng(seed))
        assert 0.8 * area <= veil.mask.sum() <= area
        assert not (veil.mask & ~region.mask).any()
        assert (veil.height[~veil.mask] == 0).all()
        assert 0.8 < veil.height.max() <= 1
        assert veil.height[veil.mask].mean() < 0.8
        inner = cv2.erode(foreground.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        assert np.abs(np.diff(veil.height, axis=1))[inner[:, 1:]].max() < 0.6


def test_an_edge_is_sharper_on_one_side():
    region = find_region(np.ones((SIZE, SIZE), bool))
    for seed in range(8):
        veil = draw_veil(region, "edge", 3000, np.random.default_rng(seed), angle=0.0)
        down = np.diff(veil.height, axis=0)[:, veil.height.max(axis=0) > 0.8]
        steepest = sorted(float(np.median(side.max(axis=0))) for side in (down, -down))
        assert steepest[1] > 1.8 * steepest[0]


@pytest.mark.parametrize(
    ("sentence", "families", "check"),
    [
        ("uneven brightness, slight", FAMILIES, lambda drawn: True),
        ("表面亮度不均", FAMILIES, lambda drawn: True),
        ("a cloudy surface", FAMILIES, lambda drawn: True),
        ("a large bright stain", FAMILIES_OF_KINDS["stain"], lambda drawn: drawn["contrast"] > 0),
        (
            "dark discoloration",
            FAMILIES_OF_KINDS["discoloration"],
            lambda drawn: drawn["contrast"] < 0 and max(np.abs(drawn["tint"])) > 0.39,
        ),
        ("yellow discoloration", FAMILIES_OF_KINDS["discoloration"], lambda drawn: drawn["tint"][2] * drawn["contrast"] < 0),
        ("worn area", FAMILIES_OF_KINDS["wear"], lambda drawn: drawn["dull"] > 0),
        ("horizontal uneven band", ("band",), lambda drawn: True),
    ],
)
def test_a_sentence_is_followed(sentence, families, check):
    image, foreground = brushed()
    for seed in range(6):
        defect, _ = made(image, foreground, seed, parse_prompt(sentence))
        drawn = defect.provenance.parameters
        assert drawn["family"] in families
        assert check(drawn), drawn


def test_horizontal_is_horizontal():
    image, foreground = brushed()
    for seed in range(6):
        defect, _ = made(image, foreground, seed, parse_prompt("a horizontal uneven band"))
        x, y, width, height = cv2.boundingRect(defect.mask.astype(np.uint8))
        assert width > 1.2 * height, (x, y)


def test_a_small_drawn_outline_of_our_kinds_is_not_the_area_and_others_are_filled():
    image, foreground = brushed()
    outline = np.zeros(foreground.shape, bool)
    outline[50:70, 40:80] = True
    drawn, real = (Shape(Window(30, 40, 90, 80), outline[40:80, 30:90], name, 20.0, 0.0) for name in ("blob", "real"))
    large, _ = made(image, foreground, 0, DefectSpec("uneven"), drawn)
    assert large.mask.sum() > 1.5 * outline.sum()
    np.testing.assert_array_equal(large.asked, large.mask)
    for kind, shape in (("uneven", real), ("dent", drawn)):
        for seed in range(8):
            filled, _ = made(image, foreground, seed, DefectSpec(kind), shape)
            assert not (filled.mask & ~outline).any()
            assert filled.mask.sum() > 0.9 * outline.sum()
            assert filled.asked is None
    assert made(image, foreground, 0, DefectSpec("stain", thickness=9, thickness_unit="pixels"), drawn)[0].mask.sum() <= outline.sum()


def test_given_outlines_rise_inwards(rng):
    region = find_region(np.ones((64, 64), bool))
    outline = np.zeros((64, 64), bool)
    outline[10:50, 16:48] = True
    veil = veil_of(Shape(Window(0, 0, 64, 64), outline, "real", 32.0, 0.0), region, rng)
    np.testing.assert_array_equal(veil.mask, outline)
    assert veil.height[30, 32] > 0.5
    assert veil.height[10, 32] < 0.1
    whole = veil_of(Shape(Window(0, 0, 64, 64), np.ones((64, 64), bool), "real", 64.0, 0.0), region, rng)
    assert np.isfinite(whole.height).all()


def test_settled_within_a_label_everything_says_the_same(rng):
    """Random pictures, labels and places: the mask is the label, and is exactly what changed."""
    for _ in range(20):
        image, mixed = rng.integers(0, 256, (2, 30, 40, 3)).astype(np.uint8)
        if rng.random() < 0.5:
            mixed = np.clip(image.astype(int) + rng.integers(-5, 6), 0, 255).astype(np.uint8)
        label, allowed = np.zeros((2, 30, 40), bool)
        label[5:15, 5:25], allowed[:, 8:] = True, True
        final, mask, beyond = settle_within(image, mixed, label, allowed, 4)
        np.testing.assert_array_equal(mask, label & allowed)
        np.testing.assert_array_equal(mask, changed(image, final))
        np.testing.assert_array_equal(beyond, (final != image).any(axis=2))
        assert not (beyond & ~allowed).any()
        assert not beyond[20:].any()


def test_a_batch_of_a_sentence_comes_out_too(tmp_path):
    write_image(tmp_path / "good" / "0.png", brushed()[0])
    options = GenerateOptions("shade", count=6, seed=1, workers=1, foreground="full", prompt="uneven brightness in the upper half, slight")
    report = generate_dataset(tmp_path / "good", tmp_path / "out", options)
    assert report.made == 6
    for row in read_jsonl(report.manifest):
        assert (row["kind"], row["rejections"]) == ("uneven", [])
        assert row["bbox"][3] <= SIZE // 2 + 1
        assert row["foreground_fraction"] > 0.03


def test_the_three_checks_pass(tmp_path):
    for number in range(2):
        write_image(tmp_path / f"{number}.png", brushed(seed=number)[0])
    report = run_checks(tmp_path, CheckOptions(generator="shade", images=2, foreground="full"))
    assert report.passed, report.summary()
