"""`aoi detect run` on an export: without torch, with the same words, and plain words for damaged folders."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aoi.data.content import file_hash
from aoi.data.files import read_jsonl
from aoi.data.images import read_mask, write_image
from aoi.detect.evaluate import evaluate_run
from aoi.detect.export import export_run
from aoi.detect.fit import FitOptions, fit_run
from aoi.detect.inspection import inspect
from aoi.detect.runtime import export_folder, openvino_engine
from aoi.detect.runtime.predictor import RuntimePredictor
from aoi.detect.runtime.rounding import rounded_to_bfloat16, widened
from aoi.errors import BackendUnavailable, ConfigError, DataError, ModelError

pytest.importorskip("openvino")

RUN_THEN_MODULES = """
from aoi.cli import main
try: main()
except SystemExit: pass
print('MODULES', *sorted({name.partition('.')[0] for name, module in sys.modules.items() if module}))
"""


def picture(rng: np.random.Generator, *, spot: bool = False) -> np.ndarray:
    y, x = np.mgrid[:90, :90]
    disc = np.where((x - 45) ** 2 + (y - 45) ** 2 < 34**2, 150.0, 40.0)
    image = np.clip(disc[..., None] + rng.normal(0, 6, (90, 90, 3)), 0, 255).astype(np.uint8)
    if spot:
        image[40:52, 40:52] = 255
    return image


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("parts")
    for i in range(14):
        write_image(root / "train" / "good" / f"{i:03d}.png", picture(rng))
    for i in range(10):
        write_image(root / "test" / "good" / f"{i:03d}.png", picture(rng))
        write_image(root / "test" / "spot" / f"{i:03d}.png", picture(rng, spot=True))
    return root


@pytest.fixture(scope="module")
def run(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    fit_run(parts, out, FitOptions(backbone="aoi-small", image_size=(64, 64), threshold_source="holdout"))
    return out


@pytest.fixture(scope="module")
def openvino_export(run: Path) -> Path:
    return export_run(run, "openvino").out


@pytest.fixture(scope="module")
def onnx_export(run: Path) -> Path:
    pytest.importorskip("onnxscript")
    return export_run(run, "onnx").out


@pytest.fixture
def copied(openvino_export: Path, tmp_path: Path) -> Path:
    """An export of one's own, to be damaged."""
    return Path(shutil.copytree(openvino_export, tmp_path / "export"))


@pytest.mark.parametrize("runtime", ["openvino", "onnx"])
def test_the_same_output_without_torch(parts: Path, run: Path, tmp_path: Path, runtime: str, request: pytest.FixtureRequest) -> None:
    export = request.getfixturevalue(f"{runtime}_export")
    words = ["aoi", "detect", "run", str(parts), "--run", str(export), "--runtime", runtime, "--out", str(tmp_path / "light"), "--json"]
    code = f"import sys; sys.argv = {words!r}\n" + RUN_THEN_MODULES
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rsplit("MODULES", 1)[1].split())
    assert not loaded & {"torch", "torchvision", "timm", "anomalib", "pandas", "sklearn", "scipy", "openvino_telemetry", "nncf"}
    said = json.loads(done.stdout.rsplit("MODULES", 1)[0])
    heavy = inspect(parts, run, tmp_path / "heavy").as_dict()
    assert {key: said[key] for key in ("num_images", "num_ng", "model", "category", "thresholds")} == {
        key: heavy[key] for key in ("num_images", "num_ng", "model", "category", "thresholds")
    }
    for light, full in zip(read_jsonl(tmp_path / "light" / "preds.jsonl"), read_jsonl(tmp_path / "heavy" / "preds.jsonl"), strict=True):
        assert light.keys() == full.keys()
        same = ("image_path", "image_sha256", "image_size", "gt_label", "label", "is_anomaly", "num_defects", "image_threshold")
        assert {key: light[key] for key in same} == {key: full[key] for key in same}
        assert light["pred_score"] == pytest.approx(full["pred_score"], rel=1e-5)
        assert [defect["bbox"] for defect in light["defects"]] == [defect["bbox"] for defect in full["defects"]]
        assert (read_mask(Path(light["mask_path"])) != read_mask(Path(full["mask_path"]))).mean() < 1e-3
        assert Path(light["overlay_path"]).stat().st_size > 500


