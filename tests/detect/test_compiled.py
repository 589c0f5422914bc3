"""A compiled backbone: the same numbers, batches of one shape, and no compiler is no catastrophe."""

from __future__ import annotations

import json
import logging
import shutil
import sysconfig
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from aoi.cli import app
from aoi.data.images import write_image
from aoi.detect import compiled
from aoi.detect.backbones import Backbone
from aoi.detect.evaluate import evaluate_run
from aoi.detect.features import BATCH, extract
from aoi.detect.fit import FitOptions, fit_run
from aoi.detect.inspection import inspect
from aoi.detect.predictor import Predictor
from aoi.detect.run_folder import RunFolder
from aoi.errors import ConfigError

COMPILER = shutil.which("g++") is not None and (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file()


@pytest.fixture
def pictures(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (21, 64, 64, 3)).astype(np.uint8)


class Recorder:
    """Stands for `torch.compile`: computes the same a little differently, and remembers what it was asked."""

    def __init__(self) -> None:
        self.modes: list[str] = []
        self.inputs: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        self.threads: set[int] = set()

    def __call__(self, network, *, dynamic: bool, mode: str):
        assert dynamic is False
        self.modes.append(mode)

        def run(pixels: torch.Tensor) -> list[torch.Tensor]:
            self.inputs.append((tuple(pixels.shape), pixels.stride()))
            self.threads.add(threading.get_ident())
            assert torch.is_inference_mode_enabled()
            return [maps * (1 + 1e-6) for maps in network(pixels)]

        return run


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr(compiled.torch, "compile", found)
    return found


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_lazily(network, **_):
        def run(_pixels: torch.Tensor) -> list[torch.Tensor]:
            raise RuntimeError("\nInvalidCxxCompiler: No working C++ compiler found in config\nSet TORCHDYNAMO_VERBOSE=1 for more")

        return run

    monkeypatch.setattr(compiled.torch, "compile", compile_lazily)


def test_every_batch_has_one_shape_and_the_last_is_padded(tiny_backbone: Backbone, pictures: np.ndarray, recorder: Recorder) -> None:
    fast = tiny_backbone.with_compilation(8).with_layers(("layer2", "layer3"))
    plain = tiny_backbone.with_layers(("layer2", "layer3"))
    for count in (21, 8, 3, 1):
        found, wanted = fast(pictures[:count]), plain(pictures[:count])
        assert list(found) == ["layer2", "layer3"]
        for name, maps in wanted.items():
            assert maps.shape == found[name].shape
            torch.testing.assert_close(found[name], maps, rtol=1e-4, atol=1e-5)
    assert len(recorder.inputs) == 3 + 1 + 1 + 1
    assert set(recorder.inputs) == {((8, 3, 64, 64), (3 * 64 * 64, 1, 3 * 64, 3))}
    assert recorder.modes == ["default"]


def test_results_do_not_share_memory(tiny_backbone: Backbone, pictures: np.ndarray, recorder: Recorder) -> None:
    fast = tiny_backbone.with_compilation(8)
    first = fast(pictures[:8])
    kept = {name: maps.clone() for name, maps in first.items()}
    fast(pictures[8:16])
    assert all(torch.equal(maps, kept[name]) for name, maps in first.items())


def test_calls_of_many_threads_are_made_by_one(tiny_backbone: Backbone, pictures: np.ndarray, recorder: Recorder) -> None:
    fast = tiny_backbone.with_compilation(4)
    with ThreadPoolExecutor(max_workers=3) as pool:
        found = list(pool.map(lambda image: fast(image[None])["layer3"], pictures))
    torch.testing.assert_close(torch.cat(found), tiny_backbone(pictures)["layer3"], rtol=1e-4, atol=1e-5)
    assert len(recorder.threads) == 1
    assert threading.get_ident() not in recorder.threads


def test_bfloat16_reaches_the_compiled_network(tiny_backbone: Backbone, pictures: np.ndarray, recorder: Recorder) -> None:
    coarse = tiny_backbone.with_precision("bfloat16")
    found, wanted = coarse.with_compilation(8)(pictures), coarse(pictures)
    exact = tiny_backbone(pictures)["layer3"]
    assert float((found["layer3"] - exact).abs().max()) > 1e-4  # it did compute in fewer bits
    torch.testing.assert_close(found["layer3"], wanted["layer3"], rtol=1e-2, atol=1e-2)


def test_where_nothing_compiles_it_runs_uncompiled_and_says_so_once(
    tiny_backbone: Backbone, pictures: np.ndarray, no_compiler, caplog: pytest.LogCaptureFixture
) -> None:
    fast = tiny_backbone.with_compilation(8)
    with caplog.at_level(logging.WARNING):
        found = fast(pictures)
        fast(pictures)
    wanted = tiny_backbone(pictures)
    assert all(torch.allclose(found[name], maps, rtol=1e-5, atol=1e-6) for name, maps in wanted.items())
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "cannot be compiled" in said[0]
    assert "No working C++ compiler" in said[0]
    assert "\n" not in said[0]


def test_features_of_a_compiled_backbone_are_cached_apart(
    tiny_backbone: Backbone, pictures: np.ndarray, recorder: Recorder, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, image in zip(paths, pictures, strict=False):
        write_image(path, image)
    fast = tiny_backbone.with_compilation(BATCH)
    plain, found = (extract(paths, each, (64, 64), cache=tmp_path / "cache").features for each in (tiny_backbone, fast))
    assert plain.folder != found.folder
    assert len(recorder.inputs) == 1
    assert extract(paths, fast, (64, 64), cache=tmp_path / "cache").features.folder == found.folder
    assert len(recorder.inputs) == 1


@pytest.fixture(scope="module")
def parts(spotted_parts: Callable[[int, int], Path]) -> Path:
    return spotted_parts(8, 2)


def test_a_run_is_the_same_whether_compiled_or_not(parts: Path, tmp_path: Path, recorder: Recorder) -> None:
    options = FitOptions(backbone="aoi-small", image_size=(64, 64), threshold_source="train", device="cpu", compile=True)
    report = fit_run(parts, tmp_path / "run", options)
    assert {shape for shape, _ in recorder.inputs} == {(BATCH, 3, 64, 64)}
    folder = RunFolder(report.run)
    assert folder.read_meta()["compiled"] is True
    plain = FitOptions(backbone="aoi-small", image_size=(64, 64), threshold_source="train", device="cpu")
    assert fit_run(parts, report.run, plain).resumed  # it is no setting of the run
    other = RunFolder(fit_run(parts, tmp_path / "plain", plain).run)
    assert other.read_meta()["compiled"] is False
    assert folder.read_thresholds().image_threshold == pytest.approx(other.read_thresholds().image_threshold, rel=1e-4)
    images = list(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8))
    found, wanted = (Predictor(report.run, device="cpu", compiled=each).scores(images) for each in (True, False))
    np.testing.assert_allclose(found.maps, wanted.maps, rtol=1e-4, atol=1e-4)
    one, two = (evaluate_run(report.run, device="cpu", compiled=each).metrics.as_dict() for each in (True, False))
    assert one == pytest.approx(two, abs=1e-4, nan_ok=True)
    with pytest.raises(ConfigError, match="compiled already"):
        inspect(parts, report.run, tmp_path / "out", runtime="onnx", compiled=True)


def test_the_command_line_compiles(parts: Path, tmp_path: Path, recorder: Recorder) -> None:
    words = [str(parts), "--out", str(tmp_path / "run"), "--backbone", "aoi-small", "--image-size", "64", "--compile", "--json"]
    done = CliRunner().invoke(app, ["detect", "fit", *words])
    assert done.exit_code == 0, done.output
    words = [str(parts), "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--compile", "--json"]
    done = CliRunner().invoke(app, ["detect", "run", *words])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["num_images"] == 4
    assert len(recorder.modes) == 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not COMPILER, reason="needs g++ and Python's headers")
