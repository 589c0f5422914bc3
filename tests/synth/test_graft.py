"""Real defects transplanted: the contract of a generator, the place on parts at any angle, tone, turns, and what is refused."""

import json

import cv2
import numpy as np
import pytest

from aoi.captions.places import parse_place
from aoi.captions.spec import DefectSpec, SizeRange
from aoi.data.content import file_hash, pixel_hash
from aoi.data.files import read_jsonl
from aoi.data.images import read_image, read_mask, write_image, write_mask
from aoi.data.leaks import check_learnt, contents
from aoi.errors import ConfigError, DataError
from aoi.synth.blend import changed
from aoi.synth.checks import CheckOptions
from aoi.synth.generate import GenerateOptions, generate_dataset
from aoi.synth.graft import feather_reach, grown, matched_tone
from aoi.synth.paint import is_grey
from aoi.synth.reference import References, means
from aoi.synth.region import find_region
from aoi.synth.registration import met_around, register_images, similarity, view_of
from aoi.synth.registry import GeneratorSettings, create_generator, drawn_names
from aoi.synth.transplant import SCALE, Place
from aoi.synth.verification import FEATHER

SIZE = 128


def sheet(seed=0, size=SIZE, *, grey=False, level=120):
    """A brushed sheet that fills the frame."""
    rng = np.random.default_rng(seed)
    fine = cv2.GaussianBlur(rng.normal(0, 18, (size, size)).astype(np.float32), (0, 0), sigmaX=0.6, sigmaY=4)
    image = level + 1.5 * fine[..., None] + (np.zeros(3) if grey else np.array([15, 0, -20]))
    return np.clip(image, 0, 255).astype(np.uint8)


def bolt(angle=0.0, shift=(0, 0), size=SIZE, seed=0):
    """A part with a head, a shank and a dark hole near the head, at any angle before a bright ground, and its foreground."""
    image = np.full((size, size, 3), 215, np.uint8)
    part = np.zeros((size, size), np.uint8)
    cv2.rectangle(part, (24, 46), (44, 82), 1, -1)
    cv2.rectangle(part, (44, 57), (108, 71), 1, -1)
    image[part > 0] = (110, 105, 100)
    cv2.circle(image, (34, 56), 4, (40, 40, 40), -1)
    for x in range(70, 108, 6):
        cv2.line(image, (x, 57), (x, 71), (70, 70, 70), 1)
    matrix = similarity(np.array([64.0, 64.0]), np.array([64.0 + shift[0], 64.0 + shift[1]]), angle)
    image = cv2.warpAffine(image, matrix, (size, size), borderValue=(215, 215, 215))
    part = cv2.warpAffine(part, matrix, (size, size)) > 0
    noise = np.random.default_rng(seed).normal(0, 2, (size, size, 1))
    return np.clip(image + noise, 0, 255).astype(np.uint8), part, matrix


def with_blot(image, centre, radius=6, level=25):
    """The image with a dark round flaw, and its mask."""
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.circle(mask, centre, radius, 1, -1)
    flawed = image.copy()
    flawed[mask > 0] = level
    return flawed, mask > 0


def kept(root, label, name, image, mask):
    write_image(root / "test" / label / f"{name}.png", image)
    write_mask(root / "ground_truth" / label / f"{name}_mask.png", mask)


@pytest.fixture
def of_sheets(tmp_path):
    """Three defects of two types on brushed sheets."""
    root = tmp_path / "refs"
    kept(root, "blot", "000", *with_blot(sheet(1), (60, 50)))
    kept(root, "blot", "001", *with_blot(sheet(2), (40, 90), 4))
    kept(root, "scratch_top", "000", *with_blot(sheet(3), (70, 70), 8, 230))
    return root


@pytest.fixture
def of_bolts(tmp_path):
    """A stain on the shank of a bolt that lies level."""
    root = tmp_path / "refs"
    kept(root, "stain", "000", *with_blot(bolt(seed=1)[0], (58, 64), 5))
    return root


