"""A data set with one fault of every kind, the real ones with none, and the page that shows them."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from aoi.data import lettering, twins
from aoi.data.check import check_dataset
from aoi.data.images import read_image, write_image, write_mask
from aoi.data.layouts import open_dataset
from aoi.data.lettering import draw_text, fit_text, text_width
from aoi.data.preview import contact_sheet, spread
from aoi.data.twins import noise_correlation
from aoi.errors import DataError


def part(seed: int, size: tuple[int, int] = (96, 96)) -> np.ndarray:
    """A disc on a conveyor with its own sensor noise: parts look alike, photographs do not repeat."""
    image = np.full((*size, 3), 60, np.uint8)
    cv2.circle(image, (size[1] // 2, size[0] // 2), size[0] // 3, (150, 160, 170), -1)
    noise = np.random.default_rng(seed).normal(0, 12, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def spot(size: tuple[int, int] = (96, 96)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[30:44, 40:52] = True
    return mask


@pytest.fixture
def sound(tmp_path) -> Path:
    """Nothing wrong with it."""
    root = tmp_path / "盘"
    for index in range(12):
        write_image(root / f"train/good/{index:03}.png", part(index))
    for index in range(4):
        write_image(root / f"test/good/{index:03}.png", part(100 + index))
        write_image(root / f"test/划痕/{index:03}.png", part(200 + index))
        write_mask(root / f"ground_truth/划痕/{index:03}_mask.png", spot())
    (root / "license.txt").write_text("free")
    return root


def found(root: Path) -> dict[str, tuple[str, ...]]:
    """Paths by `severity code`."""
    report = check_dataset(root)
    kinds: dict[str, tuple[str, ...]] = {}
    for finding in report.findings:
        kind = f"{finding.severity} {finding.code}"
        kinds[kind] = (*kinds.get(kind, ()), finding.path)
        assert finding.message
        assert finding.hint or finding.severity == "info"
    assert report.fatal == any(kind.startswith("fatal") for kind in kinds)
    return kinds


def test_a_sound_data_set_has_no_findings(sound):
    report = check_dataset(sound)
    assert report.findings == ()
    assert not report.fatal
    assert report.counts == {"train/good": 12, "test/good": 4, "test/划痕": 4}
    assert (report.masks, report.sizes) == (4, {"96 x 96": 20})
    assert "nothing to report" in report.summary()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def reencode(source: Path, target: Path, **options: object) -> None:
    Image.fromarray(read_image(source)).save(target, **options)


GOOD, MASKS = "train/good", "ground_truth/划痕"
NOTHING, EVERYTHING = np.zeros((96, 96), bool), np.ones((96, 96), bool)
FAINT = np.full((96, 96), 80, np.uint8) + np.eye(96, dtype=np.uint8) * 120

FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "fatal truncated": (lambda r: truncate(r / GOOD / "003.png"), f"{GOOD}/003.png"),
    "fatal empty-file": (lambda r: (r / "test/good/001.png").write_bytes(b""), "test/good/001.png"),
    "fatal unreadable": (lambda r: (r / MASKS / "001_mask.png").write_text("no"), f"{MASKS}/001_mask.png"),
    "fatal size-mismatch": (lambda r: write_mask(r / MASKS / "001_mask.png", spot((96, 90))), f"{MASKS}/001_mask.png"),
    "warning size-mismatch": (lambda r: write_mask(r / MASKS / "001_mask.png", spot((48, 48))), f"{MASKS}/001_mask.png"),
    "warning empty-mask": (lambda r: write_mask(r / MASKS / "002_mask.png", NOTHING), f"{MASKS}/002_mask.png"),
    "fatal good-image-with-mask": (lambda r: write_mask(r / "ground_truth/good/002_mask.png", spot()), "ground_truth/good/002_mask.png"),
    "fatal train-test-leak": (lambda r: reencode(r / GOOD / "004.png", r / "test/good/009.bmp"), f"{GOOD}/004.png"),
    "fatal label-conflict": (lambda r: shutil.copy(r / "test/划痕/000.png", r / "test/good/010.png"), "test/good/010.png"),
    "fatal no-good-images": (lambda r: shutil.rmtree(r / "train"), GOOD),
    "warning duplicate": (lambda r: shutil.copy(r / GOOD / "000.png", r / GOOD / "099.png"), f"{GOOD}/000.png"),
    "warning near-duplicate-leak": (lambda r: reencode(r / GOOD / "005.png", r / "test/good/011.jpg", quality=90), f"{GOOD}/005.png"),
    "info near-duplicate": (lambda r: reencode(r / GOOD / "005.png", r / GOOD / "098.jpg", quality=90), f"{GOOD}/005.png"),
    "warning mask-without-image": (lambda r: write_mask(r / MASKS / "077_mask.png", spot()), f"{MASKS}/077_mask.png"),
    "warning missing-mask": (lambda r: (r / MASKS / "003_mask.png").unlink(), "test/划痕/003.png"),
    "warning no-masks": (lambda r: shutil.rmtree(r / "ground_truth"), "."),
    "warning second-mask": (lambda r: write_mask(r / MASKS / "003.png", spot()), f"{MASKS}/003.png"),
    "warning shared-mask": (lambda r: write_image(r / "test/划痕/003.bmp", part(77)), "test/划痕/003.png"),
    "warning large-mask": (lambda r: write_mask(r / MASKS / "002_mask.png", EVERYTHING), f"{MASKS}/002_mask.png"),
    "warning faint-mask": (lambda r: write_image(r / MASKS / "002_mask.png", FAINT), f"{MASKS}/002_mask.png"),
    "warning few-good-images": (lambda r: [path.unlink() for path in list((r / GOOD).iterdir())[:5]], GOOD),
    "warning train-defects": (lambda r: write_image(r / "train/dent/0.png", part(300)), "train/dent"),
    "warning no-test-images": (lambda r: shutil.rmtree(r / "test/good"), "test"),
    "warning blank-image": (lambda r: write_image(r / GOOD / "000.png", np.zeros((96, 96, 3), np.uint8)), f"{GOOD}/000.png"),
    "warning tiny-image": (lambda r: write_image(r / GOOD / "000.png", part(9, (20, 20))), f"{GOOD}/000.png"),
    "warning dark-16-bit": (lambda r: cv2.imwrite(str(r / GOOD / "000.png"), part(0)[..., 0].astype(np.uint16)), f"{GOOD}/000.png"),
    "info mixed-sizes": (lambda r: write_image(r / GOOD / "000.png", part(0, (100, 104))), "."),
    "warning mixed-sizes": (lambda r: write_image(r / GOOD / "000.png", part(0, (100, 150))), "."),
    "warning mixed-colour": (lambda r: write_image(r / GOOD / "000.png", part(0)[..., 0]), "."),
    "warning unknown-files": (lambda r: (r / GOOD / "a.heic").write_bytes(b"x"), GOOD),
    "info unknown-files": (lambda r: (r / "raw.bin").write_bytes(b"x"), "."),
    "warning unused-images": (lambda r: write_image(r / "test/good/line 2/0.png", part(5)), "test/good/line 2"),
    "info unused-images": (lambda r: write_image(r / "validation/good/0.png", part(5)), "validation/good"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_every_fault_is_found_where_it_is(sound, kind):
    break_it, where = FAULTS[kind]
    break_it(sound)
    kinds = found(sound)
    assert where in kinds.get(kind, ()), kinds
    if kind.startswith(("warning", "info")):
        assert not [other for other in kinds if other.startswith("fatal")]


def test_all_problems_are_listed_at_once(sound):
    """What is wrong together is reported together, worst first, and the report is JSON."""
    marks = {"fatal truncated", "fatal empty-file", "fatal train-test-leak", "fatal good-image-with-mask", "warning missing-mask"}
    for kind in marks | {"warning mask-without-image"}:
        FAULTS[kind][0](sound)
    report = check_dataset(sound)
    assert marks < {f"{finding.severity} {finding.code}" for finding in report.findings}
    ranks = [("fatal", "warning", "info").index(finding.severity) for finding in report.findings]
    assert ranks == sorted(ranks)
    told = json.loads(json.dumps(report.as_dict()))
    assert told["fatal"] is True
    assert told["tally"]["fatal"] == 4
    assert len(told["findings"]) == len(report.findings)
    assert "not usable as it is" in report.summary()
    for finding in report.findings:
        assert finding.path in report.summary()


def test_an_absurdly_large_image_is_one_finding(sound):
    header = (sound / "train/good/000.png").read_bytes()
    body = b"IHDR" + struct.pack(">IIBBBBB", 90_000, 90_000, 8, 2, 0, 0, 0)
    (sound / "train/good/000.png").write_bytes(
        header[:8] + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + header[33:]
    )
    assert found(sound)["fatal too-large"] == ("train/good/000.png",)


def test_the_report_does_not_depend_on_the_number_of_workers(sound):
    FAULTS["fatal train-test-leak"][0](sound)
    assert check_dataset(sound, workers=1) == check_dataset(sound, workers=5)


def test_progress_is_told(sound):
    calls: list[tuple[str, int, int]] = []
    check_dataset(sound, progress=lambda *call: calls.append(call))
    assert calls[0] == ("reading images", 0, 20)
    assert ("reading images", 20, 20) in calls
    assert calls[-1] == ("reading masks", 4, 4)


def test_other_layouts(tmp_path):
    for index in range(12):
        write_image(tmp_path / f"plain/{index}.png", part(index))
        write_image(tmp_path / f"ds/image/{'good' if index < 6 else 'dent'}/{index:03}.png", part(50 + index))
        write_mask(tmp_path / f"ds/mask/dent/{index:03}_mask.png", spot()) if index > 6 else None
    assert found(tmp_path / "plain") == {}
    assert found(tmp_path / "ds") == {
        "info no-good-images": (".",),
        "warning missing-mask": ("image/dent/006.png",),
    }


def test_what_is_no_data_set_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no images"):
        check_dataset(tmp_path)


def test_texture_tells_two_parts_from_one_part_twice():
    assert abs(noise_correlation(part(1), part(2))) < 0.6
    again = cv2.GaussianBlur(part(1), (0, 0), 0.4)
    assert noise_correlation(part(1), again) > twins.NOISE_CORRELATION
    assert noise_correlation(np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9, 3), np.uint8)) == 0


@pytest.mark.parametrize("name", ["mvtec_ad/screw", "mvtec_ad/transistor"])
def test_real_data_sets_are_sound(shared_data, name):
    assert check_dataset(shared_data / name).findings == ()


def test_magnetic_tiles_photographed_twice_are_found(shared_data):
    """The data set holds some tiles twice under two numbers, as anybody can see; many good ones lie in both splits."""
    kinds = found(shared_data / "magnetic_tile/tile")
    assert set(kinds) == {"info near-duplicate", "warning mixed-sizes", "warning part-on-both-sides"}
    assert len(kinds["warning part-on-both-sides"]) == 104
    assert "test/crack/exp4_num_85602.jpg" in kinds["info near-duplicate"]


def test_the_contact_sheet_shows_every_label(sound, tmp_path):
    truncate(sound / "test/good/003.png")
    out = contact_sheet(open_dataset(sound), tmp_path / "预览.png", per_label=3, tile=64)
    page = read_image(out)
    magenta = (page == (255, 40, 140)).all(axis=2)
    assert 50 < magenta.sum() < 1000  # the outlines of three spots, not their areas
    assert page.shape[0] > 3 * 64
    first = out.read_bytes()
    contact_sheet(open_dataset(sound), out, per_label=3, tile=64)
    assert out.read_bytes() == first


def test_the_contact_sheet_of_a_plain_folder_and_of_odd_shapes(tmp_path):
    write_image(tmp_path / "in/a.png", part(0, (300, 10)))
    write_image(tmp_path / "in/b.png", part(0, (10, 300)))
    assert read_image(contact_sheet(open_dataset(tmp_path / "in"), tmp_path / "out.png")).ndim == 3
    with pytest.raises(DataError):
        contact_sheet(open_dataset(tmp_path / "in"), tmp_path / "out.png", per_label=0)


def test_spread():
    assert spread(3, 6) == [0, 1, 2]
    assert spread(101, 5) == [0, 25, 50, 75, 100]
    assert spread(7, 1) == [0]


@pytest.mark.parametrize("old_opencv", [False, True])
def test_lettering(monkeypatch, old_opencv):
    if old_opencv:
        monkeypatch.setattr(lettering, "_face", lambda: None)
    canvas = np.full((40, 400, 3), 255, np.uint8)
    draw_text(canvas, "scratch", (10, 8), size=20, colour=(0, 0, 0))
    rows, columns = np.nonzero((canvas < 128).all(axis=2))
    assert 6 <= rows.min() <= rows.max() <= 32
    assert 8 <= columns.min() <= columns.max() <= 12 + text_width("scratch", size=20)
    assert fit_text("scratch", 1000, size=20) == "scratch"
    short = fit_text("a very long label that goes on", 90, size=20)
    assert short.endswith("…")
    assert text_width(short, size=20) <= 90
    draw_text(canvas, "a\nb \udcff", (380, 30), size=20, colour=(0, 0, 0))  # runs off the edge, and is no text


@pytest.mark.skipif(lettering._face() is None, reason="needs OpenCV 5's font")
def test_every_script_gets_its_own_glyphs():
    def drawn(text: str) -> bytes:
        canvas = np.full((30, 60, 3), 255, np.uint8)
        draw_text(canvas, text, (4, 2), size=22, colour=(0, 0, 0))
        return canvas.tobytes()

    assert len({drawn(text) for text in ("划", "痕", "Ж", "あ", "한", "ß")}) == 6
