"""Settings that see the images at another size than the plan's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aoi.bench.material.sizes import Sizes
from aoi.bench.run import run_bench
from aoi.data.images import read_image
from aoi.detect.features import FeatureSet, joined


def made_up(names: str, side: int = 64) -> FeatureSet:
    """Every cell of an image holds its name's number times the size."""
    value = np.array([ord(name) * side for name in names], np.float32)
    layers = {f"layer{n}": np.broadcast_to(value[:, None, None, None], (len(names), 2, side >> n, side >> n)) for n in (2, 3)}
    return FeatureSet(layers, (side, side), tuple(Path(name) for name in names))


def test_a_set_is_brought_to_another_size_once_and_its_images_are_taken_from_it() -> None:
    asked = []

    def extract(paths, size):
        asked.append(("".join(map(str, paths)), size))
        return made_up("".join(map(str, paths)), size[0])

    train, test = made_up("abcd"), made_up("xy")
    sizes = Sizes([train, test], extract)
    some = sizes(train.take([2, 0]).only(["layer3"]), 96)
    assert list(some.layers) == ["layer3"]
    assert some.layers["layer3"].shape == (2, 2, 12, 12)
    assert some.layers["layer3"][:, 0, 0, 0].tolist() == [ord("c") * 96, ord("a") * 96]
    assert some.image_size == (64, 64)  # where masks are
    assert sizes(train, 96).paths == train.paths
    assert sizes(test, 96).layers["layer2"][0, 0, 0, 0] == ord("x") * 96
    assert asked == [("abcd", (96, 96)), ("xy", (96, 96))]
    assert sizes(train, None) is train
    assert sizes(train, 64) is train
    assert len(asked) == 2


def test_images_of_several_sets_are_found_in_each_of_them() -> None:
    sets = [made_up("abcd"), made_up("xy")]
    asked = []

    def extract(paths, size):
        asked.append("".join(map(str, paths)))
        return made_up("".join(map(str, paths)), size[0])

    mixed = joined(sets, np.array([1, 0, 1]), np.array([1, 2, 0]))
    found = Sizes(sets, extract)(mixed, 96)
    assert found.layers["layer3"][0:3][:, 0, 0, 0].tolist() == [ord(name) * 96 for name in "ycx"]
    assert (found.paths, found.image_size, asked) == (mixed.paths, (64, 64), ["abcd", "xy"])


def test_images_that_nobody_knows_are_not_guessed_at() -> None:
    sizes = Sizes([made_up("ab")], lambda paths, size: made_up("ab", size[0]))
    with pytest.raises(KeyError):
        sizes(made_up("z"), 96)


def test_select_tries_another_size_of_images(parts, small_plan, tiny_bench, tmp_path) -> None:
    select = {"candidates": {"padim": [{}, {"image_size": 96}]}, "sigmas": [4.0], "grounds": ["none"], "oracle": True}
    plan = small_plan(parts, seeds=(0,), detectors=("padim",), generators=("none", "perlin"), couplings=("select",), select=select)
    run_bench(plan, tmp_path)
    details = json.loads((tmp_path / "arms" / "disc-padim-perlin-select-0.json").read_text())["content"]["details"]
    assert [each["image_size"] for each in details["tried"]] == [None, 96]
    assert details["tried"][0]["validation"] != details["tried"][1]["validation"]
    assert details["test"][0] != details["test"][1]
    drawn = sorted((tmp_path / "synth/disc/perlin/seed0/test").rglob("*.png"))
    good = read_image(next((parts / "train" / "good").iterdir()))
    assert {read_image(path).shape for path in drawn} == {good.shape}  # outside its defect the good image at every size
