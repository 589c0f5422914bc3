"""The one image reader against arrays that were written with a second library or by hand."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from aoi.data.decoding import MAX_PIXELS
from aoi.data.images import read_image
from aoi.errors import DataError


def picture(height: int = 37, width: int = 53, seed: int = 0) -> np.ndarray:
    """Smooth colour noise, so that JPEG has something honest to do."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def same(path: Path, expected: np.ndarray) -> None:
    read = read_image(path)
    assert read.dtype == np.uint8
    assert read.flags.c_contiguous
    assert read.flags.writeable
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".PNG"])
def test_lossless_formats_give_the_pixels_back(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(picture()).save(path)
    same(path, picture())


def test_lossless_webp(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.webp", lossless=True)
    same(tmp_path / "a.webp", picture())


@pytest.mark.parametrize("grey", [True, False])
def test_jpeg_equals_opencv(tmp_path, grey):
    image = picture()[..., 0] if grey else picture()
    path = tmp_path / "a.jpg"
    Image.fromarray(image).save(path, quality=90)
    same(path, cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB))


def test_grey_becomes_three_equal_channels(tmp_path):
    grey = picture()[..., 1]
    cv2.imwrite(str(tmp_path / "a.png"), grey)
    same(tmp_path / "a.png", np.dstack([grey] * 3))


def test_one_bit(tmp_path):
    bits = picture()[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    same(tmp_path / "a.png", np.dstack([bits * np.uint8(255)] * 3))


@pytest.mark.parametrize("widened", [256, 257])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, widened, suffix):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), grey.astype(np.uint16) * widened)
    same(tmp_path / f"a{suffix}", np.dstack([grey] * 3))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_colour_is_scaled_like_grey(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    wide = picture().astype(np.uint16) * 257
    cv2.imwrite(str(path), cv2.cvtColor(wide, cv2.COLOR_RGB2BGR))
    same(path, picture())


def test_big_endian_16_bit_tiff(tmp_path):
    """Written by hand: Pillow and OpenCV only write the machine's own order."""
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    pixels = (grey.astype(">u2") * 257).tobytes()
    tags = [
        (256, 4, 6),
        (257, 4, 4),
        (258, 3, 16 << 16),
        (259, 3, 1 << 16),
        (262, 3, 1 << 16),
        (273, 4, 8),
        (278, 4, 4),
        (279, 4, len(pixels)),
    ]
    directory = struct.pack(">H", len(tags)) + b"".join(struct.pack(">HHII", tag, kind, 1, value) for tag, kind, value in tags)
    (tmp_path / "a.tif").write_bytes(b"MM\0*" + struct.pack(">I", 8 + len(pixels)) + pixels + directory + b"\0\0\0\0")
    same(tmp_path / "a.tif", np.dstack([grey] * 3))


@pytest.mark.parametrize(("scale", "dtype"), [(1 / 255, np.float32), (1, np.float32), (257, np.float32), (1, np.int32), (257, np.int32)])
def test_float_and_32_bit_tiff(tmp_path, scale, dtype):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray((grey.astype(np.float64) * scale).astype(dtype)).save(tmp_path / "a.tif")
    same(tmp_path / "a.tif", np.dstack([grey] * 3))


@pytest.mark.parametrize("bad", [np.nan, -1.0, 1e9, np.inf])
def test_float_without_a_meaning_is_refused(tmp_path, bad):
    values = np.zeros((4, 4), np.float32)
    values[0, 0] = bad
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="scale them to"):
        read_image(tmp_path / "a.tif")


def test_palette(tmp_path):
    image = Image.fromarray(picture()).quantize(17)
    image.save(tmp_path / "a.png")
    same(tmp_path / "a.png", np.asarray(image.convert("RGB")))


def test_cmyk_jpeg_is_not_inverted(tmp_path):
    flat = np.full((16, 16, 3), (200, 60, 30), np.uint8)
    Image.fromarray(flat).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - flat).max() <= 6


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    alpha = np.linspace(0, 255, 37 * 53).astype(np.uint8).reshape(37, 53)
    colour = picture() if mode == "RGBA" else np.dstack([picture()[..., 0]] * 3)
    stored = np.dstack([colour if mode == "RGBA" else colour[..., :1], alpha])
    Image.fromarray(stored, mode=mode).save(tmp_path / "a.png")
    exact = colour * (alpha[..., None] / 255) + 255 * (1 - alpha[..., None] / 255)
    assert np.abs(read_image(tmp_path / "a.png") - exact).max() <= 0.51