def test_a_real_compiler_gives_the_same_maps(tiny_backbone: Backbone, pictures: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    fast = tiny_backbone.with_compilation(8)
    torch._dynamo.utils.counters.clear()
    for count in (21, 3):
        found, wanted = fast(pictures[:count]), tiny_backbone(pictures[:count])
        for name, maps in wanted.items():
            torch.testing.assert_close(found[name], maps, rtol=1e-4, atol=1e-4)
    assert fast.compiled is not None
    assert fast.compiled.failure is None, caplog.text
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # nothing was compiled twice


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_on_a_gpu_give_the_same_maps(tiny_backbone: Backbone, pictures: np.ndarray) -> None:
    from copy import deepcopy
    from dataclasses import replace

    there = replace(tiny_backbone, network=deepcopy(tiny_backbone.network).to("cuda"), device="cuda")
    fast = there.with_compilation(8)
    with ThreadPoolExecutor(max_workers=3) as pool:
        found = list(pool.map(fast, [pictures, pictures[:8], pictures[8:16]] * 3))
    for maps, part in zip(found, [pictures, pictures[:8], pictures[8:16]] * 3, strict=True):
        for name, wanted in there(part).items():
            torch.testing.assert_close(maps[name], wanted, rtol=1e-4, atol=1e-4)
    assert fast.compiled is not None
    assert fast.compiled.failure is None
