"""The speed harness on small sizes; what it says about speed is not looked at here."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def speed():
    """Imports a part of the harness by name."""
    sys.path.insert(0, str(SCRIPTS))
    yield lambda name: importlib.import_module(f"speed.{name}")
    sys.path.remove(str(SCRIPTS))


def bench(work: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "bench_speed.py"), "--quick", "--device", "cpu", "--work", str(work), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)


def test_a_power_law_is_found_with_its_exponent(speed):
    ratios = speed("ratios")
    sizes = [100, 200, 400, 800]
    grown = ratios.growth(sizes, [3e-4 * size**1.7 for size in sizes])
    assert grown.exponent == pytest.approx(1.7)
    assert grown.factor == pytest.approx(3e-4)
    assert grown.error == pytest.approx(0, abs=1e-9)
    noisy = ratios.growth(sizes, [1, 2.2, 3.9, 8.3])
    from numpy import log
    from scipy.stats import linregress

    truth = linregress(log(sizes), log([1, 2.2, 3.9, 8.3]))
    assert (noisy.exponent, noisy.error) == (pytest.approx(truth.slope), pytest.approx(truth.stderr))
    assert ratios.growth([5, 5], [1, 2]) is None


def test_ratios_are_taken_round_by_round(speed):
    ratios = speed("ratios")
    # The machine was half as fast in the second round, for both: the ratio does not see it.
    assert ratios.ratio([10, 20, 10], [1, 2, 1]) == (10, 10, 10, 3)
    assert ratios.ratio([10, 20, 30], [1]).count == 1


def test_every_case_has_small_sizes_and_real_ones(speed):
    plan = speed("plan")
    for make in (plan.coreset_case, plan.search_case, plan.padim_case, plan.aupro_case):
        real, quick = make(quick=False), make(quick=True)
        assert max(max(point.sides.values()) for point in quick.points()) < 1
        for case in (real, quick):
            keys = [point.key(side) for point in case.points() for side in point.sides]
            assert len(keys) == len(set(keys))
            assert all(any(side.startswith("aoi") for side in point.sides) for point in case.points())
            for series in case.series:
                assert len({point.values[series.axis] for point in series.points}) == len(series.points) >= 3
    assert "anomalib" in plan.coreset_case(quick=False).headlines[2].not_run


def test_measurements_are_kept_and_not_mixed_between_machines(speed, tmp_path):
    plan, store = speed("plan"), speed("store")
    point = plan.aupro_point(2, 32, ("aoi",))
    kept = store.Store(tmp_path / "kept.json", "one machine")
    kept.add(point, "aoi", {"seconds": 1.5})
    kept.add(point, "aoi", {"stopped": "stopped after 5 s"})
    again = store.Store(tmp_path / "kept.json", "one machine")
    assert (again.seconds(point, "aoi"), len(again.of(point, "aoi"))) == ([1.5], 2)
    assert store.Store(tmp_path / "kept.json", "another machine").of(point, "aoi") == []
    again.forget(point)
    assert again.of(point, "aoi") == []


def test_the_page_says_what_was_met_what_not_and_what_was_not_run(speed, tmp_path):
    plan, store, page = speed("plan"), speed("store"), speed("page")
    case = plan.coreset_case(quick=False)
    kept = store.Store(tmp_path / "kept.json", "a machine")
    row = {"memory_mb": 400.0, "input_mb": 319.5, "commit": "abc", "check": {"covering radius": 3.25}}
    for turn in range(3):
        kept.add(case.headlines[0], "anomalib", {**row, "seconds": 200.0 + turn})
        kept.add(case.headlines[0], "aoi", {**row, "seconds": 1.0 + turn / 100})
        kept.add(case.headlines[2], "aoi", {**row, "seconds": 30.0})
    for i, point in enumerate(case.series[0].points):
        kept.add(point, "aoi", {**row, "seconds": 0.25 * 2**i})
    absent = {case.headlines[0].key("torch"): "skipped: no torch today"}
    page.write_page(tmp_path / "PAGE.md", [case], kept, absent, conditions="a machine", gpu=None, quick=False)
    text = (tmp_path / "PAGE.md").read_text(encoding="utf-8")
    assert "199 times, met" in text
    assert "30 s, **not met**" in text
    assert "400 (input 320)" in text
    assert "1.25 times, **not met**" in text
    assert "not run: too many passes" in text
    assert "skipped: no torch today" in text
    assert "not measured yet" in text
    assert "aoi 1.00 ± 0.00" in text
    assert (tmp_path / "page" / "coreset-count.png").stat().st_size > 5000
    assert (tmp_path / "page" / "ratios.png").is_file()
    assert "Bounded memory" not in text


def test_a_fit_on_many_images_has_a_section_once_it_was_measured(speed, tmp_path):
    stages = {"features": {"resident": 1.23, "anonymous": 1.0, "mapped": 0.2}, "coreset": {"resident": 6.5}}
    found = {"images": 5000, "side": 256, "bank": [51200, 384], "stages": stages, "seconds": {"total": 1234.5}, "disk_gb": 3.9}
    said = {"peak_gb": 6.5, "target_gb": 6.0, "within_target": False, "commit": "abc", "command": "python scripts/measure_memory.py"}
    (tmp_path / "memory.json").write_text(json.dumps(found | said), encoding="utf-8")
    (section,) = speed("bounded").bounded_section(tmp_path)
    assert "PatchCore fitted on 5,000 images of 256 px, bank 51,200 × 384" in section
    assert "| features | 1.23 | 1.00 | 0.20 |" in section
    assert "| coreset | 6.50 | 0.00 | 0.00 |" in section
    assert "6.50 GB, **not met**" in section
    kept = speed("store").Store(tmp_path / "kept.json", "a machine")
    speed("page").write_page(tmp_path / "PAGE.md", [], kept, {}, conditions="a machine", gpu=None, quick=False)
    assert section in (tmp_path / "PAGE.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_quick_run_measures_resumes_and_writes_a_page(tmp_path):
    words = ("--only", "aupro", "--without", "anomalib", "--rounds", "1", "--threads", "1")
    planned = bench(tmp_path, *words, "--dry-run")
    assert planned.returncode == 0
    assert "6 measurements" in planned.stdout
    assert not (tmp_path / "quick").exists()
    first = bench(tmp_path, *words)
    assert first.returncode == 0, first.stderr
    page = Path(first.stdout.strip())
    text = page.read_text(encoding="utf-8")
    assert "mean nothing" in text
    assert "AUPRO 0." in text
    assert (page.parent / "performance" / "aupro-side.png").is_file()
    rows = json.loads((tmp_path / "quick" / "measurements.json").read_text())
    again = bench(tmp_path, *words)
    assert "0 of 6 measurements" in again.stderr
    assert json.loads((tmp_path / "quick" / "measurements.json").read_text()) == rows


def test_a_runtime_that_is_not_there_is_skipped_with_a_reason(tmp_path):
    (tmp_path / "one.png").touch()
    values = {"folder": str(tmp_path), "count": 1, "size": 64, "no openvino": "error: openvino is not installed"}
    command = [sys.executable, str(SCRIPTS / "speed" / "measure.py"), "predict", "aoi openvino", json.dumps(values), "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.strip().splitlines()[-1]) == {"skipped": "error: openvino is not installed"}
