"""Defects of structure: reach, modes by words, what lies behind, sizes and given outlines; see also test_contract.py."""

import cv2
import numpy as np
import pytest

from aoi.captions.places import parse_place
from aoi.captions.spec import DefectSpec, SizeRange
from aoi.synth.backdrop import _mismatches, behind, donor, pull_push
from aoi.synth.displace import MODES, MODES_OF_KINDS
from aoi.synth.motion import leap, moved_points, sampled
from aoi.synth.piece import Piece
from aoi.synth.region import find_region
from aoi.synth.registry import create_generator
from aoi.synth.shape import Shape, Window
from aoi.synth.types import Reaching

SIZE = 96


def part(size=SIZE, *, grey=False, seed=0):
    """A bright bracket with an arm on a dark plain ground, and its foreground."""
    rng = np.random.default_rng(seed)
    unit = size / 96
    mask = np.zeros((size, size), np.uint8)
    cv2.rectangle(mask, (round(22 * unit), round(20 * unit)), (round(62 * unit), round(70 * unit)), 1, -1)
    cv2.rectangle(mask, (round(62 * unit), round(40 * unit)), (round(82 * unit), round(48 * unit)), 1, -1)
    fine = cv2.GaussianBlur(rng.normal(0, 30, (size, size)).astype(np.float32), (0, 0), 1.5)
    tint = np.zeros(3) if grey else np.array([25, 0, -30])
    image = np.where(mask[..., None] > 0, 150 + 2 * fine[..., None] + tint, 40 + rng.normal(0, 1, (size, size, 1)))
    return np.clip(image, 0, 255).astype(np.uint8), mask > 0


