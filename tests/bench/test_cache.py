from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from aoi.bench.cache import contents
from aoi.bench.cache import store as module
from aoi.bench.cache.place import named_cache, open_cache
from aoi.bench.cache.store import Cache
from aoi.errors import DataError

HOLDER = """
import sys, time
from pathlib import Path
from aoi.bench.cache.store import Cache
cache, wait = Cache(Path(sys.argv[1])), float(sys.argv[2])
def make(folder):
    (folder / 'value.txt').write_text('slow')
    with open(sys.argv[3], 'a') as log: print('made', file=log)
    print('making', flush=True)
    time.sleep(wait)
with cache.reading() as reading:
    print(reading.fetch('scores', 'key', make, lambda folder: (folder / 'value.txt').read_text()), flush=True)
    time.sleep(wait)
"""


def holder(tmp_path: Path, wait: float) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", HOLDER, str(tmp_path / "cache"), str(wait), str(tmp_path / "log")]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def keep(cache: Cache, key: str, value: bytes = b"x" * 1000, kind: str = "scores") -> bytes:
    def make(folder: Path) -> None:
        (folder / "value.bin").write_bytes(value)

    return cache.fetch(kind, key, make, lambda folder: (folder / "value.bin").read_bytes())


def keys(cache: Cache) -> list[str]:
    return [entry.folder.name for entry in cache.entries()]


def test_what_was_made_is_found_again_also_by_another_process(tmp_path):
    first, second = Cache(tmp_path), Cache(tmp_path)
    assert keep(first, "a", b"one") == keep(first, "a", b"two") == keep(second, "a", b"three") == b"one"
    assert (first.made, first.found) == ({"scores": 1}, {"scores": 1})
    assert (second.made, second.found) == ({}, {"scores": 1})
    assert keep(second, "b", b"other") == b"other"


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "value.bin").write_bytes(b"TWO"),
        lambda entry: (entry / "value.bin").write_bytes(b"on"),
        lambda entry: (entry / "value.bin").unlink(),
        lambda entry: (entry / "entry.json").write_text('{"schema": 1'),
        lambda entry: (entry / "entry.json").write_text('{"schema": 0, "files": {}}'),
        lambda entry: (entry / "entry.json").unlink(),
        lambda entry: (entry / ".lock").unlink(),
    ],
)
def test_a_damaged_entry_is_made_anew(damage, tmp_path):
    assert keep(Cache(tmp_path), "a", b"one") == b"one"
    damage(tmp_path / "scores" / "a")
    cache = Cache(tmp_path)
    assert keep(cache, "a", b"new") == b"new"
    assert keep(Cache(tmp_path), "a", b"newer") == b"new"
    assert keys(cache) == ["a"]


@pytest.mark.skipif(contents.boot() is None, reason="the system does not say when it was started")
def test_what_is_known_by_its_size_alone_is_not_believed_after_the_machine_went_down(tmp_path, monkeypatch):
    assert keep(Cache(tmp_path, hashed=False), "a", b"one") == b"one"
    assert keep(Cache(tmp_path, hashed=False), "a", b"two") == keep(Cache(tmp_path), "a", b"two") == b"one"
    (tmp_path / "scores" / "a" / "value.bin").write_bytes(b"on")
    assert keep(Cache(tmp_path, hashed=False), "a", b"three") == b"three"
    monkeypatch.setattr(contents, "boot", lambda: "another")
    assert keep(Cache(tmp_path, hashed=False), "a", b"four") == b"four"


def test_where_nobody_says_when_the_machine_was_started_everything_is_hashed(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "boot", lambda: None)
    assert keep(Cache(tmp_path, hashed=False), "a", b"one") == b"one"
    (tmp_path / "scores" / "a" / "value.bin").write_bytes(b"TWO")
    assert keep(Cache(tmp_path, hashed=False), "a", b"new") == b"new"


def test_a_failed_making_leaves_nothing(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "value.bin").write_bytes(b"half")
        raise KeyboardInterrupt

    cache = Cache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.fetch("scores", "a", fail, lambda folder: b"")
    assert not list((tmp_path / "scores").iterdir())
    assert keep(cache, "a", b"one") == b"one"


