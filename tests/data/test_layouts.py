"""Every layout a data set comes in, and what is said about what is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from aoi.data.content import dataset_fingerprint, file_hash, pixel_hash
from aoi.data.images import read_image, read_mask, write_image, write_mask
from aoi.data.layouts import list_images, open_dataset
from aoi.data.provenance import provenance
from aoi.data.sources import good_images, open_images, require_train_good
from aoi.errors import DataError


def image(path: Path, seed: int = 0) -> Path:
    write_image(path, np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    return path


def mask(path: Path) -> Path:
    marked = np.zeros((16, 16), bool)
    marked[4:8, 4:8] = True
    write_mask(path, marked)
    return path


@pytest.fixture
def mvtec(tmp_path) -> Path:
    root = tmp_path / "部品"
    for name in ("000.png", "001.jpg", "002.BMP"):
        image(root / "train/good" / name)
    image(root / "test/good/000.png")
    for name in ("000.png", "001.jpg", "002.tif"):
        image(root / "test/scratch" / name)
    mask(root / "ground_truth/scratch/000_mask.png")
    mask(root / "ground_truth/scratch/001.png")
    return root


@pytest.fixture
def ds_mvtec(tmp_path) -> Path:
    """Defect Spectrum's layout with its quirks: no mask/good, an `rbg_mask` folder, class indices."""
    root = tmp_path / "DS-MVTec" / "screw"
    image(root / "image/good/000.png")
    for name in ("000", "001"):
        image(root / f"image/thread_top/{name}.png")
        write_image(root / f"rbg_mask/thread_top/{name}_rbg_mask.png", np.full((16, 16, 3), (0, 0, 64), np.uint8))
    write_image(root / "mask/thread_top/000_mask.png", np.eye(16, dtype=np.uint8) * 7)
    return root


def keys(root: Path) -> list[str]:
    return [sample.key for sample in open_dataset(root).samples]


def test_mvtec(mvtec):
    dataset = open_dataset(mvtec)
    assert (dataset.name, dataset.layout) == ("部品", "mvtec")
    assert keys(mvtec) == [
        "train/good/000.png", "train/good/001.jpg", "train/good/002.BMP", "test/good/000.png",
        "test/scratch/000.png", "test/scratch/001.jpg", "test/scratch/002.tif",
    ]  # fmt: skip
    masks = {sample.path.name: sample.mask_path and sample.mask_path.name for sample in dataset.where(lambda sample: sample.is_anomalous)}
    assert masks == {"000.png": "000_mask.png", "001.jpg": "001.png", "002.tif": None}


def test_the_name_with_mask_wins_over_the_plain_one(mvtec):
    mask(mvtec / "ground_truth/scratch/000.png")
    assert open_dataset(mvtec).test[1].mask_path == mvtec / "ground_truth/scratch/000_mask.png"


@pytest.mark.parametrize("split", ["train", "test"])
def test_either_split_may_be_absent(mvtec, split):
    shutil.rmtree(mvtec / split)
    assert split not in {sample.split for sample in open_dataset(mvtec).samples}


def test_hidden_files_half_written_files_and_strangers_are_no_samples(mvtec):
    before = keys(mvtec)
    for name in (".DS_Store", "._000.png", ".000.1f2e.part.png", "notes.txt", "Thumbs.db", "a.gif"):
        (mvtec / "train/good" / name).write_bytes(b"x")
    (mvtec / "train/good/folder.png").mkdir()
    (mvtec / "test/.cache").mkdir()
    assert keys(mvtec) == before


def test_ds_mvtec(ds_mvtec):
    dataset = open_dataset(ds_mvtec)
    assert (dataset.name, dataset.layout, dataset.train_good) == ("screw", "ds-mvtec", ())
    assert keys(ds_mvtec) == ["test/good/000.png", "test/thread_top/000.png", "test/thread_top/001.png"]
    good, indexed, coloured = dataset.samples
    assert good.mask_path is None
    assert indexed.mask_path == ds_mvtec / "mask/thread_top/000_mask.png"
    assert coloured.mask_path == ds_mvtec / "rbg_mask/thread_top/001_rbg_mask.png"
    np.testing.assert_array_equal(read_mask(indexed.mask_path), np.eye(16, dtype=bool))
    assert read_mask(coloured.mask_path).all()


