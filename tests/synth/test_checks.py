"""The three quick checks: they pass a generator that does its job and fail ones that do not."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.stats import spearmanr

from aoi.captions.places import parse_place
from aoi.captions.spec import DefectSpec
from aoi.data.images import write_image
from aoi.errors import ConfigError
from aoi.synth.checks import CheckOptions, lands, run_checks, spearman
from aoi.synth.perlin import PerlinGenerator
from aoi.synth.region import Region
from aoi.synth.registry import register


@pytest.fixture(scope="module")
def goods(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    for number in range(3):
        rng = np.random.default_rng(number)
        field = cv2.GaussianBlur(rng.normal(0, 30, (128, 128)).astype(np.float32), (0, 0), sigmaX=6, sigmaY=0.8)
        write_image(folder / f"{number}.png", np.clip(130 + field[..., None] + np.array([15, 0, -20]), 0, 255).astype(np.uint8))
    return folder


@pytest.mark.parametrize("generator", ["perlin", "cutpaste"])
def test_the_generators_pass(goods, generator):
    report = run_checks(goods, CheckOptions(generator=generator, images=3, foreground="full"))
    assert report.passed, report.summary()
    assert report.severity.spearman >= 0.8
    assert (report.places.pixels_off_the_part, report.places.missed) == (0, 0)
    assert report.places.tried == 27
    assert report.as_dict()["passed"] is True
    assert report.summary().count("pass") == 3


class Deaf(PerlinGenerator):
    """Never looks at the words: one outline for all."""

    def generate(self, image, region, spec, rng, shape=None):
        return super().generate(image, region, DefectSpec(severity=spec.severity), rng, None)


class Backwards(PerlinGenerator):
    """The more severe, the fainter."""

    def generate(self, image, region, spec, rng, shape=None):
        severity = None if spec.severity is None else 1 - spec.severity
        return super().generate(image, region, replace(spec, severity=severity), rng, shape)


class Astray(PerlinGenerator):
    """Paints wherever on the part it likes."""

    def generate(self, image, region, spec, rng, shape=None):
        return super().generate(image, Region(region.foreground, region.foreground), spec, rng, None)


@pytest.mark.parametrize(("kind", "fails"), [(Deaf, "sentences"), (Backwards, "severity"), (Astray, "places")])
def test_each_check_can_fail(goods, kind, fails):
    register(f"test-{kind.__name__.lower()}")(kind)
    report = run_checks(goods, CheckOptions(generator=f"test-{kind.__name__.lower()}", images=2, foreground="full"))
    assert not getattr(report, fails).passed
    assert not report.passed
    assert "FAIL" in report.summary()


def test_spearman_is_scipys(rng):
    for _ in range(20):
        one, other = rng.integers(0, 6, (2, 10))
        expected = spearmanr(one, other).statistic
        assert spearman(one, other) == pytest.approx(0 if np.isnan(expected) else expected, abs=1e-12)
    assert spearman([1, 1, 1], [1, 2, 3]) == 0


def test_landing_is_relative_to_the_parts_box():
    part, mask = np.zeros((100, 100), bool), np.zeros((100, 100), bool)
    part[20:80, 40:70] = True
    mask[22:30, 42:46] = True
    assert lands(mask, part, parse_place("upper left"))
    assert not lands(mask, part, parse_place("lower left"))
    assert not lands(np.zeros_like(mask), part, parse_place("upper left"))


def test_one_sentence_is_nothing_to_compare():
    with pytest.raises(ConfigError):
        CheckOptions(sentences=("a dent", "a dent"))
