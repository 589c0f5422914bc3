"""Exports against the runs they are made of; each runtime on its own terms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from aoi.data.images import read_image, resize_image, write_image
from aoi.detect import export_formats
from aoi.detect.export import export_run
from aoi.detect.export_graph import load_graph
from aoi.detect.fit import FitOptions, fit_run
from aoi.detect.predictor import Predictor
from aoi.errors import BackendUnavailable, ConfigError, DataError, ModelError

SIDE = (64, 96)
RUNS = {
    "patchcore": ("patchcore", {"coreset_ratio": 0.2}),
    "patchcore-patch": ("patchcore", {"coreset_ratio": 0.2, "image_score": "patch", "neighbours": 5, "upsampling": "nearest"}),
    "padim": ("padim", {"dims": 8}),
    "padim-few": ("padim", {"dims": 40}),
    "padim-orthogonal": ("padim", {"dims": 8, "reduction": "orthogonal"}),
}


def picture(rng: np.random.Generator) -> np.ndarray:
    """A disc of varying brightness with grain, HWC uint8."""
    y, x = np.mgrid[:80, :100]
    disc = np.where((x - 50) ** 2 + (y - 40) ** 2 < 30**2, rng.uniform(120, 180), 40.0)
    return np.clip(disc[..., None] + rng.normal(0, 12, (80, 100, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("parts")
    for i in range(14):
        write_image(root / "train" / "good" / f"{i:03d}.png", picture(rng))
    for i in range(5):
        image = picture(rng)
        image[30:40, 45 + i : 60] = 255
        write_image(root / "test" / "spot" / f"{i:03d}.png", image)
    return root


@pytest.fixture(scope="module")
def runs(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, (model, options) in RUNS.items():
        made[name] = tmp_path_factory.mktemp("runs") / name
        fit_run(
            parts, made[name], FitOptions(model=model, backbone="aoi-small", image_size=SIDE, options=options, threshold_source="train")
        )
    return made


@pytest.mark.parametrize("name", RUNS)
def test_the_graph_says_what_the_run_says(runs: dict[str, Path], parts: Path, name: str) -> None:
    """In one piece and for any number of images."""
    graph, predictor = load_graph(runs[name]), Predictor(runs[name], device="cpu")
    images = [read_image(path) for path in sorted(parts.rglob("test/**/*.png"))]
    wanted = predictor.scores(images)
    with torch.inference_mode():
        maps, scores = graph.whole(torch.from_numpy(np.stack([resize_image(image, SIDE) for image in images])))
    np.testing.assert_allclose(maps.numpy(), wanted.maps, rtol=1e-4, atol=1e-4 * wanted.maps.max())
    np.testing.assert_allclose(scores.numpy(), wanted.image_scores, rtol=1e-4)


@pytest.mark.parametrize(("kind", "library"), [("openvino", "openvino"), ("onnx", "onnxscript"), ("torchscript", "torch")])
@pytest.mark.parametrize("name", ["patchcore-patch", "padim-few"])
def test_parity_is_measured_and_small(runs: dict[str, Path], tmp_path: Path, name: str, kind: str, library: str) -> None:
    pytest.importorskip(library)
    report = export_run(runs[name], kind, tmp_path / "export")
    exact = [each for each in report.parity if each.arithmetic == "fp32"]
    top = Predictor(runs[name], device="cpu").facts.thresholds.pixel_threshold
    assert exact
    assert all(each.map_max_error < 2e-4 * top and each.score_max_error < 2e-4 * top for each in exact)
    assert all(each.verdicts_changed == 0 and each.num_images == 5 for each in exact)
    written = json.loads((tmp_path / "export" / "parity.json").read_text())
    assert written["map_max_error"] == report.parity[0].map_max_error
    assert len(written["images"]) == 5


def test_anyone_can_use_the_openvino_file(runs: dict[str, Path], parts: Path, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    out = export_run(runs["patchcore"], "openvino", tmp_path / "export").out
    network = openvino.Core().compile_model(str(out / "model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    described = json.loads((out / "export.json").read_text())["network"]
    assert network.inputs[0].get_any_name() == described["input"]["name"]
    assert [output.get_any_name() for output in network.outputs] == list(described["outputs"])
    image = read_image(next(parts.rglob("test/**/*.png")))
    maps, score = network([resize_image(image, SIDE)[None]]).values()
    wanted = Predictor(runs["patchcore"], device="cpu").scores([image])
    np.testing.assert_allclose(maps, wanted.maps, rtol=1e-4)
    np.testing.assert_allclose(score, wanted.image_scores, rtol=1e-4)


@pytest.mark.parametrize(("kind", "library"), [("openvino", "openvino"), ("onnx", "onnxscript")])
def test_half_weights_halve_the_file(runs: dict[str, Path], tmp_path: Path, kind: str, library: str) -> None:
    pytest.importorskip(library)
    full, half = (export_run(runs["padim"], kind, tmp_path / precision, precision=precision) for precision in ("fp32", "fp16"))
    assert half.size_mb < 0.6 * full.size_mb
    assert half.parity[0].map_max_error < 0.02 * Predictor(runs["padim"], device="cpu").facts.thresholds.pixel_threshold


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "library"), [("openvino", "nncf"), ("onnx", "onnxscript")])
def test_eight_bits_say_what_they_lose(runs: dict[str, Path], parts: Path, tmp_path: Path, kind: str, library: str) -> None:
    pytest.importorskip(library)
    report = export_run(runs["patchcore"], kind, tmp_path / "export", precision="int8")
    predictor = Predictor(runs["patchcore"], device="cpu")
    top = max(prediction.score for prediction in predictor.predict([read_image(path) for path in sorted(parts.glob("test/spot/*"))]))
    assert 1e-4 * top < report.parity[0].map_max_error < 0.5 * top
    assert report.parity[0].map_mean_error < 0.1 * top


def test_what_cannot_be_exported_is_refused(runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = runs["patchcore"], tmp_path / "export"
    with pytest.raises(ConfigError, match="coreml"):
        export_run(run, "coreml", out)
    with pytest.raises(ConfigError, match="int4"):
        export_run(run, "openvino", out, precision="int4")
    with pytest.raises(ConfigError, match="TorchScript exports are fp32"):
        export_run(run, "torchscript", out, precision="int8")
    with pytest.raises(ModelError, match="does not exist"):
        export_run(tmp_path / "nothing", "torchscript", out)
    with pytest.raises(DataError, match="there is no file"):
        export_run(run, "torchscript", out, images=str(tmp_path / "nowhere"))
    monkeypatch.setattr(export_formats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match="onnx") as caught:
        export_run(run, "onnx", out)
    assert "pip install aoi[onnx]" in caught.value.hint
    assert not out.exists()


def test_an_export_is_replaced_only_when_asked(runs: dict[str, Path], tmp_path: Path) -> None:
    out = export_run(runs["patchcore"], "torchscript", tmp_path / "export").out
    with pytest.raises(ConfigError, match="holds an export already") as refused:
        export_run(runs["patchcore"], "torchscript", out)
    assert "--overwrite" in refused.value.hint
    export_run(runs["patchcore"], "torchscript", out, overwrite=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        export_run(runs["patchcore"], "torchscript", other)
    with pytest.raises(ConfigError, match="not an export folder"):
        export_run(runs["patchcore"], "torchscript", other, overwrite=True)
    assert (other / "precious.txt").is_file()
