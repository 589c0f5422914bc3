"""The approximate search: what it finds, what is said of it, and how a run lives without its library."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from aoi.cli import app
from aoi.detect.approximate import GraphBank, SearchQuality, merged
from aoi.detect.calibration import good_scores
from aoi.detect.detector import make_detector
from aoi.detect.evaluate import evaluate_run
from aoi.detect.export_graph import load_graph
from aoi.detect.features import FeatureSet
from aoi.detect.fit import FitOptions, FitReport, fit_run
from aoi.detect.neighbours import MemoryBank
from aoi.detect.predictor import Predictor
from aoi.detect.run_folder import RunFolder, load_detector
from aoi.errors import BackendUnavailable

LAYERS = ("layer2", "layer3")


@pytest.fixture
def faiss():
    return pytest.importorskip("faiss", reason="needs faiss: pip install 'aoi[faiss]'")


@pytest.fixture
def without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)


def fresh(**options):
    return make_detector("patchcore", options, layers=LAYERS, seed=0)


@pytest.fixture
def cloud(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A bank and queries on a surface of few dimensions, as patch features are."""
    frame = rng.normal(size=(6, 40))
    bank, queries = (rng.normal(size=(count, 6)) @ frame + 0.1 * rng.normal(size=(count, 40)) for count in (1500, 300))
    return torch.from_numpy(bank.astype(np.float32)), torch.from_numpy(queries.astype(np.float32))


def test_distances_are_true_and_nearly_all_the_nearest(faiss, cloud) -> None:
    bank, queries = cloud
    distance, index = GraphBank(bank).nearest(queries)
    table = (queries[:, None].double() - bank[None].double()).square().sum(2).sqrt()
    torch.testing.assert_close(distance.double(), table[torch.arange(len(queries)), index], rtol=1e-5, atol=1e-6)
    assert (distance.double() >= table.amin(1) * (1 - 1e-5)).all()
    assert (index == table.argmin(1)).float().mean() > 0.95


