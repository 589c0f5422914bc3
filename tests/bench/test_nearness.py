"""Near-duplicates: a picture saved again is found, look-alikes are not, on real parts too."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from aoi.bench.notes import TRAIN, Notes
from aoi.data.images import read_image
from aoi.data.layouts import open_dataset
from aoi.data.leaks import contents
from aoi.data.nearness import NEAR, SIDE, fine_structure, miniature, near_pairs, outside, similarities
from aoi.synth.generate import GenerateOptions, iter_defects


def saved_again(image: np.ndarray, quality: int, scale: float = 1.0) -> np.ndarray:
    smaller = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale != 1 else image
    _, packed = cv2.imencode(".jpg", smaller, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))


def plates(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Parts of one kind with scratches of their own, 192 px."""
    found = []
    for _ in range(count):
        image = np.full((192, 192), 90, np.uint8)
        cv2.circle(image, (96, 96), 80, 180, -1)
        for _ in range(12):
            start, end = (tuple(int(v) for v in rng.integers(20, 172, 2)) for _ in range(2))
            cv2.line(image, start, end, int(rng.integers(100, 240)), 4)
        noisy = image + rng.normal(0, 2, image.shape)
        found.append(np.repeat(np.clip(noisy, 0, 255).astype(np.uint8)[..., None], 3, axis=2))
    return found


def by_path(images, name: str) -> dict[Path, np.ndarray]:
    return {Path(f"{name}{number}.png"): miniature(image) for number, image in enumerate(images)}


def test_similarity_is_the_plain_correlation_of_what_is_seen(rng):
    some, others = rng.normal(size=(3, SIDE**2)).astype(np.float32), rng.normal(size=(4, SIDE**2)).astype(np.float32)
    others[1] = 0.3 * others[1] + some[2]
    seen = rng.random((3, SIDE**2)) < 0.5
    found, whole = similarities(some, others, seen), similarities(some, others)
    for i in range(3):
        for j in range(4):
            assert found[i, j] == pytest.approx(np.corrcoef(some[i][seen[i]], others[j][seen[i]])[0, 1], abs=1e-4)
            assert whole[i, j] == pytest.approx(np.corrcoef(some[i], others[j])[0, 1], abs=1e-4)


