import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from aoi.data.files import read_json, read_jsonl
from aoi.data.images import read_image, read_mask, resize_image, write_image
from aoi.data.layouts import open_dataset
from aoi.errors import ConfigError, DataError
from aoi.synth import pool
from aoi.synth.generate import GenerateOptions, generate_dataset, iter_defects
from aoi.synth.outfolder import JOURNAL, locked

SIZE = 64


@pytest.fixture(scope="module")
def goods(tmp_path_factory) -> Path:
    """Seven small good images of two sizes in a folder, one with a name that is not ASCII."""
    folder = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(0)
    for number in range(7):
        shape = (80, 96, 3) if number % 2 else (72, 72, 3)
        image = np.clip(rng.normal(0, 6, shape) + 110 + 40 * np.sin(np.arange(shape[1]) / 9)[None, :, None], 0, 255).astype(np.uint8)
        write_image(folder / (f"{number:03d}.png" if number else "零件.png"), image)
    return folder


def options(**changes):
    return GenerateOptions(**{"count": 12, "seed": 3, "size": SIZE, "workers": 1, **changes})


def contents(out: Path) -> dict[str, bytes]:
    """Every file of an output folder, but for when and from which commit it was made."""
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    meta = json.loads(found.pop("meta.json"))
    for name in ("created_at", "git_commit"):
        meta.pop(name)
    return found | {"meta.json": json.dumps(meta).encode()}


@pytest.mark.parametrize("generator", ["perlin", "cutpaste"])
def test_a_batch_is_a_data_set_whose_masks_are_exact(goods, tmp_path, generator):
    report = generate_dataset(goods, tmp_path / "out", options(generator=generator))
    assert report.made == 12
    dataset = open_dataset(tmp_path / "out")
    assert dataset.defect_types == (generator,)
    assert not dataset.train_good
    rows = read_jsonl(report.manifest)
    assert [row["index"] for row in rows] == list(range(12))
    for row, sample in zip(rows, dataset.test, strict=True):
        image, mask = read_image(sample.path), read_mask(sample.mask_path)
        source = resize_image(read_image(goods / row["source"]), (SIZE, SIZE))
        np.testing.assert_array_equal(np.abs(image.astype(int) - source).max(axis=2) > 3, mask)
        np.testing.assert_array_equal(image[~mask], source[~mask])
        assert (row["mask_area"], row["accepted"], row["reason"]) == (mask.sum(), True, None)
        x0, y0, x1, y1 = row["bbox"]
        assert mask[y0:y1, x0:x1].sum() == mask.sum()
    assert read_image(report.preview).ndim == 3
    json.dumps(report.as_dict(), allow_nan=False)
    assert "12 of 12" in report.summary()
    meta = read_json(tmp_path / "out" / "meta.json")
    assert (meta["seed"], meta["schema_version"], meta["config"]["generator"]) == (3, 1, generator)
    assert "workers" not in meta["config"]


def test_sources_keep_their_own_size_unless_one_is_asked_for(goods, tmp_path):
    generate_dataset(goods, tmp_path / "out", options(size=None))
    assert {read_image(sample.path).shape[:2] for sample in open_dataset(tmp_path / "out").test} == {(72, 72), (80, 96)}


def test_only_training_images_of_a_data_set_are_used(goods, tmp_path):
    root = tmp_path / "part"
    for number, path in enumerate(sorted(goods.iterdir())):
        place = root / ("train" if number < 3 else "test") / "good" / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    report = generate_dataset(root, tmp_path / "out", options())
    assert {row["source"].rpartition("/")[0] for row in read_jsonl(report.manifest)} == {"train/good"}


def test_every_source_is_used_before_any_is_used_twice(goods, tmp_path):
    rows = read_jsonl(generate_dataset(goods, tmp_path / "out", options(count=14)).manifest)
    for start in (0, 7):
        assert len({row["source"] for row in rows[start : start + 7]}) == 7


def test_the_place_is_kept(goods, tmp_path):
    report = generate_dataset(goods, tmp_path / "out", options(where="左上", foreground="full"))
    for row in read_jsonl(report.manifest):
        assert row["place"] == "upper left"
        assert max(row["bbox"]) <= SIZE / 3 + 1


