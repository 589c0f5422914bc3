"""What really changed, and which defects are let through."""

import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from aoi.captions.spec import DefectSpec, SizeRange
from aoi.errors import DataError
from aoi.synth.blend import changed
from aoi.synth.change import colour_change, noise_level, refined_mask
from aoi.synth.region import Region, find_region
from aoi.synth.verification import seam, verify
from aoi.synth.visibility import extent, mean_change, visibility

SIZE = 128
ALL = np.ones((SIZE, SIZE), bool)
SPOT = np.hypot(*np.mgrid[-64:64, -64:64]) < 9
AT_LEAST_50 = DefectSpec(size=SizeRange(50, 5000, "pixels"))


def surface(seed=0):
    """Brushed metal, coloured, with a darker corner."""
    rng = np.random.default_rng(seed)
    field = cv2.GaussianBlur(rng.normal(0, 40, (SIZE, SIZE)).astype(np.float32), (0, 0), sigmaX=6, sigmaY=0.8)
    image = 120 + field[..., None] + np.linspace(-30, 30, SIZE)[None, :, None] + np.array([15, 0, -20])
    return np.clip(image, 0, 255).astype(np.uint8)


def disc():
    return np.hypot(*np.mgrid[-64:64, -64:64]) < 54


def painted(image, value, mask):
    return np.where(mask[..., None], value, image).astype(np.uint8)


