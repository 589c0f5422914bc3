from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from aoi.data.procedural.blemishes import creep
from aoi.data.procedural.defects import DEFECTS, SEVERITIES, SPECK, VISIBLE, Severity, draw_defect, visible_change
from aoi.data.procedural.part import draw_blueprint
from aoi.data.procedural.scene import draw_scene, image_seed, render
from aoi.data.procedural.texture import belt_tile, smooth_noise

SIZE = 192
BLUEPRINT = draw_blueprint(0)


def scene_for(kind: str, severity: str, index: int = 0, size: int = SIZE):
    return draw_scene(BLUEPRINT, size, image_seed(0, f"{kind}/{severity}/{index}"), 0.4)


@pytest.mark.parametrize("kind", sorted(DEFECTS))
@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_mask_is_where_the_picture_with_and_without_the_defect_differ(kind: str, severity: Severity):
    scene = scene_for(kind, severity)
    drawn = draw_defect(kind, severity, scene)
    clean = render(scene)  # rendered on its own, not taken from the defect
    change = np.abs(drawn.image.astype(int) - clean.astype(int)).max(axis=2)
    visible = change >= VISIBLE
    np.testing.assert_array_equal(drawn.clean, clean)
    # every masked pixel is at most two pixels from a visible change: only gaps were closed
    assert not (drawn.mask & (cv2.dilate(visible.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0)).any()
    # every visible change on the part is in the mask, except pieces too small to be a region
    missed = (visible & drawn.support & ~drawn.mask).astype(np.uint8)
    assert cv2.connectedComponentsWithStats(missed, connectivity=8)[2][1:, cv2.CC_STAT_AREA].max(initial=0) < SPECK
    assert (visible & ~drawn.mask).sum() <= 0.10 * drawn.mask.sum() + SPECK
    # away from the defect's support nothing happened but its shadow on the belt
    assert change[~drawn.support].max() < (40 if kind == "chip" else VISIBLE)


@pytest.mark.parametrize("kind", sorted(DEFECTS))
def test_a_scene_draws_the_same_defect_again(kind: str):
    first, second = (draw_defect(kind, "medium", scene_for(kind, "medium", 1)) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.mask, second.mask)


@pytest.mark.parametrize("kind", sorted(DEFECTS))
def test_severity_shows(kind: str):
    """Severe defects change more than mild ones, in the median over parts."""

    def change(severity: Severity) -> float:
        drawn = [draw_defect(kind, severity, scene_for(kind, severity, index, 128)) for index in range(5)]
        return float(np.median([np.abs(d.image.astype(float) - d.clean)[d.mask].sum() for d in drawn]))

    assert change("severe") > 1.3 * change("mild")


def test_visible_change_closes_gaps_drops_specks_and_stays_on_the_support():
    clean = np.full((40, 40, 3), 100, np.uint8)
    image, support = clean.copy(), np.zeros((40, 40), bool)
    support[5:30, 5:30] = True
    image[10:20, 10:14] += VISIBLE
    image[10:20, 15:19, 1] -= VISIBLE  # one channel is enough; column 14 is the line of equal brightness
    image[25, 25] += 90  # a speck
    image[33:39, 33:39] += 90  # off the support
    image[22:28, 7:9] += VISIBLE - 1  # too faint
    expected = np.zeros((40, 40), bool)
    expected[10:20, 10:19] = True
    expected[[10, 19], 14] = False  # a disc does not reach into the ends of a gap
    np.testing.assert_array_equal(visible_change(clean, image, support), expected)


def test_good_parts_differ_from_each_other_but_not_by_much():
    pictures = [render(draw_scene(BLUEPRINT, SIZE, image_seed(0, f"train/good/{index}"), index / 6)).astype(float) for index in range(6)]
    means = [picture.mean() for picture in pictures]
    assert min(means) > 60
    assert max(means) < 150
    for first, second in itertools.pairwise(pictures):
        assert 2 < np.abs(first - second).mean() < 40


def test_blueprints_follow_their_seed():
    assert draw_blueprint(3) == draw_blueprint(3)
    assert len({draw_blueprint(seed).mark for seed in range(20)}) > 10


@pytest.mark.parametrize("size", [128, 320])
def test_the_part_looks_the_same_at_every_size(size: int):
    small, other = (
        cv2.resize(render(draw_scene(BLUEPRINT, side, 5, 0.5)), (64, 64), interpolation=cv2.INTER_AREA).astype(float)
        for side in (256, size)
    )
    assert np.abs(small - other).mean() < 6


def test_belt_is_seamless():
    tile = belt_tile(0, 192, 5.0)
    seam, inside = np.abs(tile[:, -1] - tile[:, 0]).mean(), np.abs(np.diff(tile, axis=1)).mean()
    assert seam < 2.5 * inside


def test_smooth_noise_has_about_unit_variance(rng: np.random.Generator):
    assert 0.8 < smooth_noise(rng, (256, 256), 6.0).std() < 1.25


def test_a_stain_grows_from_its_origin_outwards(rng: np.random.Generator):
    age = creep(rng, 40)
    assert age.max() == 1
    assert 50 < (age > 0).sum() < age.size / 2
    wetted = age > 0
    # every cell but the origins touches one that was wetted earlier
    earlier = cv2.dilate(age, np.ones((3, 3), np.uint8))
    assert (earlier > age)[wetted & (age < 1)].all()