def test_too_little_to_be_told_by_is_no_likeness(rng):
    pictures = np.repeat(rng.normal(100, 20, (1, SIDE, SIDE)), 2, axis=0).astype(np.float32)
    flat = fine_structure(pictures, pictures[0])
    assert not similarities(flat, flat).any()
    fine = fine_structure(pictures, np.zeros((SIDE, SIDE), np.float32))
    hidden = np.zeros((2, SIDE**2), bool)
    hidden[:, : SIDE**2 // 10] = True
    assert similarities(fine, fine).min() > 0.999
    assert not similarities(fine, fine, hidden).any()


@pytest.mark.parametrize(
    "change", [lambda i: saved_again(i, 75), lambda i: saved_again(i, 30), lambda i: saved_again(i, 90, 0.5), lambda i: i // 2 + 30]
)
def test_a_picture_saved_again_is_found_among_its_kind(change, rng):
    images = plates(rng, 30)
    test, train = by_path(images[:10], "test"), by_path(images[10:], "train")
    assert near_pairs(test, train, train) == ()
    copy = Path("copy.jpg")
    (pair,) = near_pairs(test, train | {copy: miniature(change(images[4]))}, train)
    assert (pair.test, pair.other) == (Path("test4.png"), copy)
    assert pair.similarity >= NEAR


def test_a_defect_in_the_copy_hides_nothing_where_its_mask_is_known(rng):
    images = plates(rng, 30)
    test, train = by_path(images[:10], "test"), by_path(images[10:], "train")
    mask = np.zeros((192, 192), bool)
    mask[50:110, 40:100] = True
    spoilt = np.where(mask[..., None], rng.integers(0, 255, (192, 192, 1)).astype(np.uint8), images[3])
    copy = {Path("copy.jpg"): miniature(saved_again(spoilt, 75))}
    assert near_pairs(test, copy, train) == ()
    (pair,) = near_pairs(test, copy, train, masks={Path("copy.jpg"): outside(mask)})
    assert pair.test == Path("test3.png")


def test_what_was_made_from_a_training_image_is_not_held_against_its_twin_in_the_test(rng):
    """Data sets show one part twice, once on each side; what is made from the training side is no leak."""
    images = plates(rng, 30)
    again = np.clip(images[10] + rng.normal(0, 3, images[10].shape), 0, 255).astype(np.uint8)
    test, train = by_path([*images[:10], again], "test"), by_path(images[10:], "train")
    assert len(near_pairs(test, train, train)) == 1
    assert near_pairs(test, {Path("made.png"): miniature(saved_again(images[10], 90))}, train) == ()
    assert len(near_pairs(test, {Path("made.png"): miniature(saved_again(again, 90))}, train)) == 1


def test_notes_outlive_a_run_and_are_told_for_the_plan_at_hand(tmp_path, rng):
    images = plates(rng, 12)
    test, train = by_path(images[:4], "test"), by_path(images[4:], "train")
    pairs = near_pairs(test, {Path("copy.jpg"): miniature(saved_again(images[0], 60))}, train)
    notes = Notes(tmp_path)
    notes.keep("disc", TRAIN)
    notes.keep("disc", "theirs", (0, 0), said=["12 defects"], near=pairs)
    notes.keep("disc", "real", (0, 0), said=["3 real defects"])
    assert set(Notes(tmp_path).of("disc", ("theirs",), [(0, 0)])) == {"theirs"}
    told = Notes(tmp_path).of("disc", ("theirs", "real"), [(0, 0)])
    assert told["theirs"]["near_duplicates"][0]["other"] == "copy.jpg"
    assert "test0.png ~ copy.jpg" in told["theirs"]["said"][1]
    notes.keep("disc", "theirs", (0, 0))
    assert set(notes.of("disc", ("theirs", "real"), [(0, 0)])) == {"real"}
    for kept in (tmp_path / "disc" / "real").iterdir():
        kept.write_text("{")
    assert notes.of("disc", ("real",), [(0, 0)]) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "twins", "lowest"), [("mvtec_ad/transistor", 0, 0.98), ("mvtec_ad/screw", 0, 0.97), ("magnetic_tile/tile", 2, 0.93)]
)
def test_real_parts_that_look_alike_give_no_false_alarm_and_copies_are_found(name, twins, lowest, shared_data):
    dataset = open_dataset(shared_data / name)
    test, train = (contents([sample.path for sample in samples]).miniatures for samples in (dataset.test, dataset.train_good))
    assert len(near_pairs(test, train, train)) == twins  # both of magnetic tile are one tile, photographed twice
    usual = np.stack([*train.values()]).mean(0)
    some = list(test)[::7]
    fine = fine_structure(np.stack([test[path] for path in some]), usual)
    for quality, scale in ((75, 1), (50, 1), (75, 0.5)):
        again = fine_structure(np.stack([miniature(saved_again(read_image(path), quality, scale)) for path in some]), usual)
        like = np.diag(similarities(again, fine))
        assert np.median(like) > NEAR - 0.03
        if scale == 1 and quality == 75:
            assert like.min() > lowest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transistor", "screw"])
def test_real_defects_published_elsewhere_as_jpeg_are_found(name, shared_data):
    dataset, elsewhere = open_dataset(shared_data / "mvtec_ad" / name), open_dataset(shared_data / "mvtec_fewshot" / name)
    test, train = (contents([sample.path for sample in samples]).miniatures for samples in (dataset.test, dataset.train_good))
    others = contents([sample.path for sample in elsewhere.samples]).miniatures
    pairs = near_pairs(test, others, train)
    assert {pair.other for pair in pairs} == set(others)
    assert all((pair.test.stem, pair.test.parent.name) == (pair.other.stem, pair.other.parent.name) for pair in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mvtec_ad/transistor", "mvtec_ad/screw", "magnetic_tile/tile"])
def test_invented_defects_on_training_images_give_no_false_alarm_and_on_test_images_they_are_found(name, shared_data):
    dataset = open_dataset(shared_data / name)
    test, train = (contents([sample.path for sample in samples]).miniatures for samples in (dataset.test, dataset.train_good))
    good = [sample for sample in dataset.test if not sample.is_anomalous][:20]
    for samples, leaks in ((dataset.train_good[:40], False), (good, True)):
        made = [*iter_defects([sample.path for sample in samples], GenerateOptions(count=40, seed=1, size=256))]
        found = {Path(str(number)): miniature(saved_again(each.image, 75)) for number, each in enumerate(made)}
        masks = {Path(str(number)): outside(each.mask) for number, each in enumerate(made)}
        assert len(near_pairs(test, found, train, masks=masks)) == (len(made) if leaks else 0)
