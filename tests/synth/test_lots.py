"""Defects made elsewhere: whoever makes them, in whatever order and however often, the folder is the same to the byte."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from aoi.data.files import read_jsonl
from aoi.data.images import write_image
from aoi.engine.work import Needs
from aoi.synth import batched, lots, pool
from aoi.synth.diffusion.settings import DiffusionSettings
from aoi.synth.generate import GenerateOptions, generate_dataset
from aoi.synth.outfolder import JOURNAL, lot_journal
from aoi.synth.registry import register
from aoi.synth.types import Provenance, SynthDefect

try:
    import ray
except ImportError:
    ray = None
needs_ray = pytest.mark.skipif(ray is None, reason="needs the package ray: pip install 'aoi[ray]'")
PAINTED = []


class Crowd:
    """Paints squares whose shade depends on everything in the batch, as a network's rounding does; two in five are too faint."""

    batch_size = 3

    def __init__(self, settings) -> None:
        self.notes = ("half of it is stretched",)

    def generate(self, image, region, spec, rng, shape=None):
        raise AssertionError("a batch generator is given batches")

    def generate_batch(self, jobs):
        drawn = [job.rng.random(3) for job in jobs]
        PAINTED.append(len(jobs))
        return [self.paint(job, each, int(20 * sum(float(one[0]) for one in drawn))) for job, each in zip(jobs, drawn, strict=True)]

    def paint(self, job, drawn, shade):
        image, mask = job.image.copy(), np.zeros(job.image.shape[:2], bool)
        top, left = (int(8 + value * 30) for value in drawn[:2])
        mask[top : top + 12, left : left + 12] = True
        image[mask] = image[mask] // 3 + shade if drawn[2] > 0.4 else image[mask] + 4
        return SynthDefect(image, mask, Provenance("crowd", job.spec.kind, job.region.place.name, {}))


@pytest.fixture(autouse=True)
def crowd(monkeypatch):
    register("crowd")(Crowd)
    monkeypatch.setattr(lots, "LOT", 2)
    monkeypatch.setattr(pool, "_REMOTE_CHUNK", 5)
    PAINTED.clear()