def test_ds_mvtec_with_the_usual_spelling(ds_mvtec):
    shutil.move(ds_mvtec / "rbg_mask", ds_mvtec / "rgb_mask")
    for path in list((ds_mvtec / "rgb_mask/thread_top").iterdir()):
        path.rename(path.with_name(path.name.replace("rbg", "rgb")))
    shutil.rmtree(ds_mvtec / "mask")
    assert all(sample.mask_path for sample in open_dataset(ds_mvtec).test[1:])


def test_a_plain_folder_is_good_and_to_train_on(tmp_path):
    image(tmp_path / "line 3/b.png")
    image(tmp_path / "line 3/a.jpg")
    dataset = open_dataset(tmp_path / "line 3")
    assert (dataset.name, dataset.layout) == ("line 3", "folder")
    assert keys(tmp_path / "line 3") == ["train/good/a.jpg", "train/good/b.png"]


def test_a_train_good_folder_keeps_its_parts_name(mvtec):
    assert open_dataset(mvtec / "train/good").name == "部品"


@pytest.mark.parametrize(
    ("name", "words", "remedy"),
    [
        ("missing", "there is no folder", "check the path"),
        ("部", "there is no folder", "did you mean"),
        ("部品/test/good/000.png", "is a file", "point at"),
        ("empty", "no images in", "train/good"),
        ("labels", "no images directly in", "labels/good"),
        (".", "holds 2 data sets", "name one, such as"),
        ("loose", "in no label's folder", "train/good"),
        ("hollow", "no images in", "train/good"),
        ("nested", "nested/test/bent are in folders of their own, such as line 1", "move them up into"),
        ("x" * 300, "cannot open|there is no folder", "check the path"),
    ],
)
def test_what_is_no_data_set_says_what_to_do(mvtec, name, words, remedy):
    above = mvtec.parent
    (above / "empty").mkdir()
    (above / "hollow/test").mkdir(parents=True)
    image(above / "labels/good/0.png")
    image(above / "labels/bad/0.png")
    image(above / "loose/train/0.png")
    image(above / "nested/test/bent/line 1/0.png")
    if name == ".":
        for other in ("loose", "nested"):
            shutil.rmtree(above / other)
    with pytest.raises(DataError, match=words) as refusal:
        open_dataset(above / name)
    assert remedy in refusal.value.hint


def test_categories_to_choose_from_are_listed(mvtec, ds_mvtec):
    with pytest.raises(DataError, match="部品"):
        open_dataset(mvtec.parent)
    with pytest.raises(DataError, match="is not a data set itself, but holds one: screw"):
        open_dataset(ds_mvtec.parent)


def test_require_train_good(mvtec, ds_mvtec, tmp_path):
    assert len(require_train_good(open_dataset(mvtec), 3)) == 3
    with pytest.raises(DataError, match=r"only 3 good images in .*train/good") as refusal:
        require_train_good(open_dataset(mvtec), 50)
    assert "at least 50" in refusal.value.hint
    with pytest.raises(DataError, match="no good images") as refusal:
        require_train_good(open_dataset(ds_mvtec))
    assert "MVTec AD" in refusal.value.hint
    image(mvtec / "train/good/line 2/0.png")
    with pytest.raises(DataError, match="only 3 good images") as refusal:
        require_train_good(open_dataset(mvtec), 50)
    assert "line 2 and other folders below it are not read: move them up" in refusal.value.hint
    image(tmp_path / "one/0.png")
    with pytest.raises(DataError, match=r"only 1 good image in .*one$"):
        require_train_good(open_dataset(tmp_path / "one"))


