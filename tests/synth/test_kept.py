"""Good images are read again only where their files changed, and forgotten where there is no room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aoi.data.images import write_image
from aoi.errors import DataError
from aoi.synth.kept import Kept, Understood, understood


@pytest.fixture
def picture(rng: np.random.Generator, tmp_path: Path) -> Path:
    write_image(tmp_path / "good.png", rng.integers(0, 256, (40, 40, 3)).astype(np.uint8))
    return tmp_path / "good.png"


class Reader:
    """Counts how often it is asked."""

    def __init__(self, path: Path, size: int | None = 32, mode: str = "auto") -> None:
        self.asked, self._what = 0, (path, size, mode)

    def __call__(self) -> Understood:
        self.asked += 1
        return understood(*self._what)


def test_read_once_and_again_when_it_was_changed(picture: Path, rng: np.random.Generator) -> None:
    kept, reader = Kept(), Reader(picture)
    first = kept.of(picture, 32, "auto", reader)
    assert kept.of(picture, 32, "auto", reader) is first
    assert reader.asked == 1
    write_image(picture, rng.integers(0, 256, (40, 40, 3)).astype(np.uint8))
    second = kept.of(picture, 32, "auto", reader)
    assert reader.asked == 2
    assert second.sha256 != first.sha256
    assert not np.array_equal(second.image, first.image)


def test_size_and_mode_tell_images_apart(picture: Path) -> None:
    kept = Kept()
    sides = [kept.of(picture, size, "full", Reader(picture, size, "full")).image.shape[0] for size in (32, None, 16)]
    assert sides == [32, 40, 16]
    named = Reader(picture, 32, "otsu")
    kept.of(picture, 32, "full", named)
    kept.of(picture, 32, "otsu", named)
    assert named.asked == 1


def test_weights_that_turn_up_are_asked(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, reader = Kept(), Reader(picture)
    for found in (None, Path("u2netp.onnx"), None):
        monkeypatch.setattr("aoi.synth.kept.find_weights", lambda name, found=found: found)
        kept.of(picture, 32, "auto", reader)
    assert reader.asked == 2


def test_the_longest_unused_go_first(tmp_path: Path, rng: np.random.Generator) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        write_image(path, rng.integers(0, 256, (32, 32, 3)).astype(np.uint8))
    readers = [Reader(path) for path in paths]
    kept = Kept(memory=2 * 32 * 32 * 4)  # two images with their foregrounds
    for which in (0, 1, 0, 2, 0, 1):
        kept.of(paths[which], 32, "auto", readers[which])
    assert [reader.asked for reader in readers] == [1, 2, 1]


def test_an_unreadable_file_says_so_every_time(tmp_path: Path) -> None:
    kept, broken = Kept(), tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    for path in (broken, broken, tmp_path / "missing.png"):
        with pytest.raises(DataError):
            kept.of(path, 32, "auto", Reader(path))