def test_the_longest_unused_go_first_and_what_is_read_stays(tmp_path):
    cache = Cache(tmp_path)
    for age, key in enumerate(("old", "older", "oldest")):
        keep(cache, key)
        os.utime(tmp_path / "scores" / key / ".lock", (1e9 - age, 1e9 - age))
    each = cache.entries()[0].size
    with cache.reading() as reading:
        reading.fetch("scores", "oldest", lambda folder: None, lambda folder: b"held")
        os.utime(tmp_path / "scores" / "oldest" / ".lock", (1e9 - 9, 1e9 - 9))
        assert cache.shrink(2 * each) == each
        assert keys(cache) == ["oldest", "old"]
        assert cache.shrink(0) == each
        assert keys(cache) == ["oldest"]
    assert cache.shrink(0) == each


def test_a_new_entry_pushes_others_out_but_not_itself(tmp_path):
    cache = Cache(tmp_path, limit=3000)
    for key in "abcdef":
        assert keep(cache, key, key.encode() * 1000) == key.encode() * 1000
        time.sleep(0.01)
    assert keys(cache)[-1] == "f"
    assert sum(entry.size for entry in cache.entries()) <= 3000
    assert keep(cache, "huge", b"y" * 9000) == b"y" * 9000


def test_reading_counts_as_use(tmp_path):
    cache = Cache(tmp_path)
    for key in ("a", "b"):
        keep(cache, key)
        os.utime(tmp_path / "scores" / key / ".lock", (1e9, 1e9 + (key == "b")))
    keep(cache, "a")
    assert keys(cache) == ["b", "a"]