@pytest.mark.timeout(120)
def test_workers_do_not_change_a_byte(goods, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_WORTH_A_PROCESS", 1)
    for workers in (1, 2, 3):
        generate_dataset(goods, tmp_path / str(workers), options(workers=workers))
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "3")


def test_memory_and_disk_agree(goods, tmp_path):
    report = generate_dataset(goods, tmp_path / "out", options(count=5))
    for row, defect in zip(read_jsonl(report.manifest), iter_defects(goods, options(count=5)), strict=True):
        np.testing.assert_array_equal(read_image(tmp_path / "out" / row["image"]), defect.image)
        np.testing.assert_array_equal(read_mask(tmp_path / "out" / row["mask"]), defect.mask)


def test_another_seed_is_another_batch(goods, tmp_path):
    one, other = (generate_dataset(goods, tmp_path / str(seed), options(seed=seed)) for seed in (1, 2))
    digests = [{row["image_sha256"] for row in read_jsonl(report.manifest)} for report in (one, other)]
    assert not digests[0] & digests[1]


def test_a_finished_batch_is_left_alone(goods, tmp_path):
    generate_dataset(goods, tmp_path / "out", options())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "test").rglob("*.png")}
    report = generate_dataset(goods, tmp_path / "out", options())
    assert (report.resumed, report.made, report.images_per_s) == (12, 12, None)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_folder_that_another_holds_is_refused_while_it_grows_and_waited_for_once_it_is_finished(goods, tmp_path):
    pytest.importorskip("fcntl", reason="this system cannot tell who holds a file")
    options, out = GenerateOptions(count=2, seed=0, size=64), tmp_path / "out"
    out.mkdir()
    with locked(out):
        with pytest.raises(ConfigError, match="another process is writing"):
            generate_dataset(goods, out, options)
        with pytest.raises(ConfigError, match="another process is writing"):  # who was refused has not taken the lock away
            generate_dataset(goods, out, options)
    first = generate_dataset(goods, out, options)
    with ThreadPoolExecutor(1) as pool_of_one:
        with locked(out):
            second = pool_of_one.submit(generate_dataset, goods, out, options)
            time.sleep(0.3)
            assert not second.done()
        assert second.result(timeout=30).resumed == first.made == 2


def test_torn_missing_and_foreign_files_are_made_again(goods, tmp_path):
    out = tmp_path / "out"
    generate_dataset(goods, out, options())
    whole = contents(out)
    os.replace(out / "manifest.jsonl", out / JOURNAL)
    with (out / JOURNAL).open("ab") as file:
        file.write(b'{"index": 99, "accep')
    torn = out / "test/perlin/000002.png"
    torn.write_bytes(torn.read_bytes()[:50])
    (out / "ground_truth/perlin/000005_mask.png").unlink()
    (out / "test/perlin/.000007.abc.part.png").write_bytes(b"half")
    write_image(out / "test/perlin/000009.png", np.zeros((4, 4, 3), np.uint8))
    report = generate_dataset(goods, out, options())
    assert report.resumed == 9
    assert contents(out) == whole


RUN = """
import sys
from pathlib import Path
from aoi.synth import pool
from aoi.synth.generate import GenerateOptions, generate_dataset
if __name__ == "__main__":
    pool._WORTH_A_PROCESS = 1
    generate_dataset(Path(sys.argv[1]), Path(sys.argv[2]), GenerateOptions(count=300, seed=3, size=64, workers=2))
"""


@pytest.mark.timeout(240)
def test_a_killed_run_goes_on_where_it_was(goods, tmp_path):
    script, out = tmp_path / "run.py", tmp_path / "out"
    script.write_text(RUN)
    process = subprocess.Popen([sys.executable, script, goods, out])
    while process.poll() is None and len(read_jsonl(out / JOURNAL)) < 40:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(read_jsonl(out / JOURNAL))
    assert 40 <= done < 300
    time.sleep(1)  # the orphaned workers notice and leave
    assert len(read_jsonl(out / JOURNAL)) == done
    report = generate_dataset(goods, out, options(count=300))
    assert report.resumed >= done
    generate_dataset(goods, tmp_path / "whole", options(count=300))
    assert contents(out) == contents(tmp_path / "whole")


