"""Who holds a file, and why it cannot be held: three reasons that have three remedies."""

import errno
import os

import pytest

from aoi.data import locks
from aoi.data.locks import NoLocks, held, hold
from aoi.errors import ConfigError, DataError
from aoi.synth.outfolder import locked

pytest.importorskip("fcntl", reason="this system cannot tell who holds a file")


def refuse(monkeypatch, code: int) -> None:
    """As a file system answers that has no locks."""

    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks._fcntl, "flock", flock)


def test_a_lock_that_somebody_has_one_that_cannot_be_opened_and_none_at_all_are_told_apart(tmp_path, monkeypatch):
    mine = held(tmp_path / "a", alone=True, create=True)
    with pytest.raises(BlockingIOError):
        held(tmp_path / "a")
    mine.release()
    with pytest.raises(FileNotFoundError):
        held(tmp_path / "b")
    (tmp_path / "c").mkdir()
    with pytest.raises(IsADirectoryError):
        held(tmp_path / "c", alone=True, create=True)
    refuse(monkeypatch, errno.ENOLCK)
    with pytest.raises(NoLocks, match="No locks available"):
        held(tmp_path / "a", alone=True)
    held(tmp_path / "a").release()  # with others: nothing to tell, nothing to fear
    assert [hold(tmp_path / name, alone=True) for name in "abc"] == [None] * 3


def test_no_handle_is_left_behind(tmp_path, monkeypatch):
    def handles() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not list open files")
    before = handles()
    mine = held(tmp_path / "a", alone=True, create=True)
    assert hold(tmp_path / "a") is None
    mine.release()
    refuse(monkeypatch, errno.ENOTSUP)
    assert hold(tmp_path / "a", alone=True) is None
    assert handles() == before


def test_an_output_folder_says_why_it_cannot_be_held(tmp_path, monkeypatch, caplog):
    with locked(tmp_path), pytest.raises(ConfigError, match="another process is writing to"), locked(tmp_path):
        pass
    (tmp_path / ".lock").mkdir()
    with pytest.raises(DataError, match=r"cannot open the lock .*\.lock: Is a directory") as caught, locked(tmp_path):
        pass
    assert "delete it" in caught.value.hint
    (tmp_path / ".lock").rmdir()
    assert not caplog.records
    refuse(monkeypatch, errno.ENOLCK)
    with locked(tmp_path):
        pass
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"no locks at {tmp_path} (No locks available)" in caplog.text


def test_a_lock_of_somebody_else_is_not_a_process_that_writes(tmp_path, monkeypatch):
    opened = os.open

    def denied(path, *rest):
        if str(path).endswith(".lock"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *rest)

    monkeypatch.setattr(locks.os, "open", denied)
    with pytest.raises(DataError, match="Permission denied"), locked(tmp_path):
        pass