@pytest.fixture(scope="module")
def goods(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("好零件")
    rng = np.random.default_rng(0)
    for number in range(5):
        write_image(folder / f"零件{number}.png", np.clip(rng.normal(150, 4, (64, 64, 3)), 0, 255).astype(np.uint8))
    return folder


def options(generator: str, **changes) -> GenerateOptions:
    return GenerateOptions(**{"generator": generator, "count": 20, "seed": 3, "foreground": "full", "area": (0.01, 0.05), **changes})


@contextmanager
def dying_at(monkeypatch, batch: int) -> Iterator[None]:
    """Within it the run is interrupted before it paints its batch of that number, counted from 1."""
    painted, left = batched.BatchedRun._paint, [batch]

    def dying(self, wanted):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return painted(self, wanted)

    with monkeypatch.context() as patch:
        patch.setattr(batched.BatchedRun, "_paint", dying)
        yield


def contents(out: Path) -> dict[str, bytes]:
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    return {name: content for name, content in found.items() if name != "meta.json"}


@pytest.mark.parametrize("generator", ["crowd", "perlin"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_bytes_here_and_elsewhere(goods, tmp_path, generator, seed, elsewhere) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    report = generate_dataset(goods, here, options(generator))
    engine, reported = elsewhere(seed), []
    progress = lambda stage, done, total: reported.append((stage, done, total))  # noqa: E731
    other = generate_dataset(goods, there, options(generator), engine=engine, progress=progress)
    assert len(engine.names) == 4
    assert contents(here) == contents(there)
    assert other.made == report.made
    assert other.notes == report.notes
    assert reported[0] == ("synth", 0, 20)
    assert reported[-1] == ("synth", 20, 20)
    assert [done for _, done, _ in reported] == sorted({done for _, done, _ in reported})


def test_what_a_lost_worker_had_half_written_goes(goods, tmp_path, elsewhere) -> None:
    """Another does its task again; nobody begins the folder anew, where it would have been cleared."""
    generate_dataset(goods, tmp_path / "here", options("perlin"))
    out, left = tmp_path / "there", []

    def progress(stage: str, done: int, total: int) -> None:
        if done and not left:
            image = next(out.glob("test/*/*.png"))
            left.append(image.with_name(".000007.0123abcd.part.png"))
            left[0].write_bytes(image.read_bytes()[:20])

    generate_dataset(goods, out, options("perlin"), engine=elsewhere(), progress=progress)
    assert left
    assert contents(out) == contents(tmp_path / "here")


def test_defects_share_batches_within_their_lot_only(goods, tmp_path, monkeypatch) -> None:
    """Else a worker could not make a lot by itself."""
    generate_dataset(goods, tmp_path / "whole", options("crowd"))
    first = read_jsonl(tmp_path / "whole" / "manifest.jsonl")
    monkeypatch.setattr(lots, "LOT", 32)
    generate_dataset(goods, tmp_path / "one", options("crowd"))
    assert [row["image_sha256"] for row in read_jsonl(tmp_path / "one" / "manifest.jsonl")] != [row["image_sha256"] for row in first]
    assert list(lots.lots(range(7), 1, {})) == [lots.Lot(0, tuple(range(7)), {})]


@pytest.mark.parametrize("stop", [1, 3, 6, 9])
@pytest.mark.parametrize(("begun", "ended"), [(True, True), (True, False), (False, True)])
def test_a_run_begun_by_one_engine_is_ended_by_another(goods, tmp_path, monkeypatch, stop, begun, ended, elsewhere) -> None:
    generate_dataset(goods, tmp_path / "whole", options("crowd"))
    out = tmp_path / "out"
    with dying_at(monkeypatch, stop), pytest.raises(KeyboardInterrupt):
        generate_dataset(goods, out, options("crowd"), engine=elsewhere(stop) if begun else None)
    generate_dataset(goods, out, options("crowd"), engine=elsewhere(stop + 1) if ended else None)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_lot_goes_on_where_its_dead_worker_was(goods, tmp_path, monkeypatch, elsewhere) -> None:
    """What it had journalled is not painted again, and a torn image is."""
    generate_dataset(goods, tmp_path / "whole", options("crowd"))
    batches, out = len(PAINTED), tmp_path / "out"
    generate_dataset(goods, out, options("crowd"), engine=elsewhere(0, 1))
    shutil.rmtree(out)
    monkeypatch.setattr(lots, "LOT", 100)
    generate_dataset(goods, tmp_path / "one lot", options("crowd"))
    with dying_at(monkeypatch, 5), pytest.raises(KeyboardInterrupt):
        generate_dataset(goods, out, options("crowd"), engine=elsewhere())
    noted = [row for row in read_jsonl(lot_journal(out, 0)) if "pending" not in row]
    assert noted
    assert not (out / JOURNAL).exists()
    PAINTED.clear()
    generate_dataset(goods, out, options("crowd"), engine=elsewhere())
    assert 0 < len(PAINTED) < batches
    assert contents(out) == contents(tmp_path / "one lot")


def test_what_tasks_take_and_see(goods, tmp_path) -> None:
    def needs(**changes) -> Needs:
        return pool.Recipe((), options(**changes), None, tmp_path).needs

    assert (needs(generator="perlin").cpus, needs(generator="perlin").gpus) == (1, 0)
    assert needs(generator="perlin", features=True).cpus is None
    assert (needs(generator="diffusion").cpus, needs(generator="diffusion").gpus) == (None, None)
    for device, gpus in (("cpu", 0), ("cuda", 1), ("auto", None)):
        assert needs(generator="diffusion", diffusion=DiffusionSettings(device=device)).gpus == gpus
    assert tmp_path in needs(generator="perlin", textures=tmp_path).paths


@pytest.fixture(scope="module")
def cluster():
    """Two workers on this machine."""
    from aoi.engine.cluster import start_here

    start_here(num_cpus=2, log_to_driver=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_worker_killed_midway_changes_no_byte(cluster, goods, tmp_path, kill_a_worker) -> None:
    from aoi.engine.cluster import RayEngine

    asked, out = options("perlin", count=400, workers=1), tmp_path / "there"
    generate_dataset(goods, tmp_path / "here", asked)
    said: list[str] = []
    deaths = kill_a_worker(lambda: len(list(out.glob("test/*/*.png"))) > 60)
    report = generate_dataset(goods, out, asked, engine=RayEngine(say=said.append))
    assert report.made + report.abandoned == 400
    assert deaths
    assert any("trying again" in text for text in said)
    assert contents(out) == contents(tmp_path / "here")


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_network_paints_the_same_on_a_cluster(cluster, goods, tmp_path, tiny_inpainting, monkeypatch) -> None:
    from aoi.engine.cluster import RayEngine

    monkeypatch.undo()  # workers have lots of the usual size
    settings = DiffusionSettings(model=str(tiny_inpainting), steps=2, batch_size=1, resolution=64)
    asked = options("diffusion", count=40, max_tries=2, diffusion=settings)
    here = generate_dataset(goods, tmp_path / "here", asked)
    there = generate_dataset(goods, tmp_path / "there", asked, engine=RayEngine())
    assert (there.made, there.rejected) == (here.made, here.rejected)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_command_on_a_cluster_of_its_own(goods, tmp_path) -> None:
    words = ["synth", goods, "--count", "70", "--foreground", "full", "--size", "64"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    for name, engine in (("here", []), ("there", ["--engine", "ray"])):
        command = [sys.executable, "-m", "aoi.cli", *map(str, words), "--out", str(tmp_path / name), *engine]
        subprocess.run(command, check=True, capture_output=True, env=environment, timeout=300)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