def weave(size=SIZE, *, grey=False, seed=0):
    """A coarse cloth that fills the frame."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size]
    level = 120 + 40 * np.sin(x / 2.5) + 30 * np.sin(y / 4) + rng.normal(0, 5, (size, size))
    image = level[..., None] + (np.zeros(3) if grey else np.array([20, 0, -20]))
    return np.clip(image, 0, 255).astype(np.uint8), np.ones((size, size), bool)


def made(image, foreground, seed, spec=None, *, reach=True, shape=None):
    generator, spec = create_generator("displace"), spec or DefectSpec()
    region = find_region(foreground, spec.place)
    region = generator.reach(region) if reach else region
    return generator.generate(image, region, spec, np.random.default_rng(seed), shape), region


def test_without_reach_nothing_leaves_the_place():
    image, foreground = part()
    for place in ("anywhere", "left", "lower left"):
        spec = DefectSpec(place=parse_place(place))
        region = find_region(foreground, spec.place)
        for seed in range(8):
            defect, _ = made(image, foreground, seed, spec, reach=False)
            assert not (defect.mask & ~region.mask).any()


def test_reach_adds_background_and_no_other_place():
    _, foreground = part()
    generator = create_generator("displace")
    assert isinstance(generator, Reaching)
    assert not isinstance(create_generator("perlin"), Reaching)
    anywhere, left = find_region(foreground), find_region(foreground, parse_place("left"))
    assert generator.reach(anywhere).mask.all()
    np.testing.assert_array_equal(generator.reach(left).mask & foreground, left.mask)
    assert generator.reach(left).area > left.area
    whole = find_region(np.ones_like(foreground))
    assert generator.reach(whole) is whole


@pytest.mark.parametrize("kind", ["missing", "misplaced", "bent"])
def test_a_sentence_names_the_mode(kind):
    image, foreground = part()
    for seed in range(6):
        defect, _ = made(image, foreground, seed, DefectSpec(kind))
        assert defect.provenance.parameters["mode"] in MODES_OF_KINDS[kind]


def test_what_is_missing_shows_the_background():
    image, foreground = part()
    for seed in range(40):
        defect, _ = made(image, foreground, seed, DefectSpec("missing"))
        gone = cv2.erode((defect.mask & foreground).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
        if defect.provenance.parameters["cut"] == "whole":
            assert gone.sum() > 0.5 * foreground.sum()
            assert np.abs(defect.image[gone].astype(float) - 40).mean() < 8
            break
    else:
        pytest.fail("no whole part was ever missing")


def test_no_material_is_invented_when_the_part_is_moved():
    """Moved parts keep their colours: the landing is the part, the rest the ground."""
    image, foreground = part()
    moves = [defect for defect, _ in (made(image, foreground, seed, DefectSpec("misplaced")) for seed in range(24))]
    whole = [defect for defect in moves if defect.provenance.parameters["cut"] == "whole"]
    assert whole
    for defect in whole:
        bright = (defect.image[..., 0] > 100).sum()
        assert 0.8 * foreground.sum() < bright < 1.15 * foreground.sum()


def test_severity_moves_further():
    image, foreground = part()
    for kind in ("misplaced", "bent"):
        change = [
            np.mean([made(image, foreground, seed, DefectSpec(kind, severity=severity))[0].mask.sum() for seed in range(16)])
            for severity in (0.0, 0.5, 1.0)
        ]
        assert change[0] < change[1] < change[2]


def test_a_size_that_was_asked_for_is_kept():
    image, foreground = part()
    for wanted in (80, 400):
        spec = DefectSpec("missing", size=SizeRange(wanted, wanted, "pixels"))
        areas = [made(image, foreground, seed, spec)[0].mask.sum() for seed in range(20)]
        assert 0.5 * wanted <= np.median(areas) <= 2.0 * wanted


@pytest.mark.parametrize("scene", [part, weave])
def test_a_real_outline_confines_the_change(scene):
    image, foreground = scene()
    outline = np.zeros(foreground.shape, bool)
    outline[30:60, 28:60] = True
    shape = Shape(Window(20, 20, 70, 70), outline[20:70, 20:70], "real", 20.0, 0.0)
    seen = set()
    for seed in range(24):
        defect, _ = made(image, foreground, seed, shape=shape)
        assert not (defect.mask & ~outline).any()
        if defect.mask.sum() > 100:
            seen.add(defect.provenance.parameters["mode"])
    assert seen == set(MODES)


def test_smooth_ground_is_continued_into_a_hole():
    y, x = np.mgrid[0:80, 0:80].astype(np.float32)
    image = np.repeat((60 + x + 0.5 * y)[..., None], 3, axis=2)
    hole = np.hypot(x - 40, y - 40) < 15
    filled = behind(image.astype(np.uint8), hole, np.zeros_like(hole))
    assert np.abs(filled - image)[hole].mean() < 4
    np.testing.assert_array_equal(filled[~hole], image.astype(np.uint8)[~hole])


def test_a_pattern_goes_on_behind_what_is_gone():
    """Drill holes on a board: the donor lies whole periods away."""
    y, x = np.mgrid[0:96, 0:96]
    board = np.where(np.hypot(x % 16 - 8, y % 16 - 8) < 4, 20, 180).astype(np.float32)
    image = np.repeat(board[..., None], 3, axis=2)
    hole = np.zeros((96, 96), bool)
    hole[30:55, 35:60] = True
    damaged = np.where(hole[..., None], 250, image).astype(np.uint8)
    assert np.abs(behind(damaged, hole, np.zeros_like(hole)) - image)[hole].mean() < 3
    offset = donor(damaged.astype(np.float32), hole, ~hole)
    assert offset is not None
    assert all(each % 16 in (0, 1, 15) for each in offset)


def test_pull_push_keeps_what_is_known_and_the_mean_of_nothing_else(rng):
    values = rng.random((33, 20, 3)).astype(np.float32)
    known = (rng.random((33, 20)) < 0.3).astype(np.float32)
    filled = pull_push(values, known)
    np.testing.assert_allclose(filled[known > 0], values[known > 0], atol=1e-5)
    assert filled.min() > values[known > 0].min() - 0.1
    np.testing.assert_allclose(pull_push(np.full((17, 9, 3), 7, np.float32), known[:17, :9]), 7, atol=1e-3)


def test_a_turn_is_the_turn_it_says(rng):
    mask = np.zeros((61, 61), bool)
    mask[20:41, 25:36] = True
    matrix, drawn = leap(Piece(mask, "whole"), "turned", 1.0, rng)
    assert abs(drawn["turn"]) == pytest.approx(np.pi / 2, abs=1e-3)
    landed = sampled(mask.astype(np.float32), moved_points(matrix, mask.shape), border=0.0) > 0.5
    box = cv2.boundingRect(landed.astype(np.uint8))
    assert (box[2], box[3]) == pytest.approx((21, 11), abs=1)


def test_offsets_are_compared_as_one_by_one(rng):
    """Near the frame's edge, beyond it, and in the middle; to the bit, since defects are the same bytes for the same seed."""
    grey = rng.random((40, 50), np.float32) * 255
    where = np.sort(rng.choice(grey.size, 90, replace=False))
    rows, columns = np.divmod(where, 50)
    offsets = np.array([(dy, dx) for dy in (-39, -12, 0, 3, 25) for dx in (-49, -1, 0, 8, 30)])
    for part in (slice(None), rows // 10 == 2):
        found = _mismatches(grey, where[part], offsets)
        for (dy, dx), cost in zip(offsets, found, strict=True):
            y, x = rows[part] + dy, columns[part] + dx
            inside = (y >= 0) & (y < 40) & (x >= 0) & (x < 50)
            pairs = [float(v) for v in np.square(grey[y[inside], x[inside]] - grey[rows[part][inside], columns[part][inside]])]
            assert cost == (pytest.approx(np.mean(pairs), rel=1e-5) if 2 * len(pairs) >= len(y) else np.inf)