@pytest.mark.parametrize("alpha", [0, 255])
def test_constant_alpha_of_nothing_or_all_is_ignored(tmp_path, alpha):
    Image.fromarray(np.dstack([picture(), np.full((37, 53), alpha, np.uint8)])).save(tmp_path / "a.png")
    same(tmp_path / "a.png", picture())


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "a.png", transparency=1)
    same(tmp_path / "a.png", np.array([[(10, 20, 30), (255, 255, 255), (70, 80, 90)]], np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_exif_orientation(tmp_path, orientation, suffix):
    """Against the definition (TIFF 6.0, tag 274): where the stored first row and first column belong."""
    upright = np.kron(
        np.array([[(250, 0, 0), (0, 250, 0), (0, 0, 250)], [(250, 250, 0), (0, 250, 250), (250, 0, 250)]], np.uint8),
        np.ones((16, 16, 1), np.uint8),
    )
    turn_back = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1), 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.ascontiguousarray(turn_back[orientation](upright))).save(path, exif=exif, quality=100)
    read = read_image(path)
    assert read.shape == upright.shape
    assert np.abs(read[8::16, 8::16].astype(int) - upright[8::16, 8::16]).max() < 30


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_costs_nothing(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*garbage")
    same(tmp_path / "a.png", picture())


def test_first_frame_of_films_and_first_page(tmp_path):
    frames = [Image.fromarray(picture(seed=seed)) for seed in (1, 2, 3)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    for name in ("a.tif", "a.webp", "a.png"):
        same(tmp_path / name, picture(seed=1))


@pytest.mark.parametrize(
    "name", ["划痕 上部.png", "Schraube äöü ß.jpg.png", "царапина.png", "日本\u3000語.png", "a" * 250 + ".png", "emoji 🔩.png"]
)
def test_names_in_any_script(tmp_path, name):
    if len(os.fsencode(name)) > 255:
        name = name[-100:]
    Image.fromarray(picture()).save(tmp_path / name)
    same(tmp_path / name, picture())


def test_the_content_counts_not_the_suffix(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.jpg", format="PNG")
    same(tmp_path / "a.jpg", picture())


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header is valid and absurd."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(14143, 14143), (60_000, 60_000), (2_000_000_000, 1)])
@pytest.mark.filterwarnings("error")
def test_absurd_sizes_are_refused_from_the_header(tmp_path, size):
    assert size[0] * size[1] > MAX_PIXELS
    (tmp_path / "a.png").write_bytes(bomb(*size))
    with pytest.raises(DataError, match=r"a\.png.*200 megapixels") as refusal:
        read_image(tmp_path / "a.png")
    assert "crop" in refusal.value.hint


@pytest.mark.filterwarnings("error")
def test_sizes_below_the_limit_are_not_warned_about(tmp_path):
    """100 megapixels: Pillow's own limit would warn; here the missing pixels are the trouble."""
    (tmp_path / "a.png").write_bytes(bomb(10_000, 10_000))
    with pytest.raises(DataError, match=r"cut short|damaged"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"), (b"hello", "not an image"), (b"GIF89a\1\0\1\0", "looks like GIF"), (b"%PDF-1.7", "looks like PDF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\0\0\0\x18ftypheic", "looks like HEIC"), (b"\0" * 5000, "not an image"),
    ],
)  # fmt: skip
def test_what_is_no_image_says_what_it_is(tmp_path, content, words):
    path = tmp_path / "部品.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as refusal:
        read_image(path)
    assert "部品.png" in refusal.value.message
    assert refusal.value.hint


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.97])
def test_truncated_files_are_refused(tmp_path, suffix, kept):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(picture(200, 200)).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(DataError, match="cannot read image"):
        read_image(path)


def test_missing_files_folders_and_pipes(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path, words in [
        (tmp_path / "no.png", "no such file"), (tmp_path, "is a folder"), (tmp_path / "pipe.png", "not a regular file"),
        (tmp_path / ("x" * 300), "too long"), (Path("a\0b"), "damaged|null"),
    ]:  # fmt: skip
        with pytest.raises(DataError, match=words):
            read_image(path)


def samples() -> list[bytes]:
    """One small valid file of every format."""
    files = []
    for name in ("PNG", "JPEG", "BMP", "TIFF", "WEBP"):
        buffer = io.BytesIO()
        Image.fromarray(picture(24, 24)).save(buffer, name)
        files.append(buffer.getvalue())
    return files


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, 4),
    edits=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=12),
    cut=st.floats(0.1, 1),
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_give_an_image_or_a_data_error(tmp_path, which, edits, cut):
    content = bytearray(samples()[which])
    for place, value in edits:
        content[int(place * len(content))] = value
    path = tmp_path / "a.png"
    path.write_bytes(bytes(content[: max(1, int(cut * len(content)))]))
    try:
        image = read_image(path)
    except DataError:
        return
    assert image.ndim == 3
    assert image.shape[2] == 3


def test_real_files_equal_pillow(shared_data):
    for folder in (
        "mvtec_ad/screw/test/good",
        "mvtec_ad/transistor/test/good",
        "magnetic_tile/tile/test/crack",
        "mvtec_fewshot/cable/test/good",
    ):
        for path in sorted((shared_data / folder).iterdir())[:3]:
            with Image.open(path) as image:
                same(path, np.asarray(image.convert("RGB")))