def made(references, image, foreground, seed, spec=None, blend="feather", turn=None):
    spec = spec or DefectSpec()
    generator = create_generator("graft", GeneratorSettings(references=references, blend=blend, foreground="otsu"))
    region = generator.reach(find_region(foreground, spec.place))
    generator = generator if turn is None else generator.in_turn(turn)
    return generator.generate(image, region, spec, np.random.default_rng(seed)), region


@pytest.mark.parametrize("blend", ["feather", "poisson", "hard"])
@pytest.mark.parametrize("grey", [True, False])
def test_only_the_mask_changes_and_only_around_the_moved_mask(of_sheets, blend, grey):
    image, foreground = sheet(grey=grey), np.ones((SIZE, SIZE), bool)
    before = image.copy()
    for seed in range(12):
        defect, _ = made(of_sheets, image, foreground, seed, blend=blend)
        np.testing.assert_array_equal(defect.mask, changed(image, defect.image))
        np.testing.assert_array_equal(defect.image[~defect.mask], image[~defect.mask])
        assert defect.mask.any()
        assert not (defect.mask & ~grown(defect.asked, FEATHER)).any()
        assert is_grey(defect.image) or not grey
        json.dumps(defect.provenance.as_dict(), allow_nan=False)
    np.testing.assert_array_equal(image, before)


def test_on_parts_too_and_never_elsewhere_on_them(of_bolts):
    image, foreground, _ = bolt(0.7)
    for seed in range(8):
        defect, region = made(of_bolts, image, foreground, seed)
        np.testing.assert_array_equal(defect.mask, changed(image, defect.image))
        assert not (defect.mask & ~grown(defect.asked, FEATHER)).any()
        assert not (defect.mask & ~region.mask).any()


def test_the_turn_decides_the_reference_and_types_take_turns(of_sheets):
    image, foreground = sheet(), np.ones((SIZE, SIZE), bool)
    names = [made(of_sheets, image, foreground, 0, turn=turn)[0].provenance.parameters["reference"] for turn in range(4)]
    assert names == ["test/blot/000.png", "test/scratch_top/000.png", "test/blot/001.png", "test/blot/000.png"]


@pytest.mark.parametrize("angle", [0.0, 0.6, 1.9, -2.4, np.pi])
@pytest.mark.parametrize("shift", [(0, 0), (7, -9)])
def test_a_defect_goes_where_it_was_on_the_part_however_that_lies(of_bolts, angle, shift):
    image, foreground, matrix = bolt(angle, shift)
    wanted = matrix[:, :2] @ np.array([58.0, 64.0]) + matrix[:, 2]
    for seed in range(4):
        defect, _ = made(of_bolts, image, foreground, seed)
        rows, columns = np.nonzero(defect.asked)
        assert np.hypot(columns.mean() - wanted[0], rows.mean() - wanted[1]) < 5
        assert defect.provenance.parameters["placed"] in ("part", "frame")
        assert defect.provenance.parameters["agreement"] > 0.8
        assert image[defect.mask].mean() - defect.image[defect.mask].mean() > 30


def test_registration_finds_a_known_motion():
    reference, part, _ = bolt(seed=1)
    for angle in (0.3, 2.0, -1.2):
        image, foreground, matrix = bolt(angle, (6, 4), seed=2)
        found = register_images(view_of(reference, part), view_of(image, foreground))
        corners = np.array([[30, 60, 1], [100, 64, 1], [34, 76, 1]], float).T
        assert np.abs(found.matrix @ corners - matrix @ corners).max() < 3
        assert found.how == "part"


def test_a_component_that_sits_elsewhere_on_its_board_is_met():
    """Nearly all of the frame stays where it is; the defect goes with the block it belongs to."""
    rng = np.random.default_rng(0)
    board = np.repeat(cv2.GaussianBlur(rng.normal(120, 90, (SIZE, SIZE, 1)), (0, 0), 2)[..., None], 3, axis=2)
    board = np.clip(board, 0, 255).astype(np.uint8)
    reference, good = board.copy(), board.copy()
    reference[50:80, 40:90], good[56:86, 40:90] = 20, 20
    reference[54:60, 60:66], mask = 240, np.zeros((SIZE, SIZE), bool)
    mask[52:62, 58:68] = True
    views = view_of(reference, np.ones_like(mask), mask), view_of(good, np.ones_like(mask))
    whole = register_images(*views)
    assert np.abs(whole.matrix[:, 2]).max() < 1.5
    assert met_around(*views, whole).matrix[1, 2] == pytest.approx(6, abs=1.5)


