"""What a worker checks before it begins."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from aoi.engine import site as module
from aoi.engine.site import carried_environment, site_of
from aoi.engine.work import Needs
from aoi.errors import BackendUnavailable, DataError


@pytest.fixture(autouse=True)
def _stay(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)


def test_a_worker_that_sees_everything_stands_where_the_command_stands(tmp_path) -> None:
    (tmp_path / "out").mkdir()
    with site_of(Needs(paths=(tmp_path,), out=tmp_path / "out")) as site:
        os.chdir("/")
        site.enter()
        assert os.getcwd() == str(tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_cannot_be_seen_is_named_with_the_remedy(tmp_path) -> None:
    with site_of(Needs()) as site:
        pass
    for path, wrong in ((tmp_path / "parts", {"paths": (tmp_path / "parts",)}), (tmp_path / "gone", {"folder": tmp_path / "gone"})):
        with pytest.raises(DataError, match="cannot use") as caught:
            replace(site, **wrong).enter()
        assert str(path) in caught.value.message
        assert "every node" in caught.value.hint


def test_another_folder_of_the_same_name_is_not_the_output(tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with site_of(Needs(out=out)) as site:
        site.mark.unlink()
        with pytest.raises(DataError, match="another folder of that name"):
            site.enter()
        out.rmdir()
        with pytest.raises(DataError, match="not there"):
            site.enter()
        out.mkdir()


def test_another_release_is_refused() -> None:
    with site_of(Needs()) as site:
        other = replace(site, versions={**site.versions, "numpy": "0.9", "python": "2.7"})
        with pytest.raises(BackendUnavailable, match=r"has numpy .*, the command runs on 0\.9") as caught:
            other.enter()
        assert "requirements.lock" in caught.value.hint


def test_variables_that_decide_numbers_travel_and_secrets_do_not(monkeypatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("AOI_ANY", "1")
    carried = carried_environment(3)
    assert (carried["OMP_NUM_THREADS"], carried["AOI_ANY"]) == ("3", "1")
    assert "HF_TOKEN" not in carried
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert carried_environment(3)["OMP_NUM_THREADS"] == "2"
