import json

import numpy as np
import pytest

from aoi.captions.places import ANYWHERE, Place, parse_place
from aoi.captions.spec import DefectSpec
from aoi.errors import BackendUnavailable, ConfigError, ModelError
from aoi.synth.locate import LocateModels, locate
from aoi.synth.region import find_region

IMAGE = np.random.default_rng(0).integers(0, 255, (96, 120, 3), dtype=np.uint8)
PART = np.zeros((96, 120), bool)
PART[10:90, 20:60] = True
HEAD = Place("head", along=(0.0, 0.25))


class Seen:
    """A segmenter that answers a fixed map and remembers the phrase."""

    def __init__(self, peak, rows=(10, 30)):
        self.map = np.full(PART.shape, 0.05, np.float32)
        self.map[rows[0] : rows[1], :] = peak
        self.phrases = []

    def segment(self, image, phrase):
        self.phrases.append(phrase)
        return self.map


def test_a_piece_found_by_its_words_is_cut_to_the_part():
    seen = Seen(0.9)
    region = locate(IMAGE, PART, DefectSpec(part="screw head"), "clipseg", LocateModels(clipseg=seen))
    assert seen.phrases == ["screw head"]
    assert region.method == "clipseg"
    assert not region.note
    np.testing.assert_array_equal(region.mask, PART & (seen.map > 0.5))


def test_a_side_is_read_on_the_piece_that_was_found():
    region = locate(IMAGE, PART, DefectSpec(part="head", place=parse_place("left")), "clipseg", LocateModels(clipseg=Seen(0.9)))
    rows, columns = np.nonzero(region.mask)
    assert rows.max() < 30
    assert columns.max() < 20 + 40 / 3 + 1


@pytest.mark.parametrize(
    ("seen", "word"), [(Seen(0.2), "confidence"), (Seen(0.9, rows=(10, 10)), "confidence"), (Seen(0.9, (0, 5)), "conf")]
)
def test_doubt_falls_back_to_geometry_and_says_so(seen, word):
    spec = DefectSpec(part="screw head", place=HEAD)
    region = locate(IMAGE, PART, spec, "clipseg", LocateModels(clipseg=seen))
    assert region.method == "geometry"
    assert "confidence" in region.note
    np.testing.assert_array_equal(region.mask, find_region(PART, HEAD).mask)


def test_a_stray_peak_falls_back_too():
    seen = Seen(0.1)
    seen.map[40, 40] = 1
    assert "pixels only" in locate(IMAGE, PART, DefectSpec(part="head"), "clipseg", LocateModels(clipseg=seen)).note


def test_auto_is_geometry_unless_a_piece_is_named_and_a_model_is_there(monkeypatch, tmp_path):
    monkeypatch.setenv("AOI_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("AOI_CACHE", "off")
    seen = Seen(0.9)
    assert locate(IMAGE, PART, DefectSpec(place=parse_place("left")), models=LocateModels(clipseg=seen)).method == "geometry"
    assert not seen.phrases
    assert locate(IMAGE, PART, DefectSpec(place=HEAD), models=LocateModels(clipseg=seen)).method == "clipseg"
    assert locate(IMAGE, PART, DefectSpec(place=HEAD)).method == "geometry"
    with pytest.raises(BackendUnavailable, match="clipseg"):
        locate(IMAGE, PART, DefectSpec(place=HEAD), "clipseg")
    with pytest.raises(BackendUnavailable, match="grounded"):
        locate(IMAGE, PART, DefectSpec(place=HEAD), "grounded")
    assert "no piece" in locate(IMAGE, PART, DefectSpec(place=ANYWHERE), "clipseg").note
    with pytest.raises(ConfigError, match="telepathy"):
        locate(IMAGE, PART, DefectSpec(), "telepathy")


def test_a_side_that_excludes_the_piece_is_left_out():
    place = Place("lower head", box=(0, 2 / 3, 1, 1), along=(0.0, 0.2))
    region = locate(IMAGE, PART, DefectSpec(place=place))
    assert region.is_usable
    assert "left out" in region.note


def test_a_map_of_the_wrong_size_is_refused():
    seen = Seen(0.9)
    seen.map = seen.map[:50]
    with pytest.raises(ModelError, match="segmenter"):
        locate(IMAGE, PART, DefectSpec(part="head"), "clipseg", LocateModels(clipseg=seen))


@pytest.fixture(scope="module")
def clipseg_folder(tmp_path_factory):
    """A tiny CLIPSeg with random weights in the stock folder layout."""
    pytest.importorskip("transformers")
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPSegProcessor, CLIPTokenizer, ViTImageProcessor

    folder = tmp_path_factory.mktemp("models") / "clipseg-rd64-refined"
    words = [
        "<|startoftext|>",
        "<|endoftext|>",
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz"),
    ]
    text = {"vocab_size": len(words), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    config = CLIPSegConfig(
        text_config=text, vision_config=vision, projection_dim=16, extract_layers=[0, 1, 2], reduce_dim=8, decoder_num_attention_heads=2
    )
    tokenizer = CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])
    processor = CLIPSegProcessor(ViTImageProcessor(size={"height": 32, "width": 32}), tokenizer)
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_clipseg_loads_from_a_folder_and_answers_at_the_images_size(clipseg_folder, monkeypatch):
    from aoi.synth.phrase import find_clipseg, load_clipseg

    model = load_clipseg(str(clipseg_folder))
    likely = model.segment(IMAGE, "a phrase that is far longer than sixteen tokens of this tiny text encoder")
    assert likely.shape == IMAGE.shape[:2]
    assert likely.dtype == np.float32
    assert 0 <= likely.min() < likely.max() <= 1
    monkeypatch.setenv("AOI_WEIGHTS", str(clipseg_folder.parent))
    assert find_clipseg() == clipseg_folder
    assert locate(IMAGE, PART, DefectSpec(part="head"), "clipseg").method in ("clipseg", "geometry")