def test_what_covers_a_part_comes_through_whole(tmp_path):
    """A component that is missing on the reference is missing afterwards: its place has the ground's tone, not a ghost of the part."""
    rng = np.random.default_rng(0)
    ground = np.repeat(np.clip(cv2.GaussianBlur(rng.normal(170, 120, (SIZE, SIZE)), (0, 0), 2.5), 90, 250)[..., None], 3, axis=2).astype(
        np.uint8
    )
    good, mask, empty = ground.copy(), np.zeros((SIZE, SIZE), bool), np.clip(ground * 0.8, 0, 255).astype(np.uint8)
    good[36:92, 40:88], mask[34:94, 38:90] = 15, True
    kept(tmp_path / "refs", "missing", "000", empty, mask)
    foreground = np.zeros((SIZE, SIZE), bool)
    foreground[36:92, 40:88] = True
    for seed in range(4):
        defect, _ = made(tmp_path / "refs", good, foreground, seed)
        inside = defect.image[44:84, 48:80].astype(float)
        assert inside.mean() == pytest.approx(ground[44:84, 48:80].mean(), rel=0.15)
        assert defect.mask[40:88, 44:84].mean() > 0.9


@pytest.mark.parametrize("level", [45, 120, 200])
def test_a_dark_flaw_stays_as_dark_as_its_surroundings_say(of_sheets, level):
    image = sheet(9, level=level, grey=True)
    ratios = []
    for seed in range(10):
        defect, _ = made(of_sheets, image, np.ones((SIZE, SIZE), bool), seed, turn=0)
        ratios.append(defect.image[defect.asked].mean() / image[defect.asked].mean())
    assert 0.05 < np.median(ratios) < 0.6


def test_tone_is_told_by_the_ring_alone(rng):
    under, around = rng.integers(80, 120, (40, 40, 3)).astype(np.uint8), np.zeros((40, 40), bool)
    around[5:35, 5:35], around[12:28, 12:28] = True, False
    patch = 0.5 * under.astype(np.float32)
    one = matched_tone(patch, under, around, "texture")
    patch[12:28, 12:28] = 250
    other = matched_tone(patch, under, around, "texture")
    np.testing.assert_array_equal(one.after, other.after)
    assert one.gain == other.gain
    np.testing.assert_allclose(one.applied(patch[:8], 1.0)[around[:8]].mean(), under[:8][around[:8]].mean(), rtol=0.03)
    nothing = matched_tone(patch, under, np.zeros_like(around), "part")
    np.testing.assert_allclose(nothing.applied(patch, 1.0), patch, atol=0.01)


def test_a_chipped_edge_stays_at_an_edge_of_the_frame(tmp_path):
    root = tmp_path / "refs"
    image, mask = sheet(4), np.zeros((SIZE, SIZE), bool)
    mask[40:70, :7] = True
    kept(root, "break", "000", np.where(mask[..., None], np.uint8(20), image), mask)
    seen = set()
    for seed in range(16):
        defect, _ = made(root, sheet(), np.ones((SIZE, SIZE), bool), seed)
        columns = np.flatnonzero(defect.asked.any(axis=0))
        seen.add("left" if columns[0] <= 1 else "right" if columns[-1] >= SIZE - 2 else "elsewhere")
    assert seen == {"left", "right"}


