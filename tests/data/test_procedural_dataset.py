from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from aoi.data.content import file_hash, pixel_hash
from aoi.data.files import read_jsonl
from aoi.data.images import read_image, read_mask
from aoi.data.layouts import open_dataset
from aoi.data.procedural import write_sample_dataset
from aoi.data.procedural.defects import DEFECTS, SEVERITIES
from aoi.errors import ConfigError, DataError

SMALL = {"train_good": 5, "test_good": 3, "per_defect": 3, "size": 128, "seed": 4}


def tree(root: Path) -> dict[str, str]:
    """Hashes of all files that must be equal for equal settings; meta.json tells the time."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "meta.json")
    return {path.relative_to(root).as_posix(): file_hash(path) for path in files}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample") / "flange"
    write_sample_dataset(root, **SMALL)
    return root


def test_layout_opens_and_every_defect_has_its_mask(sample: Path):
    dataset = open_dataset(sample)
    assert (dataset.layout, len(dataset.train_good), len(dataset.test)) == ("mvtec", 5, 3 + 3 * len(DEFECTS))
    assert dataset.defect_types == tuple(sorted(DEFECTS))
    for item in dataset.samples:
        assert read_image(item.path).shape == (128, 128, 3)
        assert (item.mask_path is not None) == item.is_anomalous
        if item.mask_path:
            share = read_mask(item.mask_path).mean()
            assert 12 / 256**2 <= share <= 0.2


def test_manifest_tells_what_is_on_disk(sample: Path):
    rows = read_jsonl(sample / "manifest.jsonl")
    dataset = open_dataset(sample)
    assert sorted(row["file"] for row in rows) == sorted(item.key for item in dataset.samples)
    assert len({row["seed"] for row in rows}) == len(rows)
    for row in rows:
        assert row["sha256"] == file_hash(sample / row["file"])
        assert {"x", "y", "turn_degrees"} == set(row["pose"])
        assert {"azimuth_degrees", "gain", "warmth"} <= set(row["lighting"])
        if row["mask"]:
            assert row["mask_area"] == read_mask(sample / row["mask"]).sum()
            assert row["severity"] in SEVERITIES
        else:
            assert (row["severity"], row["mask_area"], row["label"]) == (None, 0, "good")
    assert {row["severity"] for row in rows if row["label"] == "crack"} == set(SEVERITIES)
    meta = json.loads((sample / "meta.json").read_text())
    assert (meta["command"], meta["seed"], meta["settings"]["size"]) == ("data sample", 4, 128)


def test_no_picture_is_there_twice(sample: Path):
    pictures = [pixel_hash(read_image(item.path)) for item in open_dataset(sample).samples]
    assert len(set(pictures)) == len(pictures)
    # nor nearly: sensor noise alone would differ by about 3 levels
    train, test = (
        [read_image(item.path).astype(float) for item in part] for part in (open_dataset(sample).train_good, open_dataset(sample).test)
    )
    assert min(np.abs(a - b).mean() for a in train for b in test) > 4


@pytest.mark.parametrize("workers", [1, 3])
def test_same_bytes_whatever_the_worker_count(sample: Path, tmp_path: Path, workers: int):
    write_sample_dataset(tmp_path / "again", **SMALL, workers=workers)
    assert tree(tmp_path / "again") == tree(sample)


def test_another_seed_draws_other_parts(sample: Path, tmp_path: Path):
    write_sample_dataset(tmp_path / "other", **(SMALL | {"seed": 5, "per_defect": 0}))
    ours = {row["sha256"] for row in read_jsonl(tmp_path / "other" / "manifest.jsonl")}
    assert not ours & {row["sha256"] for row in read_jsonl(sample / "manifest.jsonl")}


def test_report_and_progress(tmp_path: Path):
    seen: list[tuple[str, int, int]] = []
    report = write_sample_dataset(
        tmp_path / "s",
        train_good=2,
        test_good=1,
        per_defect=1,
        size=128,
        progress=lambda stage, done, total: seen.append((stage, done, total)),
    )
    assert report.as_dict()["defects"] == dict.fromkeys(sorted(DEFECTS), 1)
    assert (report.drawn, report.kept) == (9, 0)
    json.dumps(report.as_dict(), allow_nan=False)
    assert "9 images of 128 x 128 px" in report.summary()
    assert [done for _, done, _ in seen] == list(range(10))


def test_finished_images_are_kept_and_damaged_ones_drawn_again(tmp_path: Path):
    root = tmp_path / "s"
    settings = {"train_good": 3, "test_good": 1, "per_defect": 1, "size": 128}
    write_sample_dataset(root, **settings)
    before = tree(root)
    (root / "train/good/001.png").write_bytes(b"torn")
    (root / "ground_truth/dent/000_mask.png").unlink()
    (root / "train/good/.002.abc.part.png").write_bytes(b"left by a killed run")
    manifest = root / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-40])  # a torn last row: the stain's
    untouched = (root / "train/good/000.png").stat().st_mtime_ns
    report = write_sample_dataset(root, **settings)
    assert (report.drawn, report.kept) == (3, 7)
    assert (root / "train/good/000.png").stat().st_mtime_ns == untouched
    assert tree(root) == before


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_a_killed_run_finishes_to_the_same_bytes(sample: Path, tmp_path: Path):
    root = tmp_path / "killed"
    code = f"from pathlib import Path; from aoi.data.procedural import write_sample_dataset as w; w(Path({str(root)!r}), **{SMALL!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=os.environ)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and len(read_jsonl(root / "manifest.jsonl")) < 4:
        time.sleep(0.005)
    process.kill()
    process.wait()
    report = write_sample_dataset(root, **SMALL)
    assert report.kept >= 4
    assert tree(root) == tree(sample)


def test_other_settings_are_refused(sample: Path):
    before = tree(sample)
    with pytest.raises(ConfigError, match=r"size 128 there, 160 now") as caught:
        write_sample_dataset(sample, **(SMALL | {"size": 160}))
    assert "another --out" in caught.value.hint
    assert tree(sample) == before


def test_foreign_contents_are_refused(tmp_path: Path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"holiday\.jpg"):
        write_sample_dataset(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_run_folder_is_not_mistaken_for_a_sample(tmp_path: Path):
    (tmp_path / "meta.json").write_text('{"command": "detect fit"}')
    with pytest.raises(ConfigError, match="something else"):
        write_sample_dataset(tmp_path, **SMALL)


def test_a_strange_picture_among_the_samples_is_refused(tmp_path: Path):
    settings = {"train_good": 1, "test_good": 0, "per_defect": 0, "size": 128}
    write_sample_dataset(tmp_path / "s", **settings)
    (tmp_path / "s/train/good/mine.png").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"mine\.png"):
        write_sample_dataset(tmp_path / "s", **settings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_good": 0},
        {"test_good": -1},
        {"per_defect": 2.5},
        {"size": 64},
        {"size": 100_000},
        {"seed": -1},
        {"seed": True},
        {"workers": 0},
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_written(tmp_path: Path, wrong: dict[str, object]):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        write_sample_dataset(tmp_path / "s", **(SMALL | wrong))
    assert not (tmp_path / "s").exists()


def test_out_is_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="file"):
        write_sample_dataset(tmp_path / "file", **SMALL)


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_out_cannot_be_written(tmp_path: Path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(DataError, match="cannot write"):
        write_sample_dataset(tmp_path / "locked" / "s", **SMALL)


@pytest.mark.slow
def test_several_hundred_images_take_seconds_of_processor_time(tmp_path: Path):
    started = time.process_time()
    report = write_sample_dataset(tmp_path / "s")
    assert report.drawn == 380
    assert time.process_time() - started < 40
