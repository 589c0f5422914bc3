"""Plain PNG files: the same pixels as Pillow's, and whatever is not plain or not whole is left to it."""

from __future__ import annotations

import io
import itertools
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from aoi.data import plain_png
from aoi.data.content import file_hash
from aoi.data.images import png_bytes, read_hashed_image, read_image
from aoi.data.plain_png import read_plain_png
from aoi.errors import DataError

pytest.importorskip("imagecodecs")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def filtered_row(row: np.ndarray, above: np.ndarray, kind: int, bpp: int) -> bytes:
    """One row through one of PNG's five filters (PNG specification, 9.2), in plain integers."""
    left = np.concatenate([np.zeros(bpp, int), row[:-bpp].astype(int)])
    corner = np.concatenate([np.zeros(bpp, int), above[:-bpp].astype(int)])
    up = above.astype(int)
    guess = left + up - corner
    distances = np.stack([abs(guess - left), abs(guess - up), abs(guess - corner)])
    paeth = np.take_along_axis(np.stack([left, up, corner]), distances.argmin(0)[None], 0)[0]
    predicted = [np.zeros_like(left), left, up, (left + up) // 2, paeth][kind]
    return bytes([kind]) + ((row - predicted) % 256).astype(np.uint8).tobytes()


def png(pixels: np.ndarray, filters: np.ndarray | int = 0, *, before: bytes = b"", pieces: int = 1, level: int = 6) -> bytes:
    """A PNG file written by hand."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    kinds = np.broadcast_to(filters, height)
    raw = b"".join(filtered_row(rows[y], above[y], int(kinds[y]), pixels[0, 0].size) for y in range(height))
    packed = zlib.compress(raw, level)
    cuts = np.linspace(0, len(packed), pieces + 1).astype(int)
    data = b"".join(chunk(b"IDAT", packed[start:end]) for start, end in itertools.pairwise(cuts))
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + data + chunk(b"IEND", b"")


def kept(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def grey_or_rgb(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 256, shape) // rng.choice([1, 40])).astype(np.uint8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(1, 40), width=st.integers(1, 40), colour=st.booleans(), pieces=st.integers(1, 4),
    level=st.sampled_from([0, 1, 9]), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_every_filter_gives_the_pixels_back(
    tmp_path: Path, height: int, width: int, colour: bool, pieces: int, level: int, seed: int
) -> None:
    pixels = grey_or_rgb((height, width, 3) if colour else (height, width), seed)
    filters = np.random.default_rng(seed).integers(0, 5, height)
    found = read_plain_png(kept(tmp_path / "a.png", png(pixels, filters, pieces=pieces, level=level)))
    assert found is not None
    assert found.flags.writeable
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("shape", [(300, 250, 3), (700, 401), (1, 65535), (256, 85, 3)])
def test_more_than_one_stored_block(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = grey_or_rgb(shape)
    np.testing.assert_array_equal(read_plain_png(kept(tmp_path / "a.png", png(pixels))), pixels)


def test_its_own_files_and_their_texts(tmp_path: Path) -> None:
    pixels = grey_or_rgb((30, 20, 3))
    content = png_bytes(pixels, {"prompt": "划痕 scratch", "seed": "7"})
    np.testing.assert_array_equal(read_plain_png(kept(tmp_path / "a.png", content)), pixels)


@pytest.mark.parametrize("before", [chunk(b"gAMA", b"\0\0\xb1\x8f"), chunk(b"tEXt", b"Software\0x") + chunk(b"pHYs", b"\0" * 9)])
def test_chunks_that_change_nothing(tmp_path: Path, before: bytes) -> None:
    pixels = grey_or_rgb((9, 8, 3))
    np.testing.assert_array_equal(read_plain_png(kept(tmp_path / "a.png", png(pixels, before=before))), pixels)


def saved(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def oriented() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.fromarray(grey_or_rgb((6, 9, 3))), exif=exif)


def with_text(keyword: str) -> bytes:
    texts = PngImagePlugin.PngInfo()
    texts.add_text(keyword, "something")
    return saved(Image.fromarray(grey_or_rgb((6, 9, 3))), pnginfo=texts)


RGB = grey_or_rgb((6, 9, 3))
ODD = {
    "transparent": lambda: saved(Image.fromarray(grey_or_rgb((6, 9, 4)))),
    "transparent colour": lambda: saved(Image.fromarray(RGB), transparency=(1, 2, 3)),
    "palette": lambda: saved(Image.fromarray(RGB).quantize(4)),
    "one bit": lambda: saved(Image.fromarray(RGB[..., 0] > 9)),
    "16 bits": lambda: saved(Image.fromarray(RGB[..., 0].astype(np.uint16) * 257)),
    "oriented": oriented,
    "camera's text": lambda: with_text("Raw profile type exif"),
    "film": lambda: saved(Image.fromarray(RGB), save_all=True, append_images=[Image.fromarray(RGB[::-1])]),
    "jpeg": lambda: b"\xff\xd8\xff\xe0" + bytes(60),
    "empty": lambda: b"",
    "header only": lambda: png(RGB)[:33],
    "no end": lambda: png(RGB)[:-12],
    "cut": lambda: png(RGB)[:-30],
    "checksum of a chunk": lambda: png(RGB, before=chunk(b"gAMA", b"\0\0\xb1\x8f")[:-1] + b"\0"),
    "checksum of the pixels": lambda: png(RGB)[:-20] + bytes([png(RGB)[-20] ^ 1]) + png(RGB)[-19:],
    "unknown filter": lambda: png(RGB).replace(pixel_chunk(0), pixel_chunk(5)),
    "too few rows": lambda: png(RGB)[:20] + struct.pack(">I", 7) + png(RGB)[24:29] + checksum_of_height(7) + png(RGB)[33:],
    "too many rows": lambda: png(RGB)[:20] + struct.pack(">I", 5) + png(RGB)[24:29] + checksum_of_height(5) + png(RGB)[33:],
}  # fmt: skip


def pixel_chunk(first: int) -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in RGB)
    return chunk(b"IDAT", zlib.compress(bytes([first]) + rows[1:]))


def checksum_of_height(height: int) -> bytes:
    return struct.pack(">I", zlib.crc32(b"IHDR" + struct.pack(">IIBBBBB", 9, height, 8, 2, 0, 0, 0)))


@pytest.mark.parametrize("kind", ODD)
def test_what_is_not_plain_or_not_whole_is_left_to_pillow(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    content = ODD[kind]()
    assert kind != "unknown filter" or content != png(RGB)
    assert read_plain_png(kept(tmp_path / "a.png", content)) is None
    assert capfd.readouterr().err == ""  # libpng complains by itself


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes_are_refused_or_read_as_pillow_reads_them(tmp_path: Path, places: list[tuple[float, int]]) -> None:
    content = bytearray(png(grey_or_rgb((12, 10, 3)), 4))
    for place, value in places:
        content[int(place * len(content))] = value
    found = read_plain_png(kept(tmp_path / "a.png", bytes(content)))
    if found is not None:
        with Image.open(tmp_path / "a.png") as image:
            np.testing.assert_array_equal(found, np.asarray(image))


def test_nothing_is_opened_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, tmp_path / "no.png", Path("a\0b")):
        assert read_plain_png(path) is None


def test_large_files_are_left_to_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kept(tmp_path / "a.png", png(RGB))
    assert read_plain_png(path) is not None
    monkeypatch.setattr(plain_png, "LARGEST", 53)
    assert read_plain_png(path) is None


def test_without_the_library_everything_is_read_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kept(tmp_path / "a.png", png(RGB))
    monkeypatch.setattr(plain_png, "_codecs", lambda: None)
    assert read_plain_png(path) is None
    np.testing.assert_array_equal(read_image(path), RGB)


def test_the_hash_beside_an_image_is_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain, grey, of other formats, and without the library"""
    Image.fromarray(RGB).save(tmp_path / "b.jpg")
    Image.fromarray(RGB).convert("P").save(tmp_path / "c.png")
    places = [kept(tmp_path / "a.png", png(RGB)), kept(tmp_path / "d.png", png(RGB[..., 0])), tmp_path / "b.jpg", tmp_path / "c.png"]
    found = [read_hashed_image(path) for path in places]
    for codecs in (plain_png._codecs(), None):
        monkeypatch.setattr(plain_png, "_codecs", lambda codecs=codecs: codecs)
        for path, (image, hashed) in zip(places, found, strict=True):
            np.testing.assert_array_equal(image, read_image(path))
            assert image.shape == RGB.shape
            assert hashed == file_hash(path)
            assert read_hashed_image(path)[1] == hashed
    with pytest.raises(DataError, match="cannot read image"):
        read_hashed_image(kept(tmp_path / "a.png", png(RGB)[:-30]))


def test_real_files_are_plain_and_equal_pillow(shared_data: Path) -> None:
    for folder in ("mvtec_ad/screw/test/good", "mvtec_ad/transistor/test/good", "mvtec_fewshot/cable/test/good"):
        for path in sorted((shared_data / folder).glob("*.png"))[:3]:
            found = read_plain_png(path)
            assert found is not None
            with Image.open(path) as image:
                np.testing.assert_array_equal(found, np.asarray(image))