def test_other_settings_or_images_are_refused(goods, tmp_path):
    out = tmp_path / "out"
    generate_dataset(goods, out, options(count=4))
    for changed in (options(count=4, seed=4), options(count=5), options(count=4, where="left")):
        with pytest.raises(ConfigError, match="other settings") as error:
            generate_dataset(goods, out, changed)
        assert error.value.hint
    some = tmp_path / "some"
    some.mkdir()
    for path in list(goods.iterdir())[:3]:
        (some / path.name).write_bytes(path.read_bytes())
    generate_dataset(some, tmp_path / "out2", options(count=4))
    write_image(sorted(some.iterdir())[0], np.zeros((70, 70, 3), np.uint8))
    with pytest.raises(ConfigError, match="other images"):
        generate_dataset(some, tmp_path / "out2", options(count=4))


def test_a_folder_with_other_things_in_it_is_refused(goods, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="not empty"):
        generate_dataset(goods, tmp_path, options())
    with pytest.raises(ConfigError, match="where the good images are"):
        generate_dataset(goods, goods, options())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.txt"]


def test_an_output_inside_the_input_is_no_source(goods, tmp_path):
    root = tmp_path / "parts"
    root.mkdir()
    for path in goods.iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    pattern = str(root / "**" / "*.png")
    first = generate_dataset(pattern, root / "defects", options(count=4))
    again = generate_dataset(pattern, root / "defects", options(count=4))
    assert (first.made, again.resumed) == (4, 4)
    assert not any("defects" in row["source"] for row in read_jsonl(again.manifest))


def test_a_corrupt_source_is_reported_and_passed_over(goods, tmp_path):
    root = tmp_path / "parts"
    root.mkdir()
    for path in goods.iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    (root / "bad.png").write_bytes(b"")
    (root / "torn.png").write_bytes((goods / "001.png").read_bytes()[:300])
    report = generate_dataset(root, tmp_path / "out", options(count=20))
    assert report.made == 20
    assert set(report.failed_sources) == {"bad.png", "torn.png"}
    assert f"skipped: cannot read image {root / 'bad.png'}" in report.summary()
    assert set(generate_dataset(root, tmp_path / "out", options(count=20)).failed_sources) == {"bad.png", "torn.png"}


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "bad.png").write_bytes(b"")
    with pytest.raises(DataError, match="none of the 1"):
        generate_dataset(tmp_path / "parts", tmp_path / "out", options())
    with pytest.raises(DataError, match="none of the 1"):
        list(iter_defects(tmp_path / "parts", options()))
    with pytest.raises(DataError):
        generate_dataset(tmp_path / "missing", tmp_path / "out", options())


def test_what_cannot_be_made_is_given_up_with_its_reason(tmp_path):
    root = tmp_path / "parts"
    write_image(root / "tiny.png", np.full((3, 3, 3), 100, np.uint8))
    report = generate_dataset(root, tmp_path / "out", options(size=None, count=2))
    assert (report.made, report.abandoned, report.preview) == (0, 2, None)
    rows = read_jsonl(report.manifest)
    assert all("misses the part" in row["reason"] and row["image"] is None for row in rows)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_is_refused(goods, tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(DataError, match="cannot write"):
        generate_dataset(goods, tmp_path / "out", options())
    tmp_path.chmod(0o755)


def test_an_output_that_is_a_file_is_refused(goods, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="is a file"):
        generate_dataset(goods, tmp_path / "out", options())


@pytest.mark.parametrize(
    "wrong",
    [
        *({"count": 0}, {"seed": -1}, {"size": 4}, {"workers": 0}, {"generator": "perlim"}, {"where": "nowhere"}, {"label": "a/b"}),
        *({"area": (0.5, 0.1)}, {"severity": 2.0}, {"opacity": (0.0, 1.0)}, {"foreground": "magic"}, {"blend": "glue"}, {"label": "good"}),
    ],
)
def test_wrong_options_are_refused_at_once(wrong):
    with pytest.raises(ConfigError) as error:
        GenerateOptions(**wrong)
    assert error.value.hint


def test_generating_needs_no_heavy_library():
    heavy = ("torch", "scipy", "pandas", "skimage", "sklearn", "matplotlib")
    code = f"import sys, aoi.synth.generate; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