def test_sizes_and_severity_stay_within_their_ranges(of_sheets):
    whole = np.ones((SIZE, SIZE), bool)
    region, view = find_region(whole), view_of(sheet(), whole)
    place = Place(References(of_sheets, foreground="full").at((0,), 0), view, region)
    drawn = [place.vary(DefectSpec(), np.random.default_rng(seed)) for seed in range(60)]
    assert SCALE[0] <= min(each.scale for each in drawn) < 0.85
    assert 1.15 < max(each.scale for each in drawn) <= SCALE[1]
    slight, severe = (place.vary(DefectSpec(severity=severity), np.random.default_rng(0)).contrast for severity in (0.0, 1.0))
    assert slight < severe
    huge = place.vary(DefectSpec(size=SizeRange(5000, 6000, "pixels")), np.random.default_rng(0))
    assert huge.scale == SCALE[1]
    assert "out of reach" in huge.note


@pytest.mark.parametrize(
    ("label", "kind", "fits"),
    [("scratch_head", "scratch", True), ("bent_lead", "bent", True), ("scuff", "scratch", True), ("cut_lead", "scratch", False)],
)
def test_a_kind_is_told_by_the_label_or_another_word_for_it(label, kind, fits):
    assert means(label, kind) is fits


def good_sheets(root, count=3):
    for number in range(count):
        write_image(root / "good" / f"{number}.png", sheet(20 + number))
    return root / "good"


def test_a_batch_deals_the_references_and_tells_of_them(of_sheets, tmp_path):
    good = good_sheets(tmp_path)
    options = GenerateOptions("graft", count=12, seed=5, workers=1, foreground="full", references=of_sheets)
    report = generate_dataset(good, tmp_path / "out", options)
    rows = read_jsonl(report.manifest)
    assert report.made == 12
    assert [row["parameters"]["reference"] for row in rows if not row["rejections"]]
    first = [row["parameters"]["reference_label"] for row in rows]
    assert abs(first.count("blot") - 8) <= 1
    for row in rows:
        source = of_sheets / row["parameters"]["reference"]
        assert (row["parameters"]["reference_sha256"], row["parameters"]["reference_pixels"]) == (
            file_hash(source),
            pixel_hash(read_image(source)),
        )
        image, mask = read_image(tmp_path / "out" / row["image"]), read_mask(tmp_path / "out" / row["mask"])
        np.testing.assert_array_equal(changed(read_image(good / row["source"]), image), mask)
    generate_dataset(
        good, tmp_path / "again", GenerateOptions("graft", count=12, seed=5, workers=2, foreground="full", references=of_sheets)
    )
    for row in rows:
        assert (tmp_path / "out" / row["image"]).read_bytes() == (tmp_path / "again" / row["image"]).read_bytes()
    assert (tmp_path / "out" / "manifest.jsonl").read_bytes() == (tmp_path / "again" / "manifest.jsonl").read_bytes()


def test_other_references_are_another_batch(of_sheets, tmp_path):
    good = good_sheets(tmp_path)
    options = GenerateOptions("graft", count=4, seed=5, workers=1, foreground="full", references=of_sheets)
    generate_dataset(good, tmp_path / "out", options)
    write_mask(of_sheets / "ground_truth" / "blot" / "000_mask.png", np.eye(SIZE, dtype=bool))
    with pytest.raises(ConfigError, match="other images"):
        generate_dataset(good, tmp_path / "out", options)


