"""CLIPSeg (Lueddecke and Ecker, CVPR 2022, arXiv 2112.10003): which pixels a phrase names, through transformers."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from aoi.errors import BackendUnavailable, ModelError
from aoi.synth.saliency import weights_folders

HUB_NAME = "CIDAS/clipseg-rd64-refined"
"""The usual checkpoint; only ever loaded from the hub when it is named."""


def find_clipseg() -> Path | None:
    """A CLIPSeg folder in AOI_WEIGHTS or aoi's cache; None if there is none."""
    for folder in weights_folders():
        path = folder / HUB_NAME.split("/")[1]
        if (path / "config.json").is_file():
            return path
    return None


class ClipSeg:
    """A CLIPSeg model and its processor."""

    def __init__(self, model: Any, processor: Any, device: str = "cpu") -> None:
        self.model = model.eval().to(device)
        self.processor = processor
        self.device = device

    def segment(self, image: np.ndarray, phrase: str) -> np.ndarray:
        """See `aoi.synth.locate.PhraseSegmenter`: the sigmoid of the model's logits at the image's size."""
        import torch

        height, width = image.shape[:2]
        # Every CLIP text encoder has 77 positions; tiny ones have fewer, and a longer phrase would index past them.
        longest = int(self.model.config.text_config.max_position_embeddings)
        words = self.processor.tokenizer([phrase], truncation=True, max_length=longest, return_tensors="pt")
        pixels = self.processor.image_processor(images=[image], return_tensors="pt")
        with torch.inference_mode():
            logits = self.model(
                input_ids=words["input_ids"].to(self.device),
                attention_mask=words["attention_mask"].to(self.device),
                pixel_values=pixels["pixel_values"].to(self.device),
            ).logits
        likely = torch.sigmoid(logits.float()).reshape(logits.shape[-2:]).cpu().numpy()
        return np.asarray(np.clip(cv2.resize(likely, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1), np.float32)


@functools.lru_cache(maxsize=2)
def load_clipseg(source: str, *, device: str = "cpu") -> ClipSeg:
    """Load a CLIPSeg from a folder, or from the hub if `source` is a hub name.

    Args:
        source: a folder in the stock layout, or a name such as `HUB_NAME`.
        device: where it runs.

    Raises:
        BackendUnavailable: transformers is not installed, or the hub cannot be reached.
        ModelError: the folder holds no CLIPSeg.
    """
    try:
        from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor
    except ImportError as error:
        raise BackendUnavailable("CLIPSeg needs transformers, which is not installed", hint="pip install transformers") from error
    check_kind(source, "clipseg", "CLIPSeg")
    try:
        model = CLIPSegForImageSegmentation.from_pretrained(source, use_safetensors=True)
        processor = CLIPSegProcessor.from_pretrained(source)
    except Exception as error:  # transformers, safetensors and the hub raise many kinds
        raise unloadable(source, "CLIPSeg", error) from error
    return ClipSeg(model, processor, device)


def check_kind(source: str, kind: str, name: str) -> None:
    """Refuse a folder whose configuration names another architecture, before transformers fills it with random weights.

    Raises:
        ModelError: `source` is a folder, or looks like one, without a configuration of model type `kind`.
    """
    from aoi.data.files import read_json
    from aoi.errors import DataError

    if is_hub_name(source):
        return
    try:
        found = read_json(Path(source) / "config.json").get("model_type")
    except (DataError, AttributeError) as error:
        raise ModelError(f"{source} is no model folder: it has no readable config.json", hint=f"give a folder saved from {name}") from error
    if found != kind:
        raise ModelError(f"{source} holds a {found!r} model, not a {name}", hint=f"give a folder saved from {name}")


def is_hub_name(source: str) -> bool:
    """True for `owner/name` where no such folder exists."""
    return not Path(source).exists() and source.count("/") == 1 and not source.startswith((".", "/", "~"))


def unloadable(source: str, name: str, error: Exception) -> ModelError | BackendUnavailable:
    """The error for a model that did not load: about the folder if it is one, else about the hub."""
    reason = str(error).split("\n")[0][:200]
    if not is_hub_name(source):
        return ModelError(f"{source} does not load as a {name}: {reason}", hint="fetch the folder again; only safetensors weights are read")
    return BackendUnavailable(f"cannot load {name} {source!r}: {reason}", hint="check the name and the connection, or give a local folder")
