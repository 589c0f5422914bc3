"""Pictures of one physical part in an ablation: they leave the test together, and are counted as one fact."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from aoi.bench.judging.evidence import Archive
from aoi.bench.material.taken import part, take
from aoi.bench.plan_options import RealPlan
from aoi.bench.report.writing import write_report
from aoi.bench.run import run_bench
from aoi.data.content import pixel_hash
from aoi.data.files import write_jsonl
from aoi.data.images import read_image
from aoi.data.layouts import open_dataset
from aoi.data.leaks import check_learnt, contents
from aoi.data.parts import part_groups
from aoi.data.sample import Sample
from aoi.errors import DataError


def tiles(of: int = 6, each: int = 3, label: str = "hole") -> list[Sample]:
    """Parts of one type, each in several exposures."""
    names = [f"exp{j + 1}_num_{1000 * i + 20 * j}" for i in range(of) for j in range(each)]
    return [Sample(Path(f"test/{label}/{name}.png"), "test", label, Path(f"{name}_mask.png")) for name in names]


def parts_of(taken: tuple[Sample, ...]) -> list[tuple[str, int]]:
    return [(sample.label, int(sample.path.stem.rpartition("_")[2]) // 1000) for sample in taken]


@pytest.mark.parametrize("seed", range(5))
def test_no_two_defects_of_one_part_are_taken_and_one_part_stays(seed):
    samples = [*tiles(4), *tiles(2, 5, "crack"), *tiles(1, 6, "fray")]
    taken = take(samples, RealPlan(per_type=9, seed=seed))
    found = parts_of(taken)
    assert sorted(label for label, _ in found) == ["crack", "hole", "hole", "hole"]
    assert len(set(found)) == len(found)
    assert set(take(samples, RealPlan(per_type=2, seed=seed))) < set(taken)


def test_a_part_of_two_types_is_taken_once_and_leaves_a_part_of_each():
    samples = [*tiles(3, 1), *tiles(2, 1, "crack")]
    both = [Sample(s.path, s.split, s.label, s.mask_path, "P") if s in (samples[0], samples[3]) else s for s in samples]
    for seed in range(8):
        taken = {sample.path for sample in take(both, RealPlan(per_type=3, seed=seed))}
        assert not {samples[0].path, samples[3].path} <= taken
        gone = {s.path for s in both if s.path in taken or (s.group and taken & {samples[0].path, samples[3].path})}
        assert {sample.label for sample in both if sample.path not in gone} == {"hole", "crack"}


@pytest.fixture
def exposed(parts, tmp_path) -> Path:
    """The discs, their six defects named as three tiles of two exposures."""
    root = shutil.copytree(parts, tmp_path / "disc")
    for i, path in enumerate(sorted((root / "test" / "spot").iterdir())):
        name = f"exp{i % 2 + 1}_num_{1000 * (i // 2) + 20 * (i % 2)}"
        (root / "ground_truth" / "spot" / f"{path.stem}_mask.png").rename(root / "ground_truth" / "spot" / f"{name}_mask.png")
        path.rename(path.with_name(f"{name}.png"))
    return root


def test_other_pictures_of_a_taken_part_are_not_tested(exposed):
    dataset = open_dataset(exposed)
    known, train = (contents([sample.path for sample in samples]) for samples in (dataset.test, dataset.train_good))
    parted = part(dataset.test, known, train, RealPlan(per_type=2))
    assert len(parted.taken) == len(parted.twins) == 2
    assert sorted(parts_of(parted.taken)) == sorted(parts_of(parted.twins))
    groups = dict(zip((sample.path for sample in dataset.test), part_groups(dataset.test), strict=True))
    learnt = {groups[sample.path] for sample in parted.taken}
    assert not learnt & {groups[sample.path] for sample in parted.tested}
    assert len(parted.tested) == len(dataset.test) - 4


def test_a_run_says_that_pictures_left_with_their_part(exposed, small_plan, tiny_bench, tmp_path):
    plan = small_plan(
        exposed, seeds=(0,), detectors=("padim",), generators=("none", "real"), couplings=("calibrate", "head"), real={"per_type": 2}
    )
    result = run_bench(plan, tmp_path / "out")
    assert result.counts["disc"] == {"train": 14, "test": 8, "defective": 2, "taken": 2, "twins": 2}
    assert "2 images that show the same or the same part" in result.notes["disc"]["real"]["said"][0]


def test_records_of_a_test_that_tore_parts_are_not_taken_for_those_of_one_that_does_not(exposed, parts, small_plan, tiny_bench, tmp_path):
    from aoi.bench import state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "_kept_together", lambda plan, dataset: ())
        for name, root in (("torn", exposed), ("whole", parts)):
            run_bench(one_seed(small_plan, root), tmp_path / name)
    assert run_bench(one_seed(small_plan, exposed), tmp_path / "torn").resumed == 0
    assert run_bench(one_seed(small_plan, parts), tmp_path / "whole").computed == 0


def one_seed(small_plan, root: Path):
    return small_plan(root, seeds=(0,), detectors=("padim",), generators=("none", "real"), couplings=("calibrate",), real={"per_type": 2})


def test_a_generator_that_learnt_from_another_picture_of_a_tested_part_stops_the_run(exposed, tmp_path):
    dataset, generator = open_dataset(exposed), tmp_path / "generator"
    bad = [sample for sample in dataset.test if sample.is_anomalous]
    first, second, *others = sorted(bad, key=lambda sample: int(sample.path.stem.rpartition("_")[2]))
    (generator / "model").mkdir(parents=True)
    write_jsonl(generator / "training_images.jsonl", [{"image": str(first.path), "source_pixels": pixel_hash(read_image(first.path))}])
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(json.dumps({"accepted": True, "image": "x.png", "model": str(generator / "model"), "parameters": {}}) + "\n")
    with pytest.raises(DataError, match="learnt from a test image"):
        check_learnt(manifest, contents([first.path, second.path]))
    with pytest.raises(DataError, match="learnt from another picture of a part that is tested") as caught:
        check_learnt(manifest, contents([second.path, *(sample.path for sample in others)]))
    assert f"{first.path} ~ {second.path}" in caught.value.message
    check_learnt(manifest, contents([sample.path for sample in others]))


def test_an_ablation_counts_parts_keeps_them_and_says_so(exposed, parts, small_plan, tiny_bench, tmp_path):
    plan = small_plan(exposed, seeds=(0,), detectors=("padim",), generators=("none", "perlin"), couplings=("calibrate", "head"))
    result = run_bench(plan, tmp_path / "out")
    kept = Archive(tmp_path / "out" / "evidence").test_set("disc")
    assert len(kept.parts) == 12
    assert len({part for part, bad in zip(kept.parts, kept.defective, strict=True) if bad}) == 3
    told = "6 defective pictures of 3 parts and 6 good ones of 6; intervals and p-values are over parts"
    assert result.notes["disc"]["test"]["said"][0].startswith(told)
    assert told in (tmp_path / "out" / "results.md").read_text()
    write_report(tmp_path / "out", ["md"])
    assert told in (tmp_path / "out" / "report.md").read_text()
    plain = run_bench(
        small_plan(parts, seeds=(0,), detectors=("padim",), generators=("none", "perlin"), couplings=("head",)), tmp_path / "b"
    )
    assert "test" not in plain.notes["disc"]


def test_evidence_from_before_parts_were_kept_is_read_and_completed(exposed, small_plan, tiny_bench, tmp_path):
    plan = small_plan(exposed, seeds=(0,), detectors=("padim",), generators=("none", "perlin"), couplings=("head",))
    (exposed / "groups.csv").write_text("image,group\ntest/good/000.png,A\ntest/good/001.png,A\n")
    first = run_bench(plan, tmp_path / "out")
    path = tmp_path / "out" / "evidence" / "disc.json"
    now = json.loads(path.read_text())
    path.write_text(json.dumps({"images": [{key: value for key, value in row.items() if key != "part"} for row in now["images"]]}))
    old = Archive(path.parent).test_set("disc")
    assert len(set(old.parts)) == 9  # by their names: the table is not kept with the evidence
    again = run_bench(plan, tmp_path / "out")
    assert again.computed == 0
    assert again.as_dict()["arms"] == first.as_dict()["arms"]
    assert again.notes == first.notes
    assert json.loads(path.read_text()) == now
    assert len(set(Archive(path.parent).test_set("disc").parts)) == 8
