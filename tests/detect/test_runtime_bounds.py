"""Inspection that needs no maps says the same of every image, though it looks closely at few cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino")

from aoi.detect.runtime import nearest
from aoi.detect.runtime.export_folder import ExportFolder, Manifest, PatchSearch
from aoi.detect.runtime.nearest import NearestBank
from aoi.detect.runtime.openvino_engine import OpenVinoEngine, has_bf16, open_core
from aoi.detect.smoothing import cells_behind, smoothing_matrix
from aoi.detect.verdict import Judge, Thresholds

OPTIONS = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
GRID, SIZE, DEPTH = (8, 12), (64, 96), 200


def twins(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Queries and a bank that looks the same, twice, along the directions that it is searched along first."""
    axes = rng.normal(size=(12, 200)) / 12
    queries, bank = (rng.normal(size=(n, 12)) @ axes for n in (GRID[0] * GRID[1], 350))
    bank = np.concatenate([bank, bank]) + 0.1 * rng.normal(size=(700, 200))
    return (queries + 0.1 * rng.normal(size=queries.shape)).astype(np.float32), bank.astype(np.float32)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("rows", [1024, 40])
def test_what_is_settled_is_the_nearest_and_the_rest_no_nearer(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, coarse: bool, rows: int
) -> None:
    core = open_core()
    if coarse and not has_bf16(core):
        pytest.skip("this processor has no bfloat16 products")
    monkeypatch.setattr(nearest, "ROWS", rows)
    queries, bank = twins(rng)
    search = NearestBank(core, bank, len(queries), OPTIONS, coarse=coarse)
    wanted, bounds = search.nearest(queries), search.bounds(queries)
    first = bounds.distance.copy()
    assert not bounds.settled.any()
    assert (first >= wanted).all()
    assert (first > wanted).sum() > 5
    some = np.sort(rng.choice(len(queries), 30, replace=False))
    assert search.settle(bounds, some)
    np.testing.assert_array_equal(np.flatnonzero(bounds.settled), some)
    np.testing.assert_array_equal(bounds.distance[some], wanted[some])
    np.testing.assert_array_equal(np.delete(bounds.distance, some), np.delete(first, some))
    assert not search.settle(bounds, some)
    search.settle(bounds, np.flatnonzero(~bounds.settled))
    np.testing.assert_array_equal(bounds.distance, wanted)


def test_cells_behind_a_map_are_all_that_can_move_it_there(rng: np.random.Generator) -> None:
    rows, columns = (smoothing_matrix(coarse, fine, 4.0) for coarse, fine in zip(GRID, SIZE, strict=True))
    cells = rng.random(GRID).astype(np.float32) ** 3
    whole = rows @ cells @ columns.T
    for level in (float(whole.max()), float(np.quantile(whole, 0.99)), float(np.quantile(whole, 0.9)), 0.0):
        behind = cells_behind(whole, level, rows, columns).reshape(GRID)
        moved = rows @ np.where(behind, cells, 9).astype(np.float32) @ columns.T
        y, x = np.nonzero(whole >= level)
        for down, right in ((0, 0), (-1, 1), (1, 0)):
            place = np.clip(y + down, 0, SIZE[0] - 1), np.clip(x + right, 0, SIZE[1] - 1)
            np.testing.assert_array_equal(moved[place], whole[place])
    assert cells_behind(whole, float(whole.max()), rows, columns).sum() < cells.size / 2
    assert not cells_behind(whole, 2.0, rows, columns).any()
    assert cells_behind(whole, np.nan, rows, columns).all()


def export(folder: Path, image_score: str) -> Manifest:
    """A network whose embedding of an image is a linear function of its pixels, cell by cell, along twelve directions."""
    import openvino as ov
    from openvino import opset13 as ops

    rng = np.random.default_rng(5)
    given = ops.parameter([-1, *SIZE, 3], ov.Type.u8)
    white = ops.constant(np.full((1, 3, 1, 1), 255, np.float32))
    pixels = ops.divide(ops.transpose(ops.convert(given, "f32"), np.array([0, 3, 1, 2])), white)
    weights = np.tensordot(rng.normal(size=(DEPTH, 12)), rng.normal(size=(12, 3, 8, 8)), 1).astype(np.float32) / 30
    maps = ops.convolution(pixels, ops.constant(weights), [8, 8], [0, 0], [0, 0], [1, 1])
    lines = ops.reshape(maps, np.array([0, DEPTH, -1]), True)
    embedding = ops.transpose(lines, np.array([0, 2, 1]))
    embedding.set_friendly_name("embedding")
    folder.mkdir(parents=True, exist_ok=True)
    ov.save_model(ov.Model([embedding], [given], "made up"), str(folder / "model.xml"), compress_to_fp16=False)
    search = PatchSearch(GRID, image_score, 5, "bilinear", 4.0)
    return Manifest("openvino", "fp32", "patchcore", "made up", "run", "none", SIZE, 0, None, {}, search)


@pytest.mark.parametrize("image_score", ["map", "patch"])
@pytest.mark.parametrize("arithmetic", ["fp32", "bf16"])
def test_without_maps_scores_and_regions_are_the_same(rng: np.random.Generator, tmp_path: Path, image_score: str, arithmetic: str) -> None:
    if arithmetic == "bf16" and not has_bf16(open_core()):
        pytest.skip("this processor has no bfloat16 products")
    images = rng.integers(0, 256, (6, *SIZE, 3)).astype(np.uint8)
    images[1] = 7
    images[3:, 20:40, 30:44] = 255
    manifest, folder = export(tmp_path, image_score), ExportFolder(tmp_path)
    bank = embeddings(folder, manifest, images)
    bank = np.concatenate([bank, bank]) + rng.normal(0, 0.1 * bank.std(), (2 * len(bank), DEPTH)).astype(np.float32)
    np.save(tmp_path / "memory_bank.npy", bank)
    whole = OpenVinoEngine(folder, manifest, arithmetic=arithmetic, workers=1)
    maps, scores = (np.concatenate(found) for found in zip(*(whole.scores(image[None]) for image in images), strict=True))
    looser = 0
    for level in (maps.max() + 1, np.quantile(maps, 0.99), np.quantile(maps, 0.5), 0.0):
        engine = OpenVinoEngine(folder, manifest, arithmetic=arithmetic, workers=1, above=float(level))
        judge = Judge(Thresholds(0.0, float(level), "holdout", 99, 99, 10, 0.0))
        for image, wanted, score in zip(images, maps, scores, strict=True):
            (found,), (said,) = engine.scores(image[None])
            assert said == score
            assert (found >= wanted).all()
            np.testing.assert_array_equal(found[found > level], wanted[found > level])
            looser += int((found > wanted).sum())
            for picture in (image, np.zeros((100, 61, 3), np.uint8)):
                one, other = judge(picture, found, said), judge(picture, wanted, score)
                assert one.regions.regions == other.regions.regions
                np.testing.assert_array_equal(one.regions.mask, other.regions.mask)
    assert looser > 0


def embeddings(folder: ExportFolder, manifest: Manifest, images: np.ndarray) -> np.ndarray:
    """Of all images, n·P×D float32, by the network alone."""
    network = open_core().read_model(str(folder.network("openvino")))
    network.reshape([len(images), *manifest.image_size, 3])
    found = open_core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([images])
    return np.array(found[0]).reshape(-1, found[0].shape[-1])
