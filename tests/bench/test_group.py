"""Thresholds of new maps that only few good images are known of."""

from __future__ import annotations

import numpy as np
import pytest

from aoi.bench.couplings.group import baseline, from_fold_0
from aoi.detect.detector import Scores


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (7.0, 0.0), (0.01, -3.0)])
def test_maps_that_were_only_scaled_or_shifted_mark_the_pixels_they_marked(scale, shift, ground, toy_group):
    group = toy_group(ground(lift=2.0, rough=0.1), "padim")
    alone, few = baseline(group), group.held_out.fold == 0
    good = Scores(scale * group.held_out.good.maps[few] + shift, group.held_out.good.image_scores[few])
    found = from_fold_0(group, scale * group.test.maps + shift, good, {})
    assert found.pixel_threshold == pytest.approx(scale * alone.pixel_threshold + shift, rel=1e-5)
    assert found.image_threshold == alone.image_threshold


def test_what_is_peculiar_to_the_few_images_is_taken_out(ground, toy_group):
    group = toy_group(ground(light=2.0), "padim", train=30)
    few = np.flatnonzero(group.held_out.fold == 0)
    own = np.percentile(group.held_out.good.maps, 99.9)
    crude = np.percentile(group.held_out.good.maps[few], 99.9)
    assert abs(own - crude) > 1e-3 * own
    bent = Scores(group.held_out.good.maps[few] ** 1.1, group.held_out.good.image_scores[few])
    found = from_fold_0(group, group.test.maps, bent, {}).pixel_threshold
    assert abs(found - own**1.1) < abs(crude**1.1 - own**1.1)