def test_open_images(mvtec):
    good = mvtec / "train/good"
    assert open_images(good) == list_images(good)
    assert open_images(str(good / "001.jpg")) == [good / "001.jpg"]
    assert open_images(mvtec / "test", recursive=True) == sorted((mvtec / "test").rglob("*.*"))
    assert open_images(f"{mvtec}/test/*/00[01].*") == [
        mvtec / "test" / name for name in ("good/000.png", "scratch/000.png", "scratch/001.jpg")
    ]
    assert open_images(f"{mvtec}/**/*.BMP") == [good / "002.BMP"]


def test_a_name_with_brackets_that_exists_is_no_pattern(tmp_path):
    assert open_images(image(tmp_path / "part[1].png")) == [tmp_path / "part[1].png"]


@pytest.mark.parametrize(
    ("source", "words", "remedy"),
    [
        ("nothing", "no file or folder", "check"),
        ("*.png", "no image matches", "quote"),
        ("部品", "no images in", "train/good"),
        ("部品/test", "no images", "**/*.png"),
    ],
)
def test_images_that_are_not_there(mvtec, source, words, remedy):
    with pytest.raises(DataError, match=words) as refusal:
        open_images(str(mvtec.parent / source))
    assert remedy in refusal.value.hint


def test_good_images(mvtec, ds_mvtec):
    assert good_images(mvtec) == open_dataset(mvtec).train_good
    assert [sample.path.name for sample in good_images(mvtec / "train/good")] == ["000.png", "001.jpg", "002.BMP"]
    assert [sample.key for sample in good_images(mvtec / "test/good/000.png")] == ["train/good/000.png"]
    assert len(good_images(f"{mvtec}/train/good/*.png")) == 1
    with pytest.raises(DataError, match="no good images"):
        good_images(ds_mvtec)


def test_the_fingerprint_follows_the_content_and_not_the_place(mvtec, tmp_path):
    print_ = dataset_fingerprint(open_dataset(mvtec))
    shutil.copytree(mvtec, tmp_path / "elsewhere")
    assert dataset_fingerprint(open_dataset(tmp_path / "elsewhere")) == print_
    mask_path = tmp_path / "elsewhere/ground_truth/scratch/000_mask.png"
    write_mask(mask_path, ~read_mask(mask_path))
    changed = dataset_fingerprint(open_dataset(tmp_path / "elsewhere"))
    assert changed != print_
    (tmp_path / "elsewhere/test/scratch/002.tif").rename(tmp_path / "elsewhere/test/scratch/003.tif")
    assert dataset_fingerprint(open_dataset(tmp_path / "elsewhere")) not in (print_, changed)


def test_hashes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_hash(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    with pytest.raises(DataError, match="cannot read"):
        file_hash(tmp_path)
    pixels = read_image(image(tmp_path / "a.png"))
    write_image(tmp_path / "a.bmp", pixels)
    assert pixel_hash(read_image(tmp_path / "a.bmp")) == pixel_hash(pixels) != pixel_hash(pixels[::-1])
    assert pixel_hash(pixels.reshape(8, 32, 3)) != pixel_hash(pixels)


def test_provenance_says_what_made_a_folder():
    told = provenance("detect fit", seed=3, inputs={"dataset": "abc"})
    assert told["schema_version"] == 1
    assert told["seed"] == 3
    assert told["inputs"] == {"dataset": "abc"}
    assert {"python", "aoi", "numpy", "torch"} <= set(told["versions"])
    assert told["machine"]["cores"] >= 1


def test_real_data_sets(shared_data):
    screw = open_dataset(shared_data / "mvtec_ad/screw")
    assert (len(screw.train_good), len(screw.test), sum(sample.mask_path is not None for sample in screw.test)) == (320, 160, 119)
    tile = open_dataset(shared_data / "magnetic_tile/tile")
    assert (len(tile.train_good), len(tile.test), sum(sample.mask_path is not None for sample in tile.test)) == (400, 578, 388)
    assert open_dataset(shared_data / "mvtec_fewshot/cable").train_good == ()
    assert len(open_dataset(shared_data / "textures").train_good) == 3
    with pytest.raises(DataError, match="screw, transistor"):
        open_dataset(shared_data / "mvtec_ad")