def test_folders_that_hold_something_else_are_refused(tmp_path, clipseg_folder):
    from aoi.synth.phrase import load_clipseg

    with pytest.raises(ModelError, match="no model folder"):
        load_clipseg(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="bert"):
        load_clipseg(str(tmp_path))
    torn = tmp_path / "torn"
    torn.mkdir()
    for path in clipseg_folder.iterdir():
        (torn / path.name).write_bytes(path.read_bytes()[: 200 if path.suffix == ".safetensors" else None])
    with pytest.raises(ModelError, match="does not load"):
        load_clipseg(str(torn))


@pytest.fixture(scope="module")
def sam2_folder(tmp_path_factory):
    """A tiny SAM 2 with random weights in the stock folder layout."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models") / "sam2"
    backbone = {
        "model_type": "sam2_hiera_det_model",
        **{"hidden_size": 8, "num_attention_heads": 1, "image_size": [64, 64], "window_positional_embedding_background_size": [4, 4]},
        **{"blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 2, 2]},
        **{"window_size_per_stage": [4, 4, 2, 2], "global_attention_blocks": [3]},
    }
    vision = {
        "backbone_config": backbone,
        **{"backbone_channel_list": [64, 32, 16, 8], "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": 16},
    }
    config = transformers.Sam2Config(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16, "num_hidden_layers": 2},
    )
    transformers.Sam2Model(config).save_pretrained(folder)
    from transformers import Sam2Processor
    from transformers.models.sam2.image_processing_sam2 import Sam2ImageProcessor

    Sam2Processor(Sam2ImageProcessor(size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16})).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detector_folder(tmp_path_factory):
    """A tiny Grounding DINO with random weights in the stock folder layout."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.grounding_dino.image_processing_grounding_dino import GroundingDinoImageProcessor

    folder = tmp_path_factory.mktemp("models") / "dino"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "screw", "head"]
    swin = {"model_type": "swin", "image_size": 64, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
    text = {"model_type": "bert", "vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.GroundingDinoConfig(
        backbone_config=swin | {"out_features": ["stage2", "stage3", "stage4"]},
        text_config=text | {"intermediate_size": 32, "max_position_embeddings": 32},
        **{"num_queries": 12, "d_model": 32, "max_text_len": 16, "encoder_layers": 1, "decoder_layers": 2},
        **{"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
    )
    tokenizer = transformers.BertTokenizerFast(vocab={word: number for number, word in enumerate(words)})
    transformers.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    transformers.GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def test_a_detector_and_sam2_load_from_folders_and_answer_at_the_images_size(detector_folder, sam2_folder):
    from aoi.synth.grounded import load_grounded

    model = load_grounded(str(detector_folder), str(sam2_folder))
    boxes, scores = model.detect(IMAGE, "Screw head")
    assert boxes.shape == (len(scores), 4)
    assert (np.diff(scores) <= 0).all()
    masks = model.outline(IMAGE, np.array([[10, 10, 60, 60], [5, 5, 30, 20]], np.float32))
    assert masks.shape == (2, *IMAGE.shape[:2])
    likely = model.segment(IMAGE, "screw head")
    assert likely.shape == IMAGE.shape[:2]
    assert 0 <= likely.min() <= likely.max() <= 1
    models = LocateModels(grounded=(str(detector_folder), str(sam2_folder)))
    assert locate(IMAGE, PART, DefectSpec(part="screw head"), "grounded", models).method in ("grounded", "geometry")
    with pytest.raises(ModelError, match="does not load"):
        load_grounded(str(detector_folder / "missing"), str(sam2_folder))
