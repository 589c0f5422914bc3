"""Generators that are given batches: retries in later batches, memory, safety checkers, and resuming to the byte."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from aoi.data.files import read_jsonl
from aoi.data.images import read_image, write_image
from aoi.errors import ModelError
from aoi.synth import batched
from aoi.synth.generate import GenerateOptions, generate_dataset
from aoi.synth.outfolder import JOURNAL, pending_rejections
from aoi.synth.registry import register
from aoi.synth.types import Provenance, SynthDefect

BATCHES = []


class Company:
    """Paints a dark square whose shade depends on everything in its batch, as a network's rounding does; two in five are too faint."""

    batch_size = 4
    fits = 4
    wait = 0.0

    def __init__(self, settings):
        self.settings = settings

    def generate(self, image, region, spec, rng, shape=None):
        raise AssertionError("a batch generator is given batches")

    def generate_batch(self, jobs):
        if len(jobs) > self.fits:
            for job in jobs:
                job.rng.random()  # what was drawn before memory ran out must not count
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        time.sleep(self.wait)
        BATCHES.append(len(jobs))
        drawn = [job.rng.random(3) for job in jobs]
        shade = int(100 * sum(float(each[0]) for each in drawn) / len(jobs))
        return [self.paint(job, each, shade) for job, each in zip(jobs, drawn, strict=True)]

    def paint(self, job, drawn, shade):
        image, mask = job.image.copy(), np.zeros(job.image.shape[:2], bool)
        top, left = (int(8 + value * 30) for value in drawn[:2])
        mask[top : top + 12, left : left + 12] = True
        image[mask] = image[mask] // 3 + shade // 10 if drawn[2] > 0.4 else image[mask] + 4
        blocked = {"blocked": "the safety checker withheld it"} if drawn[2] < 0.1 else {}
        return SynthDefect(image, mask, Provenance("company", job.spec.kind, job.region.place.name, blocked))


@pytest.fixture(autouse=True)
def company():
    register("company")(Company)
    yield
    Company.fits = 4
    BATCHES.clear()


@pytest.fixture(scope="module")
def goods(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("好零件")
    rng = np.random.default_rng(0)
    for number in range(5):
        write_image(folder / f"零件{number}.png", np.clip(rng.normal(150, 4, (64, 64, 3)), 0, 255).astype(np.uint8))
    return folder


def options(**changes):
    return GenerateOptions(**{"generator": "company", "count": 14, "seed": 3, "foreground": "full", "area": (0.01, 0.05), **changes})


def contents(out):
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    return {name: content for name, content in found.items() if name != "meta.json"}


def test_rejects_are_tried_again_in_later_full_batches(goods, tmp_path):
    report = generate_dataset(goods, tmp_path / "out", options())
    rows = read_jsonl(report.manifest)
    assert (report.made, [row["index"] for row in rows]) == (14, list(range(14)))
    tries = sum(len(row["rejections"]) for row in rows) + 14
    assert sum(BATCHES) == tries > 14
    assert BATCHES[: 14 // 4] == [4] * (14 // 4)
    assert report.rejected == tries - 14
    assert report.blocked == sum(each["cause"] == "blocked" for row in rows for each in row["rejections"]) > 0
    assert "safety checker" in report.summary()
    for row in rows:
        assert [each["attempt"] for each in row["rejections"]] == list(range(row["seed"][2]))
        assert row["verification"]["accepted"]
    assert not (tmp_path / "out" / JOURNAL).exists()


def test_what_is_never_good_is_given_up_and_counted(goods, tmp_path):
    report = generate_dataset(goods, tmp_path / "out", options(max_tries=1))
    rows = read_jsonl(report.manifest)
    assert report.abandoned == report.rejected == sum(not row["accepted"] for row in rows) > 0
    assert sum(report.abandoned_reasons.values()) == report.abandoned
    assert report.made + report.abandoned == 14


def test_a_folder_of_places_that_miss_the_part_takes_no_batch(goods, tmp_path):
    write_image(tmp_path / "tiny" / "tiny.png", np.full((3, 3, 3), 100, np.uint8))
    report = generate_dataset(tmp_path / "tiny", tmp_path / "out", options(count=3))
    assert (report.made, report.abandoned, BATCHES) == (0, 3, [])
    assert "misses the part" in next(iter(report.abandoned_reasons))


@pytest.mark.parametrize("stop", [1, 2, 3, 5, 7])
def test_a_run_that_stops_anywhere_goes_on_to_the_same_bytes(goods, tmp_path, monkeypatch, stop):
    generate_dataset(goods, tmp_path / "whole", options())
    painted, left = batched.BatchedRun._paint, [stop]

    def dying(self, wanted):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return painted(self, wanted)

    monkeypatch.setattr(batched.BatchedRun, "_paint", dying)
    with pytest.raises(KeyboardInterrupt):
        generate_dataset(goods, tmp_path / "out", options())
    monkeypatch.setattr(batched.BatchedRun, "_paint", painted)
    BATCHES.clear()
    generate_dataset(goods, tmp_path / "out", options())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_only_the_batches_that_are_missing_are_painted_again(goods, tmp_path):
    out = tmp_path / "out"
    generate_dataset(goods, out, options())
    whole, batches = contents(out), len(BATCHES)
    BATCHES.clear()
    (out / "test/company/000006.png").write_bytes(b"torn")
    report = generate_dataset(goods, out, options())
    assert report.resumed == 13
    assert 0 < len(BATCHES) < batches
    assert contents(out) == whole


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path({here!r}).parent))
import test_batched
from aoi.synth.generate import generate_dataset
from aoi.synth.registry import register
register("company")(test_batched.Company)
test_batched.Company.wait = 0.05
generate_dataset(Path({goods!r}), Path({out!r}), test_batched.options(count=60))
"""


def test_a_killed_run_goes_on_to_the_same_bytes(goods, tmp_path):
    out, script = tmp_path / "out", tmp_path / "run.py"
    script.write_text(RUN.format(here=__file__, goods=str(goods), out=str(out)), encoding="utf-8")
    process = subprocess.Popen([sys.executable, script])
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and len(read_jsonl(out / JOURNAL)) < 15:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert pending_rejections(out)
    generate_dataset(goods, out, options(count=60))
    generate_dataset(goods, tmp_path / "whole", options(count=60))
    assert contents(out) == contents(tmp_path / "whole")


def test_a_batch_that_does_not_fit_is_halved_and_says_so(goods, tmp_path):
    Company.fits, said = 1, []
    report = generate_dataset(goods, tmp_path / "out", options(count=6), say=said.append)
    assert report.made == 6
    assert set(BATCHES) == {1}
    assert said == ["not enough memory for 4 images at once: going on with 2", "not enough memory for 2 images at once: going on with 1"]
    assert list(report.notes) == said
    assert json.dumps(report.as_dict(), allow_nan=False)
    assert all(read_image(tmp_path / "out" / row["image"]).any() for row in read_jsonl(report.manifest))


def test_not_even_one_image_fits(goods, tmp_path):
    Company.fits = 0
    with pytest.raises(ModelError, match="single image") as error:
        generate_dataset(goods, tmp_path / "out", options(count=6))
    assert "--option offload=on" in error.value.hint


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_memory_errors_are_told_from_others(error, memory):
    assert batched.is_out_of_memory(error) is memory