def test_what_is_missed_is_measured_as_defined(faiss, cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = cloud
    graph = GraphBank(bank)
    graph._index.hnsw.efSearch = 1  # a careless search, so that there is something to measure
    found, _ = graph.nearest(queries)
    nearest = (queries[:, None].double() - bank[None].double()).square().sum(2).sqrt().amin(1)
    quality = graph.quality(queries, held_out=True)
    assert quality.recall < 1
    assert quality.recall == pytest.approx(float((found.double() < nearest * (1 + 1e-5)).double().mean()), abs=1e-9)
    assert quality.largest_error == pytest.approx(float((found.double() / nearest).max()) - 1, rel=1e-4)
    assert (quality.method, quality.queries, quality.held_out) == ("hnsw", 300, True)
    assert graph.quality(bank[:50], held_out=False).largest_error == 0  # an exact distance of 0 has no relative error


def test_measurements_add_up() -> None:
    one, two = SearchQuality("hnsw", 1.0, 0.0, 100, True), SearchQuality("hnsw", 0.9, 0.2, 300, True)
    assert merged([one, two]) == SearchQuality("hnsw", pytest.approx(0.925), 0.2, 400, True)
    assert merged([]) is None


def test_the_same_bank_gives_the_same_graph_and_a_stored_one_is_taken_over(faiss, cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = cloud
    first, second = GraphBank(bank), GraphBank(bank)
    graph = first.graph()
    assert graph.dtype == np.uint8
    assert graph.nbytes < 1.5 * 1500 * 2 * 32 * 4  # the points are not in it
    np.testing.assert_array_equal(graph, second.graph())
    wanted = first.nearest(queries)
    other = GraphBank(bank[:-1]).graph()
    torn = [graph[: len(graph) // 2], other, np.zeros(0, np.uint8), _with_wild_links(faiss, graph)]
    for stored in torn:  # not this bank's graph: it is built
        assert GraphBank(bank, stored).nearest(queries)[1].equal(wanted[1])
    monkeypatch.setattr(GraphBank, "_built", None)
    again = GraphBank(bank, graph)
    assert again.nearest(queries)[1].equal(wanted[1])
    np.testing.assert_array_equal(again.graph(), graph)


def _with_wild_links(faiss, graph: np.ndarray) -> np.ndarray:
    """The same graph with a link to a point that is not there."""
    index = faiss.deserialize_index(graph)
    links = faiss.vector_to_array(index.hnsw.neighbors)
    links[0] = 10**8
    faiss.copy_array_to_vector(links, index.hnsw.neighbors)
    writer = faiss.VectorIOWriter()
    faiss.write_index(index, writer, faiss.IO_FLAG_SKIP_STORAGE)
    return faiss.vector_to_array(writer.data)


def test_patchcore_searches_by_the_graph_and_reweights_exactly(faiss, random_features: FeatureSet) -> None:
    train, test = random_features.take(range(16)), random_features.take(range(16, 24))
    exact, graph = fresh(image_score="patch"), fresh(image_score="patch", search="hnsw")
    for model in (exact, graph):
        model.fit(train)
    np.testing.assert_array_equal(exact.state()["memory_bank"], graph.state()["memory_bank"])
    # A hundred points or so: the search sees all of them.
    np.testing.assert_allclose(graph.score(test).maps, exact.score(test).maps, rtol=1e-5)
    np.testing.assert_allclose(graph.score(test).image_scores, exact.score(test).image_scores, rtol=1e-5)
    assert exact.search_quality(test, held_out=True) is None
    quality = graph.search_quality(test, held_out=True)
    assert quality is not None
    assert (quality.recall, quality.queries) == (1, 512)


@pytest.mark.parametrize(("source", "queries"), [("crossval", 24 * 64), ("holdout", 5 * 64), ("train", 24 * 64)])
def test_quality_is_measured_on_images_the_bank_has_not_seen(faiss, random_features: FeatureSet, source, queries: int) -> None:
    fitted = fresh(search="hnsw")
    fitted.fit(random_features)
    good = good_scores(lambda: fresh(search="hnsw"), fitted, random_features, source=source, seed=0)
    assert good.search is not None
    assert (good.search.queries, good.search.held_out) == (queries, source != "train")


@pytest.fixture(scope="module")
def parts(spotted_parts: Callable[[int, int], Path]) -> Path:
    return spotted_parts(10, 3)


@pytest.fixture(scope="module")
def report(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> FitReport:
    pytest.importorskip("faiss", reason="needs faiss: pip install 'aoi[faiss]'")
    out = tmp_path_factory.mktemp("runs") / "run"
    return fit_run(parts, out, FitOptions(backbone="aoi-small", image_size=(64, 64), options={"search": "hnsw"}))


def test_a_run_keeps_what_its_search_misses_and_says_so(parts: Path, report: FitReport) -> None:
    assert report.search is not None
    assert report.search.held_out
    assert "search hnsw, approximate: recall@1" in report.summary()
    folder = RunFolder(report.run)
    assert folder.read_meta()["search"] == report.as_dict()["search"] == report.search.as_dict()
    assert folder.read_config().options["search"] == "hnsw"
    again = fit_run(parts, report.run, FitOptions(backbone="aoi-small", image_size=(64, 64), options={"search": "hnsw"}))
    assert (again.resumed, again.search) == (True, report.search)


def test_a_run_loads_its_graph_or_is_searched_exactly(report: FitReport, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(report.run)
    monkeypatch.setattr(GraphBank, "_built", None)  # the stored graph must do
    loaded, _ = load_detector(folder)
    exact, _ = load_detector(folder, exact_search=True)
    assert isinstance(loaded.bank, GraphBank)
    assert type(exact.bank) is MemoryBank
    np.testing.assert_array_equal(loaded.state()["memory_bank"], exact.state()["memory_bank"])
    assert Predictor(report.run, device="cpu").facts.fingerprint != Predictor(report.run, device="cpu", exact_search=True).facts.fingerprint


def test_without_the_library_a_run_says_what_to_do(report: FitReport, parts: Path, tmp_path: Path, without_faiss) -> None:
    with pytest.raises(BackendUnavailable, match="needs faiss, which is not installed") as missing:
        Predictor(report.run, device="cpu")
    assert "pip install aoi[faiss]" in missing.value.hint
    assert "--exact-search" in missing.value.hint
    assert evaluate_run(report.run, device="cpu", exact_search=True).metrics.image_auroc is not None
    load_graph(report.run)  # exports search exactly
    words = ["detect", "run", str(parts), "--run", str(report.run), "--out", str(tmp_path / "out"), "--exact-search", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["num_images"] == 6


def test_a_fit_without_the_library_stops_before_it_computes(parts: Path, tmp_path: Path, without_faiss) -> None:
    with pytest.raises(BackendUnavailable, match="needs faiss"):
        fit_run(parts, tmp_path / "run", FitOptions(backbone="aoi-small", image_size=(64, 64), options={"search": "hnsw"}))
    assert not (tmp_path / "run").exists()
