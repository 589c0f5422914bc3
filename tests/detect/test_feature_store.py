"""Feature maps and patch features that are too many for memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aoi.data.progress import silent
from aoi.detect.detector import make_detector
from aoi.detect.feature_store import StoredMaps, open_maps, read_folder, written_folder
from aoi.detect.features import FeatureSet, joined
from aoi.detect.patches import collected
from aoi.errors import DataError


def stored(folder: Path, maps: dict[str, np.ndarray], batch: int = 5) -> dict[str, StoredMaps]:
    with written_folder(folder) as writer:
        for start in range(0, len(next(iter(maps.values()))), batch):
            writer.add({name: found[start : start + batch] for name, found in maps.items()})
        writer.finish(bad=[])
    found = read_folder(folder)
    assert found is not None
    return found[0]


def test_what_was_written_batch_by_batch_is_read_in_slices(rng: np.random.Generator, tmp_path: Path) -> None:
    maps = {"layer2": rng.normal(size=(23, 3, 4, 4)).astype(np.float32), "layer3": rng.normal(size=(23, 2, 2, 2)).astype(np.float32)}
    found = stored(tmp_path / "maps", maps)
    for name, array in maps.items():
        np.testing.assert_array_equal(np.load(found[name].path), array)  # a plain NPY file
        np.testing.assert_array_equal(found[name][4:19], array[4:19])
        np.testing.assert_array_equal(found[name][20:40], array[20:40])
        assert found[name].shape == array.shape


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, 11), max_size=20), start=st.integers(0, 20), length=st.integers(0, 20))
def test_taken_rows_are_those_of_the_array(tmp_path_factory, rows: list[int], start: int, length: int) -> None:
    array = np.arange(12 * 6, dtype=np.float32).reshape(12, 1, 2, 3)
    maps = stored(tmp_path_factory.mktemp("maps") / "maps", {"layer1": array})["layer1"]
    chosen = np.array(rows, np.int64)
    np.testing.assert_array_equal(maps.take(chosen)[start : start + length], array[chosen][start : start + length])
    again = np.arange(len(rows))[::-1]
    np.testing.assert_array_equal(maps.take(chosen).take(again)[0 : len(rows)], array[chosen][again])


@pytest.mark.parametrize("side", [2, 33], ids=["channels too small to be worth it", "channels read alone"])
def test_chosen_channels_are_those_of_the_array(rng: np.random.Generator, tmp_path: Path, side: int) -> None:
    array = rng.normal(size=(7, 6, side, side)).astype(np.float32)
    maps = stored(tmp_path / "maps", {"layer1": array})["layer1"]
    chosen, rows = np.array([0, 2, 3, 5]), np.array([6, 0, 1, 1, 4])
    np.testing.assert_array_equal(maps.channels(slice(2, 5), chosen), array[2:5][:, chosen])
    np.testing.assert_array_equal(maps.take(rows).channels(slice(1, 9), chosen), array[rows][1:9][:, chosen])
    for layers in ({"layer1": maps}, {"layer1": array}):
        features = FeatureSet(layers, (64, 64), tuple(Path(str(i)) for i in range(7)))
        found = torch.cat([batch["layer1"] for batch in features.batches(3, channels={"layer1": chosen})])
        np.testing.assert_array_equal(found, array[:, chosen])
    maps.path.write_bytes(maps.path.read_bytes()[:-8])
    with pytest.raises(DataError, match="cut short"):
        maps.channels(slice(0, 7), chosen)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), start=st.integers(0, 12), length=st.integers(0, 12), on_disk=st.booleans())
def test_joined_images_are_those_of_their_sets(tmp_path_factory, data: st.DataObject, start: int, length: int, on_disk: bool) -> None:
    arrays = [np.arange(n * 6, dtype=np.float32).reshape(n, 3, 1, 2) + 1000 * n for n in (4, 7)]
    sets = []
    for number, array in enumerate(arrays):
        layers = stored(tmp_path_factory.mktemp("maps") / "maps", {"layer1": array}) if on_disk else {"layer1": array}
        sets.append(FeatureSet(layers, (8, 8), tuple(Path(f"{number}/{row}") for row in range(len(array)))))
    dealt = data.draw(st.lists(st.sampled_from([(0, row) for row in range(4)] + [(1, row) for row in range(7)]), max_size=12))
    which, rows = np.array(dealt, np.int64).reshape(-1, 2).T
    wanted = np.array([arrays[number][row] for number, row in dealt], np.float32).reshape(-1, 3, 1, 2)
    found = joined(sets, which, rows)
    assert found.paths == tuple(Path(f"{number}/{row}") for number, row in dealt)
    assert found.layers["layer1"].shape == wanted.shape
    assert (found.folder is not None) is on_disk
    np.testing.assert_array_equal(found.layers["layer1"][start : start + length], wanted[start : start + length])
    chosen = np.array([0, 2])
    for batch, expected in zip(found.batches(5, channels={"layer1": chosen}), range(0, len(dealt), 5), strict=True):
        np.testing.assert_array_equal(batch["layer1"], wanted[expected : expected + 5][:, chosen])
    turned = np.arange(len(dealt))[::-1]
    np.testing.assert_array_equal(found.take(turned).only(["layer1"]).layers["layer1"][0 : len(dealt)], wanted[turned])


def test_a_torn_file_is_not_taken_for_features(rng: np.random.Generator, tmp_path: Path) -> None:
    found = stored(tmp_path / "maps", {"layer1": rng.normal(size=(8, 3, 4, 4)).astype(np.float32)})["layer1"]
    content = found.path.read_bytes()
    found.path.write_bytes(content[: len(content) // 2])
    assert open_maps(found.path) is None
    assert read_folder(tmp_path / "maps") is None


def test_a_failed_writing_leaves_nothing(tmp_path: Path) -> None:
    def begin_and_fail() -> None:
        with written_folder(tmp_path / "maps") as writer:
            writer.add({"layer1": np.zeros((2, 1, 2, 2), np.float32)})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        begin_and_fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["patchcore", "padim"])
def test_a_detector_fitted_from_disk_is_the_one_fitted_from_memory(random_features: FeatureSet, tmp_path: Path, model: str) -> None:
    on_disk = replace(random_features, layers=stored(tmp_path / "maps", dict(random_features.layers)))
    layers = {"patchcore": ("layer2", "layer3"), "padim": ("layer1", "layer2", "layer3")}[model]
    chosen = [1, 2, 3, 9, 8, 20]
    one, other = (make_detector(model, {}, layers=layers, seed=0) for _ in range(2))
    one.fit(random_features.take(chosen))
    other.fit(on_disk.take(chosen))
    np.testing.assert_array_equal(one.score(random_features).maps, other.score(on_disk).maps)


def test_patches_beyond_the_budget_are_halved_on_disk_and_hardly_differ(random_features: FeatureSet, tmp_path: Path) -> None:
    options = {"coreset_ratio": 0.1}
    one = make_detector("patchcore", options, layers=("layer2", "layer3"), seed=0)
    other = make_detector("patchcore", options | {"memory_gb": 1e-6}, layers=("layer2", "layer3"), seed=0)
    one.fit(random_features)
    other.fit(random_features)
    assert one.largest_rounding == 0 < other.largest_rounding < 0.01
    # Every point lies as near to the halved bank as the radius says, give or take the rounding.
    assert other.coreset.radius == pytest.approx(one.coreset.radius, abs=2 * other.largest_rounding)
    np.testing.assert_array_equal(other.state()["memory_bank"], other.state()["memory_bank"].astype(np.float16))
    np.testing.assert_allclose(one.score(random_features).maps, other.score(random_features).maps, atol=0.1 * one.coreset.radius)


def test_the_file_of_patches_is_gone_afterwards(tmp_path: Path) -> None:
    batches = [torch.full((3, 4), float(i)) for i in range(5)]
    with collected(batches, 15, 4, "cpu", 0, tmp_path, silent) as patches:
        assert patches.rows.dtype == torch.float16
        np.testing.assert_array_equal(patches.rows[:, 0].numpy(), np.repeat(np.arange(5), 3))
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
