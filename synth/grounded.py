"""A phrase located by a zero-shot detector and outlined by SAM 2: boxes from Grounding DINO or its like, masks from the boxes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from aoi.errors import BackendUnavailable, ModelError
from aoi.synth.phrase import unloadable

_LEAST_SCORE = 0.2
"""Boxes of less confidence are left out."""
_MOST_BOXES = 8


class Grounded:
    """A zero-shot detector and a SAM 2 with their processors."""

    def __init__(self, detector: Any, detector_processor: Any, segmenter: Any, segmenter_processor: Any, device: str = "cpu") -> None:
        self.detector, self.detector_processor = detector.eval().to(device), detector_processor
        self.segmenter, self.segmenter_processor = segmenter.eval().to(device), segmenter_processor
        self.device = device

    def segment(self, image: np.ndarray, phrase: str) -> np.ndarray:
        """See `aoi.synth.locate.PhraseSegmenter`: at each pixel the score of the best box whose mask covers it."""
        boxes, scores = self.detect(image, phrase)
        likely = np.zeros(image.shape[:2], np.float32)
        if len(boxes):
            for mask, score in zip(self.outline(image, boxes), scores, strict=True):
                likely = np.maximum(likely, np.where(mask, np.float32(score), np.float32(0)))
        return likely

    def detect(self, image: np.ndarray, phrase: str) -> tuple[np.ndarray, np.ndarray]:
        """Boxes of what the phrase names: N x 4 float32 (x0, y0, x1, y1 in pixels) and N scores in [0, 1], best first.

        Args:
            image: HWC uint8 RGB.
            phrase: an English noun phrase; the detector wants it in lower case with a full stop.
        """
        import torch

        words = phrase.lower().strip().rstrip(".") + "."
        entry = self.detector_processor(images=image, text=words, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            found = self.detector_processor.post_process_grounded_object_detection(
                self.detector(**entry), entry["input_ids"], threshold=_LEAST_SCORE, text_threshold=0.0, target_sizes=[image.shape[:2]]
            )[0]
        order = torch.argsort(found["scores"], descending=True)[:_MOST_BOXES]
        return found["boxes"][order].float().cpu().numpy(), found["scores"][order].float().cpu().numpy()

    def outline(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """N x H x W bool: SAM 2's mask for each box (N x 4, x0, y0, x1, y1 in pixels)."""
        import torch

        entry = self.segmenter_processor(images=image, input_boxes=[boxes.tolist()], return_tensors="pt").to(self.device)
        with torch.inference_mode():
            out = self.segmenter(**{name: value for name, value in entry.items() if name != "original_sizes"}, multimask_output=False)
        masks = self.segmenter_processor.post_process_masks(out.pred_masks.cpu(), [image.shape[:2]])[0]
        return np.asarray(masks[:, 0].numpy(), bool)


@functools.lru_cache(maxsize=1)
def load_grounded(detector: str, segmenter: str, *, device: str = "cpu") -> Grounded:
    """Load a zero-shot detector and a SAM 2, each from a folder, or from the hub if a hub name is given.

    Args:
        detector: for `AutoModelForZeroShotObjectDetection`, such as `IDEA-Research/grounding-dino-tiny`.
        segmenter: for `Sam2Model`, such as `facebook/sam2.1-hiera-tiny`.
        device: where they run.

    Raises:
        BackendUnavailable: transformers is missing or too old, or the hub cannot be reached.
        ModelError: a folder does not hold such a model.
    """
    try:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor, Sam2Model, Sam2Processor
    except ImportError as error:
        raise BackendUnavailable("`grounded` needs transformers with SAM 2", hint="pip install 'transformers>=4.56'") from error
    loaded: list[Any] = []
    for source, name, network, processor in (
        (detector, "zero-shot detector", AutoModelForZeroShotObjectDetection, AutoProcessor),
        (segmenter, "SAM 2", Sam2Model, Sam2Processor),
    ):
        try:
            loaded += [network.from_pretrained(source, use_safetensors=True), processor.from_pretrained(source)]
        except Exception as error:  # transformers, safetensors and the hub raise many kinds
            raise unloadable(source, name, error) from error
    if not hasattr(loaded[1], "post_process_grounded_object_detection"):
        raise ModelError(f"{detector} is no grounded detector", hint="give a Grounding DINO, such as IDEA-Research/grounding-dino-tiny")
    return Grounded(loaded[0], loaded[1], loaded[2], loaded[3], device)