def test_an_export_is_evaluated_without_torch_and_says_what_its_run_says(run: Path, copied: Path) -> None:
    code = f"import sys; sys.argv = ['aoi', 'detect', 'evaluate', {str(copied)!r}, '--runtime', 'openvino']\n" + RUN_THEN_MODULES
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "(openvino, fp32): 10 good and 10 defective test images" in told
    assert "torch" not in told.split("MODULES", 1)[1].split()
    found, oracle = json.loads((copied / "metrics.json").read_text()), evaluate_run(run).as_dict()
    assert (found["runtime"], found["arithmetic"], found["escapes"]) == ("openvino", "fp32", oracle["escapes"])
    for name in ("image_auroc", "image_ap", "image_f1_max"):
        assert found[name] == pytest.approx(oracle[name], abs=1e-6)
    of_run, of_export = (read_jsonl(folder / "preds_test.jsonl") for folder in (run, copied))
    assert [row["image_path"] for row in of_run] == [row["image_path"] for row in of_export]
    assert [row["pred_score"] for row in of_export] == pytest.approx([row["pred_score"] for row in of_run], rel=1e-4)
    RuntimePredictor(copied, "openvino")  # which checks the export's files: still whole


def test_an_export_checks_each_file_once_and_knows_what_its_run_learnt_from(
    parts: Path, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    monkeypatch.setattr(export_folder, "file_hash", lambda path: looked.append(path.name) or file_hash(path))
    evaluate_run(copied, runtime="openvino")
    assert sorted(looked) == sorted(set(looked))
    assert {"model.xml", "model.bin"} <= set(looked)
    other = shutil.copytree(parts, tmp_path / "other")
    first = min((other / "train" / "good").iterdir())
    shutil.copy(first, other / "test" / "good" / "again.png")
    with pytest.raises(DataError, match=f"the run learnt from: .*again.png = .*{first.name}"):
        evaluate_run(copied, dataset=other, runtime="openvino")


def test_an_evaluation_that_cannot_be_had_says_why(parts: Path, run: Path, copied: Path) -> None:
    with pytest.raises(ConfigError, match="compiled already"):
        evaluate_run(copied, runtime="openvino", compiled=True)
    with pytest.raises(ModelError, match="a run folder, not an export"):
        evaluate_run(run, runtime="openvino")
    manifest = json.loads((copied / "export.json").read_text())
    (copied / "export.json").write_text(json.dumps({**manifest, "dataset": None}))
    with pytest.raises(DataError, match="does not say what it was fitted on"):
        evaluate_run(copied, runtime="openvino")
    write_image(parts / "test" / "spot" / "bad.png", np.zeros((9, 9, 3), np.uint8))
    try:
        (parts / "test" / "spot" / "bad.png").write_bytes(b"no picture")
        report = evaluate_run(copied, dataset=parts, runtime="openvino")
    finally:
        (parts / "test" / "spot" / "bad.png").unlink()
    assert [bad.path.name for bad in report.skipped] == ["bad.png"]
    assert report.num_defective == 10


def test_scores_do_not_depend_on_company_or_threads(parts: Path, openvino_export: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from aoi.data.images import read_image

    images = [read_image(path) for path in sorted(parts.rglob("test/**/*.png"))]
    predictor = RuntimePredictor(openvino_export, "openvino", workers=3)
    _, together = predictor.scores(images)
    with ThreadPoolExecutor(3) as pool:
        alone = [float(scores[0]) for _, scores in pool.map(lambda image: predictor.scores([image]), images)]
    np.testing.assert_array_equal(together, alone)


def test_thresholds_are_beside_the_network(parts: Path, copied: Path, tmp_path: Path) -> None:
    path = copied / "thresholds.json"
    found = json.loads(path.read_text())
    verdicts = []
    for threshold in (0, 1e9):
        path.write_text(json.dumps(found | {"image_threshold": threshold}))
        verdicts.append(inspect(parts, copied, tmp_path / "out", runtime="openvino", overlays=False).num_ng)
    assert verdicts == [20, 0]


def test_bf16_is_near_and_refused_where_there_is_none(
    parts: Path, openvino_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if openvino_engine.has_bf16(openvino_engine.open_core()):
        fp32, bf16 = (
            inspect(parts, openvino_export, tmp_path / arithmetic, runtime="openvino", arithmetic=arithmetic, overlays=False)
            for arithmetic in ("fp32", "bf16")
        )
        assert fp32.num_ng == bf16.num_ng
        scores = [[row["pred_score"] for row in read_jsonl(report.out / "preds.jsonl")] for report in (fp32, bf16)]
        np.testing.assert_allclose(scores[1], scores[0], rtol=0.05)
        assert scores[0] != scores[1]
    monkeypatch.setattr(openvino_engine, "has_bf16", lambda core: False)
    with pytest.raises(ConfigError, match="bfloat16"):
        RuntimePredictor(openvino_export, "openvino", arithmetic="bf16")
    assert RuntimePredictor(openvino_export, "openvino", arithmetic="auto").arithmetic == "fp32"


def test_in_bfloat16_the_network_looks_along_the_directions(parts: Path, openvino_export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scores as of the embedding alone, and no use of a product that was rounded on its way out."""
    if not openvino_engine.has_bf16(openvino_engine.open_core()):
        pytest.skip("this processor has no bfloat16 products")
    from aoi.data.images import read_image

    images = [read_image(path) for path in sorted(parts.rglob("test/**/*.png"))]
    near = RuntimePredictor(openvino_export, "openvino", arithmetic="bf16", workers=1)
    engine: Any = near._engine
    assert len(engine._network.outputs) == 2
    basis, shift = engine._bank.directions
    assert engine._is_rounded_once(engine._network, basis, shift)

    def twice(given: list[np.ndarray]) -> list[np.ndarray]:
        rows = engine._network(given)[0].view(np.uint16)
        product = widened(rows) @ basis
        seen = rounded_to_bfloat16(product, np.empty_like(product)) - shift
        return [rows, (rounded_to_bfloat16(seen, np.empty_like(seen)).view(np.uint32) >> 16).astype(np.uint16)]

    assert not engine._is_rounded_once(twice, basis, shift)
    monkeypatch.setattr(openvino_engine.OpenVinoEngine, "_is_rounded_once", lambda *_: False)
    plain = RuntimePredictor(openvino_export, "openvino", arithmetic="bf16", workers=1)
    for found, wanted in zip(near.scores(images), plain.scores(images), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0.01)


def test_an_interrupted_inspection_of_another_arithmetic_starts_anew(openvino_export: Path) -> None:
    one, two = (RuntimePredictor(openvino_export, "openvino", arithmetic=each) for each in ("fp32", "auto"))
    assert (one.facts.fingerprint == two.facts.fingerprint) == (one.arithmetic == two.arithmetic)


def damage(folder: Path, kind: str) -> None:
    described = json.loads((folder / "export.json").read_text())
    weights = (folder / "model.bin").read_bytes()
    changes = {
        "no weights": lambda: (folder / "model.bin").unlink(),
        "torn weights": lambda: (folder / "model.bin").write_bytes(weights[: len(weights) // 2]),
        "one bit": lambda: (folder / "model.bin").write_bytes(weights[:99] + bytes([weights[99] ^ 1]) + weights[100:]),
        "no bank": lambda: (folder / "memory_bank.npy").unlink(),
        "schema": lambda: (folder / "export.json").write_text(json.dumps(described | {"schema_version": 99})),
        "not json": lambda: (folder / "export.json").write_text("{"),
        "not ours": lambda: (folder / "export.json").write_text("[]"),
        "no size": lambda: (folder / "export.json").write_text(json.dumps(described | {"image_size": None})),
        "outside": lambda: (folder / "export.json").write_text(json.dumps(described | {"files": {"../model.xml": ""}})),
        "no manifest": lambda: (folder / "export.json").unlink(),
        "thresholds": lambda: (folder / "thresholds.json").write_text('{"image_threshold": 1}'),
        "words for thresholds": lambda: (folder / "thresholds.json").write_text(
            (folder / "thresholds.json").read_text().replace('"image_threshold": ', '"image_threshold": "high", "was": ')
        ),
    }
    changes[kind]()


DAMAGES = (
    "no weights", "torn weights", "one bit", "no bank", "schema", "not json", "not ours", "no size", "outside", "no manifest", "thresholds",
    "words for thresholds",
)  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_export_is_a_sentence_and_a_remedy(copied: Path, kind: str) -> None:
    damage(copied, kind)
    with pytest.raises(ModelError) as caught:
        RuntimePredictor(copied, "openvino")
    assert str(copied) in caught.value.message
    assert caught.value.hint


def test_the_wrong_folder_or_runtime_is_named(
    parts: Path, run: Path, openvino_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        RuntimePredictor(tmp_path / "nothing", "openvino")
    with pytest.raises(ModelError, match="a run folder, not an export"):
        RuntimePredictor(run, "openvino")
    with pytest.raises(ModelError, match="is an export, not a run folder") as refusal:
        inspect(parts, openvino_export, tmp_path / "out")
    assert "--runtime openvino" in refusal.value.hint
    with pytest.raises(ConfigError, match="not onnx") as caught:
        RuntimePredictor(openvino_export, "onnx")
    assert "--runtime openvino" in caught.value.hint
    with pytest.raises(ConfigError, match="arithmetic"):
        RuntimePredictor(openvino_export, "openvino", arithmetic="fp8")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendUnavailable, match="not installed") as missing:
        RuntimePredictor(openvino_export, "openvino")
    assert "aoi[openvino]" in missing.value.hint


def test_a_network_that_is_no_network(copied: Path) -> None:
    """As written, but not what OpenVINO takes: say which file."""
    import hashlib

    (copied / "model.xml").write_text("<net/>")
    described = json.loads((copied / "export.json").read_text())
    described["files"]["model.xml"] = hashlib.sha256(b"<net/>").hexdigest()
    (copied / "export.json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match="cannot use"):
        RuntimePredictor(copied, "openvino")