def jpeg(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def judged(image, result, region, spec=AT_LEAST_50, **more):
    mask = changed(image, result)
    return verify(image, result, mask, region, spec, mask=mask, **more)


def line(width=1):
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.polylines(mask, [np.array([[20, 30], [60, 55], [105, 60]], np.int32)], False, 1, width)
    return mask > 0


def test_the_fault_is_named():
    image, region = surface(), find_region(disc())
    assert judged(image, painted(image, image // 3, SPOT), region).accepted
    assert judged(image, image, region).reason == "nothing changed"
    large = DefectSpec(size=SizeRange(5000, 6000, "pixels"))
    assert "too small" in judged(image, painted(image, image // 3, SPOT), region, large).reason
    assert "too faint" in judged(image, painted(image, image.astype(int) + 5, SPOT), region).reason
    assert "outside" in judged(image, painted(image, image // 3, np.roll(SPOT, 58, axis=1)), region).reason


def test_a_texture_hides_a_piece_of_itself(rng):
    weave = np.clip(128 + 45 * rng.standard_normal((SIZE, SIZE, 1)), 0, 255).astype(np.uint8).repeat(3, 2)
    weave = cv2.GaussianBlur(weave, (0, 0), 0.7)
    spot = np.hypot(*np.mgrid[-64:64, -64:64]) < 12
    itself, stain = painted(weave, np.roll(weave, 40, axis=0), spot), painted(weave, weave * 0.5, spot)
    assert mean_change(weave, itself, changed(weave, itself)) > 10
    assert visibility(weave, itself, changed(weave, itself)) < 0.8 < visibility(weave, stain, changed(weave, stain))
    assert "hidden" in judged(weave, itself, find_region(ALL)).reason


def test_colour_change_is_cie76():
    """Against CIELAB written out in float64 (sRGB, D65)."""
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 20, 20, 3)).astype(np.uint8)

    def lab(image):
        value = image / 255
        linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        matrix = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
        xyz = linear @ matrix.T / np.array([0.950456, 1, 1.088754])
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=2)

    np.testing.assert_allclose(colour_change(one, other), np.linalg.norm(lab(one) - lab(other), axis=2), atol=0.6)  # OpenCV interpolates
    assert not colour_change(one, one).any()


@pytest.mark.parametrize("width", [1, 2])
def test_a_thin_line_survives_refinement_whole(width):
    image = surface()
    thin = line(width)
    asked = cv2.dilate(thin.astype(np.uint8), np.ones((9, 9))) > 0
    result = painted(image, image * 0.55, thin)
    found = refined_mask(image, result, asked)
    assert (found & thin).sum() >= 0.98 * thin.sum()
    assert not (found & ~thin).any()
    assert cv2.connectedComponents(found.astype(np.uint8))[0] == 2


@pytest.mark.parametrize("quality", [95, 90, 75, 50])
def test_compression_alone_is_no_defect(quality):
    image = surface()
    again = jpeg(image, quality)
    assert not refined_mask(image, again, ALL).any() or refined_mask(image, again, ALL).mean() < 0.001
    inside = painted(image, again, SPOT)  # composited: no stray pixels to learn the noise from, so the generator tells it
    assert not refined_mask(image, inside, SPOT, noise=noise_level(image, again)).any()


@pytest.mark.parametrize("quality", [90, 75])
def test_a_defect_is_found_in_a_compressed_image(quality):
    image = surface()
    asked = np.hypot(*np.mgrid[-64:64, -64:64]) < 16
    found = refined_mask(image, jpeg(painted(image, image * 0.5, SPOT), quality), asked)
    assert (found & SPOT).sum() / (found | SPOT).sum() > 0.8


def test_holes_that_were_asked_for_are_filled_and_others_stay():
    image = np.full((SIZE, SIZE, 3), 120, np.uint8)
    radius = np.hypot(*np.mgrid[-64:64, -64:64])
    ring = (radius < 30) & (radius > 20)
    result = painted(image, 40, ring)
    np.testing.assert_array_equal(refined_mask(image, result, radius < 30), radius < 30)
    np.testing.assert_array_equal(refined_mask(image, result, ring), ring)


def test_a_change_far_from_what_was_asked_is_not_in_the_label_but_counts_as_leakage():
    image = surface()
    away = np.roll(SPOT, 40, axis=1)
    result = painted(image, image // 3, SPOT | away)
    np.testing.assert_array_equal(refined_mask(image, result, SPOT) & away, np.zeros_like(away))
    found = verify(image, result, SPOT, find_region(ALL), AT_LEAST_50)
    assert 0.4 < found.leakage < 0.6
    worse = painted(image, image // 3, SPOT | away | np.roll(away, 30, axis=0))
    assert "leaking" in verify(image, worse, SPOT, find_region(ALL), DefectSpec()).reason


def test_the_numbers_are_what_they_say():
    image = np.full((SIZE, SIZE, 3), 120, np.uint8)
    asked = np.zeros((SIZE, SIZE), bool)
    asked[40:60, 40:80] = True
    half = asked.copy()
    half[50:] = False
    found = verify(image, painted(image, 40, half), asked, find_region(ALL), DefectSpec())
    assert (found.iou, found.fill, found.leakage) == (0.5, 0.5, 0.0)
    assert found.colour_change == pytest.approx(float(colour_change(image, np.full_like(image, 40)).mean()), abs=1e-3)
    assert (found.feature_change, found.accepted, found.reason) == (None, True, None)
    json.dumps(found.as_dict(), allow_nan=False)


def test_features_are_compared_only_when_they_are_given():
    image, calls = surface(), []

    def features(before, after):
        calls.append(before.shape)
        return np.full(before.shape[:2], 0.25, np.float32)

    result = painted(image, image // 3, SPOT)
    region = find_region(ALL)
    assert judged(image, result, region).feature_change is None
    assert judged(image, result, region, features=features).feature_change == 0.25
    assert "to the network" in judged(image, result, region, features=features, min_feature_change=0.3).reason
    assert len(calls) == 2


def test_a_seam_is_the_edge_that_neither_side_has():
    image = np.full((SIZE, SIZE, 3), 120, np.uint8)
    box = np.zeros((SIZE, SIZE), bool)
    box[30:90, 30:90] = True
    hard = painted(image, 150, box)
    soft = image + (30 * cv2.GaussianBlur(box.astype(np.float32), (0, 0), 6))[..., None]
    assert seam(image, image, box) == 0
    assert seam(image, hard, box) > 3 * max(0.1, seam(image, soft.astype(np.uint8), box))
    stripes = np.where(np.arange(SIZE)[None, :, None] // 4 % 2, 150, 90).astype(np.uint8).repeat(SIZE, 0).repeat(3, 2)
    assert seam(stripes, np.roll(stripes, 8, axis=1), box) == 0  # its edges are those of the texture


def test_a_halo_around_what_was_repainted_is_refused():
    image = surface()
    repainted = np.hypot(*np.mgrid[-64:64, -64:64]) < 25
    inner = np.hypot(*np.mgrid[-64:64, -64:64]) < 22
    clean = painted(image, image // 3, SPOT)
    halo = painted(clean, 250, repainted & ~inner)
    region = find_region(ALL)
    assert verify(image, clean, repainted, region, AT_LEAST_50, repainted=repainted).accepted
    assert "seam" in verify(image, halo, repainted, region, AT_LEAST_50, repainted=repainted).reason


def test_different_sizes_are_refused():
    with pytest.raises(DataError, match="different sizes"):
        refined_mask(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8), np.zeros((8, 8), bool))


def test_the_extent_of_nothing_is_none():
    assert extent(np.zeros((4, 5), bool)) is None
    mask = np.zeros((40, 50), bool)
    mask[3, 7] = True
    assert extent(mask, 5) == (slice(0, 9), slice(2, 13))


def test_a_label_never_leaves_the_region():
    image = surface()
    region = Region(disc() & (np.arange(SIZE) < 64), disc())
    found = verify(image, painted(image, image // 3, SPOT), SPOT, region, DefectSpec())
    assert found.accepted
    assert found.fill < 0.6
