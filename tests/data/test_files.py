"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aoi.data import files
from aoi.data.files import (
    append_jsonl,
    atomic_folder,
    atomic_path,
    read_json,
    read_jsonl,
    writable_folder,
    write_bytes,
    write_json,
    write_jsonl,
    write_text,
)
from aoi.errors import DataError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
anywhere = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@anywhere
@given(value=values)
def test_json_round_trips(tmp_path, value):
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


@anywhere
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=6), max_size=3), max_size=5),
    torn=st.integers(0, 60),
)
def test_a_torn_journal_keeps_its_whole_lines_and_grows_on(tmp_path, rows, torn):
    path = tmp_path / "a.jsonl"
    write_jsonl(path, rows)
    whole = path.read_bytes()
    kept = whole[: max(0, len(whole) - torn)]
    path.write_bytes(kept)
    before = read_jsonl(path)
    assert before == rows[: len(before)]
    assert len(before) >= kept.count(b"\n")
    append_jsonl(path, [{"after": 1}])
    assert read_jsonl(path) == [*before, {"after": 1}]


def test_nan_and_numpy_become_plain_json(tmp_path):
    write_json(
        tmp_path / "a.json", {"a": math.nan, "b": np.float32(0.5), "c": np.arange(3), "d": [np.inf], "e": Path("x/y"), "f": np.bool_(True)}
    )
    assert read_json(tmp_path / "a.json") == {"a": None, "b": 0.5, "c": [0, 1, 2], "d": [None], "e": "x/y", "f": True}


def test_names_that_are_no_text_survive(tmp_path):
    """A Latin-1 file name on a UTF-8 system reaches Python as a lone surrogate."""
    write_json(tmp_path / "a.json", {"path": os.fsdecode(b"Pr\xfcfling.png")})
    assert os.fsencode(read_json(tmp_path / "a.json")["path"]) == b"Pr\xfcfling.png"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_bad_json_names_the_file(tmp_path, content):
    (tmp_path / "meta.json").write_bytes(content)
    with pytest.raises(DataError, match=r"meta\.json is not readable JSON"):
        read_json(tmp_path / "meta.json")


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_json(tmp_path / "no.json")
    assert read_jsonl(tmp_path / "no.jsonl") == []


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.txt") as part:
        raise RuntimeError(part.write_text("half"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(old)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_long_names(tmp_path):
    for name in ("x" * 251 + ".png", "划" * 83 + ".png"):
        write_bytes(tmp_path / name, b"x")
        assert (tmp_path / name).read_bytes() == b"x"


@pytest.mark.parametrize(
    "write", [lambda path: write_json(path, 1), lambda path: append_jsonl(path, [{}]), lambda path: writable_folder(path)]
)
def test_places_that_cannot_be_written(tmp_path, write):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file" / "below" / "a.json", Path("/proc/aoi/a.json"), Path("/dev/null/a.json")):
        with pytest.raises(DataError, match="cannot write") as refusal:
            write(place)
        assert "--out" in refusal.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_no_place_for_a_file(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="cannot write"):
        write_json(tmp_path / "a", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES, errno.EDQUOT])
def test_the_systems_reason_is_told(tmp_path, monkeypatch, code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "open", refuse)
    with pytest.raises(DataError, match=os.strerror(code)):
        write_json(tmp_path / "a.json", 1)


def test_a_full_disk_while_writing(tmp_path):
    with pytest.raises(DataError, match="No space left"), atomic_path(tmp_path / "a.bin"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_errors_about_other_files_are_not_blamed_on_the_output(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.bin"):
        (tmp_path / "source").read_bytes()


def test_folders_appear_whole(tmp_path):
    with atomic_folder(tmp_path / "out") as part:
        (part / "sub").mkdir()
        (part / "sub" / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out/sub/a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_folders_in_use_are_left_alone_unless_told_otherwise(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("1")
    with pytest.raises(DataError, match="is not empty"), atomic_folder(tmp_path / "out"):
        raise AssertionError("must not get here")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out", replace=True) as part:
        raise RuntimeError((part / "new").write_text("2"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    with atomic_folder(tmp_path / "out", replace=True) as part:
        (part / "new").write_text("2")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_current_folder_can_be_filled(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with atomic_folder(Path(".")) as part:
        (part / "a").write_text("1")
    assert (tmp_path / "here/a").read_text() == "1"


KILLED = """
import sys
from pathlib import Path
from aoi.data.files import append_jsonl, write_json, write_bytes
folder = Path(sys.argv[1])
print("ready", flush=True)
for count in range(10**9):
    write_json(folder / "a.json", {"count": count, "filler": ["x" * 50] * 2000})
    write_bytes(folder / "b.bin", bytes([count % 256]) * 300_000)
    append_jsonl(folder / "c.jsonl", [{"count": count, "filler": "y" * 5000}])
"""


@pytest.mark.parametrize("after", [0.01, 0.037, 0.11])
def test_a_kill_leaves_nothing_torn(tmp_path, after):
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(after)
    child.send_signal(signal.SIGKILL)
    child.wait()
    visible = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert visible <= {"a.json", "b.bin", "c.jsonl"}
    if "a.json" in visible:
        assert len(json.loads((tmp_path / "a.json").read_text())["filler"]) == 2000
    if "b.bin" in visible:
        content = (tmp_path / "b.bin").read_bytes()
        assert content == content[:1] * 300_000
    assert [row["count"] for row in read_jsonl(tmp_path / "c.jsonl")] == list(range(len(read_jsonl(tmp_path / "c.jsonl"))))