def test_a_cache_of_one_run_forgets_what_a_block_read_unless_the_block_failed(tmp_path):
    cache = Cache(tmp_path, lasting=False)

    def killed() -> None:
        with cache.reading() as reading:
            reading.fetch("features", "a", lambda folder: (folder / "x").touch(), lambda folder: 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert keys(cache) == ["a"]
    with cache.reading() as reading:
        reading.fetch("features", "a", lambda folder: None, lambda folder: 1)
    assert keys(cache) == []


def test_what_another_process_reads_stays_until_it_ends_however_it_ends(tmp_path):
    other = holder(tmp_path, 60)
    assert other.stdout is not None
    cache = Cache(tmp_path / "cache")
    assert other.stdout.readline() == "making\n"
    other.send_signal(signal.SIGKILL)  # while it makes the entry: its lock does not block, its half folder is swept
    other.wait()
    module_young, module._YOUNG = module._YOUNG, -1.0
    try:
        assert keep(cache, "key", b"mine") == b"mine"
    finally:
        module._YOUNG = module_young
    assert [path.name for path in (tmp_path / "cache" / "scores").iterdir()] == ["key"]
    cache.shrink(0)
    other = holder(tmp_path, 1.5)
    assert other.stdout is not None
    assert [other.stdout.readline(), other.stdout.readline()] == ["making\n", "slow\n"]
    assert cache.shrink(0) == 0
    assert keys(cache) == ["key"]
    other.kill()
    other.wait()
    assert cache.shrink(0) > 0


def test_two_processes_do_not_make_the_same_thing_twice(tmp_path):
    pair = [holder(tmp_path, 0.5), holder(tmp_path, 0.5)]
    said = [other.communicate(timeout=60)[0] for other in pair]
    assert all(text.endswith("slow\n") for text in said)
    assert (tmp_path / "log").read_text() == "made\n"


def test_without_locks_the_first_is_kept_and_nothing_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("aoi.data.locks._fcntl", None)
    cache = Cache(tmp_path)

    def make(folder: Path) -> bytes:
        (folder / "value.bin").write_bytes(b"mine")
        if not (tmp_path / "scores" / "a").exists():  # another process is faster
            keep(Cache(tmp_path), "a", b"theirs")
        return b"mine"

    assert cache.fetch("scores", "a", make, lambda folder: (folder / "value.bin").read_bytes()) == b"mine"
    assert keep(cache, "a") == b"theirs"
    assert cache.shrink(0) == 0


def test_the_report_counts_and_clears(tmp_path):
    cache = Cache(tmp_path)
    keep(cache, "a")
    keep(cache, "b", kind="features")
    report = cache.report()
    assert {kind: count for kind, (count, _) in report.kinds.items()} == {"scores": 1, "features": 1}
    assert report.as_dict()["bytes"] == report.size > 2000
    cleared = cache.report(clear=True)
    assert (cleared.removed, cleared.size) == (report.size, 0)
    assert "removed" in cleared.summary()


def test_a_folder_that_holds_other_things_loses_none_of_them(tmp_path):
    """Every hidden folder on the second level was taken for what a killed process left, and deleted: `.git` of every project."""
    mine = [tmp_path / name for name in ("project/.git/HEAD", "project/.deadbeef/x", "project/.a.0123abcd/x", "photos/2020/.lock", "a.txt")]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        os.utime(path.parent, (0, 0))
    cache = Cache(tmp_path, limit=0)
    cache.fetch("scores", "a", lambda folder: (folder / "x").write_bytes(b"12"), lambda folder: 2)
    empty = tmp_path / "scores" / ".b.0123abcd"
    empty.mkdir()
    os.utime(empty, (0, 0))
    cache.report(clear=True)
    assert all(path.read_text() == "mine" for path in mine)
    assert not empty.exists()
    assert not list((tmp_path / "scores").iterdir())


def test_a_run_of_its_own_deletes_no_folder_of_another_name(tmp_path, monkeypatch):
    """With --out at home, `.cache` is every program's."""
    monkeypatch.delenv("AOI_CACHE", raising=False)
    kept = tmp_path / ".cache" / "pip"
    kept.mkdir(parents=True)
    own = open_cache(None, tmp_path)
    own.fetch("scores", "a", lambda folder: (folder / "x").write_bytes(b"12"), lambda folder: 2)
    own.close()
    assert [path.name for path in tmp_path.iterdir()] == [".cache"]
    assert kept.is_dir()


@pytest.mark.parametrize("said", [OSError("229376 requested and 49120 written"), OSError(28, "No space left on device")])
def test_a_full_disk_is_said_to_be_full_and_leaves_nothing(tmp_path, said):
    def make(folder: Path) -> None:
        (folder / "half").write_bytes(b"1")
        raise said

    with pytest.raises(DataError, match="No space left on device") as caught:
        Cache(tmp_path).fetch("scores", "a", make, lambda folder: 1)
    assert "free disk space" in caught.value.hint
    assert not list((tmp_path / "scores").iterdir())


def test_what_cannot_be_read_meanwhile_is_another_matter(tmp_path):
    def make(folder: Path) -> None:
        (tmp_path / "elsewhere").read_bytes()

    with pytest.raises(FileNotFoundError):
        Cache(tmp_path / "cache").fetch("scores", "a", make, lambda folder: 1)


def test_a_file_is_no_cache_and_a_misspelt_folder_none_either(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "features").mkdir()
    with pytest.raises(DataError, match="is a file"):
        open_cache(tmp_path / "file", tmp_path)
    with pytest.raises(DataError, match="is a file"):
        named_cache(tmp_path / "file")
    with pytest.raises(DataError, match="no folder") as caught:
        named_cache(tmp_path / "feature")
    assert str(tmp_path / "features") in caught.value.hint


def test_where_a_run_keeps_its_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("AOI_CACHE", raising=False)
    assert open_cache(None, tmp_path).root == tmp_path / ".bench-cache"
    assert not open_cache(None, tmp_path).lasting
    assert not open_cache(None, tmp_path).elsewhere().hashed
    named = open_cache(tmp_path / "mine", tmp_path / "out", limit_gb=0.5)
    assert (named.root, named.limit, named.lasting, named.hashed) == (tmp_path / "mine", 500_000_000, True, True)
    with pytest.raises(DataError):
        named_cache(None)
    monkeypatch.setenv("AOI_CACHE", "off")
    assert not open_cache(None, tmp_path).lasting
    monkeypatch.setenv("AOI_CACHE", str(tmp_path / "all"))
    assert open_cache(None, tmp_path).root == named_cache(None).root == tmp_path / "all" / "bench"


def test_arrays_survive(tmp_path):
    maps = np.random.default_rng(0).random((3, 4, 5), np.float32)

    def make(folder: Path) -> None:
        np.save(folder / "maps.npy", maps)

    found = Cache(tmp_path).fetch("scores", "a", make, lambda folder: np.load(folder / "maps.npy"))
    np.testing.assert_array_equal(found, maps)