def test_a_sentence_chooses_the_references_and_the_place(of_sheets, tmp_path):
    good = good_sheets(tmp_path)
    options = GenerateOptions(
        "graft", count=4, seed=1, workers=1, foreground="full", references=of_sheets, prompt="a scratch in the lower half"
    )
    rows = read_jsonl(generate_dataset(good, tmp_path / "out", options).manifest)
    assert all(row["parameters"]["reference_label"] == "scratch_top" for row in rows)
    assert all(row["bbox"][1] >= SIZE // 2 - 1 for row in rows)
    options = GenerateOptions("graft", count=2, seed=1, workers=1, foreground="full", references=of_sheets, prompt="a dent")
    assert any("no reference of kind 'dent'" in note for note in generate_dataset(good, tmp_path / "dents", options).notes)


def test_a_copied_test_image_is_a_leak(of_sheets, tmp_path):
    report = generate_dataset(
        good_sheets(tmp_path), tmp_path / "out", GenerateOptions("graft", count=3, workers=1, foreground="full", references=of_sheets)
    )
    test = of_sheets / "test" / "blot" / "000.png"
    with pytest.raises(DataError, match=r"copied from a test image.*000\.png"):
        check_learnt(report.manifest, contents([test]))
    write_image(tmp_path / "other.png", sheet(77))
    check_learnt(report.manifest, contents([tmp_path / "other.png"]))


def test_what_cannot_serve_is_refused_with_a_remedy(of_sheets, tmp_path):
    with pytest.raises(ConfigError, match="was given none") as caught:
        GenerateOptions("graft")
    assert "--references" in caught.value.hint
    with pytest.raises(ConfigError, match="takes no references") as caught:
        GenerateOptions("perlin", references=of_sheets)
    assert "--generator graft" in caught.value.hint
    with pytest.raises(ConfigError, match="outlines from its references"):
        GenerateOptions("graft", references=of_sheets, masks=of_sheets)
    with pytest.raises(ConfigError, match="real defects to copy"):
        create_generator("graft")
    with pytest.raises(DataError, match=r"no mask in .* has its image"):
        References(of_sheets / "ground_truth" / "blot")
    with pytest.raises(DataError, match="no folder"):
        References(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="copies defects as they are"):
        CheckOptions("graft")
    assert "graft" not in drawn_names()


def test_torn_and_empty_references_are_passed_over_until_none_is_left(of_sheets, tmp_path):
    torn = of_sheets / "test" / "blot" / "000.png"
    torn.write_bytes(b"\x89PNG")
    write_mask(of_sheets / "ground_truth" / "scratch_top" / "000_mask.png", np.zeros((SIZE, SIZE), bool))
    found = References(of_sheets, foreground="full")
    assert {found.at((0, 1, 2), turn).name for turn in range(3)} == {"test/blot/001.png"}
    with pytest.raises(DataError, match="none of 2 references"):
        found.at((0, 1), 0)


def test_the_feather_never_reaches_further_than_the_gate_allows():
    assert [feather_reach(side) for side in (16, 64, 256, 320, 4000)] == [1, 1, 3, 4, FEATHER]


def test_a_line_one_pixel_wide_stays_whole(tmp_path):
    root, mask = tmp_path / "refs", np.zeros((SIZE, SIZE), bool)
    mask[20:100, 60] = True
    image = cv2.GaussianBlur(sheet(5, grey=True), (0, 0), 3)
    kept(root, "crack", "000", np.where(mask[..., None], np.uint8(10), image), mask)
    for seed in range(12):
        defect, _ = made(root, cv2.GaussianBlur(sheet(6, grey=True), (0, 0), 3), np.ones((SIZE, SIZE), bool), seed)
        assert cv2.connectedComponents(defect.mask.astype(np.uint8), connectivity=8)[0] == 2
        assert max(cv2.boundingRect(defect.mask.astype(np.uint8))[2:]) >= 0.75 * 80


def test_a_place_that_is_named_takes_the_references_that_belong_there(tmp_path):
    root = tmp_path / "refs"
    kept(root, "stain", "000", *with_blot(bolt(seed=1)[0], (90, 64), 4))
    kept(root, "stain", "001", *with_blot(bolt(seed=2)[0], (33, 70), 4))
    image, foreground, _ = bolt(seed=3)
    for turn in range(2):
        defect, _ = made(root, image, foreground, 0, DefectSpec(place=parse_place("left")), turn=turn)
        assert defect.provenance.parameters["reference"].endswith("001.png")
        assert defect.provenance.parameters["placed"] != "moved"


def test_what_belongs_elsewhere_is_moved_onto_the_part_and_not_beside_it(of_bolts):
    image, foreground, _ = bolt(seed=3)
    for seed in range(8):
        defect, region = made(of_bolts, image, foreground, seed, DefectSpec(place=parse_place("right")))
        assert defect.provenance.parameters["placed"] == "moved"
        assert (defect.asked & foreground).sum() >= 0.9 * defect.asked.sum()
        assert not (defect.mask & ~region.mask).any()
