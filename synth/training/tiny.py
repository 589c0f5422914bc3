"""`aoi synth train --preset tiny`: a small captioned inpainting pipeline, from scratch, on a processor."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from aoi.data.files import atomic_path, read_json, writable_folder
from aoi.data.layouts import open_dataset
from aoi.data.progress import Progress, silent
from aoi.errors import AoiError, ModelError
from aoi.synth.training.autoencoder import AutoencoderSettings, train_autoencoder
from aoi.synth.training.budget import Budget
from aoi.synth.training.claim import claim, counts, open_captions, write_split
from aoi.synth.training.crops import Crops, draw_crops, read_defects, read_good
from aoi.synth.training.denoiser import Denoiser, DenoiserSettings, Watch, as_lessons, train_denoiser
from aoi.synth.training.networks import (
    GRID,
    GUIDANCE,
    TinyShape,
    build_scheduler,
    build_text_encoder,
    build_unet,
    build_vae,
    read_tokenizer,
    write_pipeline,
)
from aoi.synth.training.options import TrainOptions
from aoi.synth.training.samples import Journal, repaint, side_by_side
from aoi.synth.training.split import Split, real_defects, split_defects

MODEL = "model"
"""The folder in `out` that holds the finished pipeline."""
_GOOD = 200
"""Good images that are read at most."""


def train_tiny(dataset: Path, out: Path, options: TrainOptions, *, progress: Progress = silent) -> dict[str, Any]:
    """Train, resume, or finish; see `aoi.synth.training.train.train`.

    Returns:
        JSON-ready figures of both stages and the counts of the split.
    """
    split = split_defects(real_defects(dataset), share=options.share, validation=options.validation, seed=options.seed)
    tokenizer_folder = find_tokenizer(options.tokenizer)
    tokenizer = read_tokenizer(tokenizer_folder)
    work = writable_folder(out / "work")
    claim(out, dataset, options)
    write_split(out, split)
    crops = _crops(dataset, split, options, work, progress)

    shape = TinyShape()
    torch.manual_seed(options.seed)
    vae = build_vae(shape)
    text = build_text_encoder(shape, len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    unet = build_unet(shape, options.pixels)
    device = "cuda" if options.device == "auto" and torch.cuda.is_available() else "cpu"
    for network in (vae, text, unet):
        network.to(device)
    lpips = _lpips()
    first = AutoencoderSettings(Budget(options.vae_steps, options.vae_minutes), seed=options.seed)
    found = train_autoencoder(vae, crops.images, work, first, lpips=None if lpips is None else lpips.to(device), progress=progress)
    vae = vae.eval().requires_grad_(False)
    lessons = as_lessons(crops, vae, tokenizer, progress=progress)
    second = DenoiserSettings(
        Budget(*options.limits), batch=options.samples, lr=options.rate, gpp=options.gpp, seed=options.seed, save_every=options.save_every
    )
    denoiser = Denoiser(unet, text, build_scheduler().alphas_cumprod, second)
    with contextlib.closing(Journal(out)) as journal:
        judged = read_defects(split.validation or split.train)
        shown = draw_crops(judged, [], 2 * len(split.words), options.pixels, np.random.default_rng([options.seed, 2]), grid=GRID)
        watch = _watch(journal, denoiser, vae, tokenizer, shown, options)
        last = train_denoiser(denoiser, lessons, work, watch=watch, progress=progress)
    for network in (vae, denoiser.average):
        network.to("cpu")
    write_pipeline(out / MODEL, vae, denoiser.average["unet"], denoiser.average["text"], tokenizer_folder)
    return {"words": list(split.words), "images": counts(split), "crops": len(crops.images), "autoencoder": found, "denoiser": last}


def _watch(journal: Journal, denoiser: Denoiser, vae: nn.Module, tokenizer: Any, shown: Crops, options: TrainOptions) -> Watch:
    """Notes the loss, and every `sample_every` steps paints crops of the validation share with the averaged weights."""
    from diffusers import StableDiffusionInpaintPipeline

    networks = {"vae": vae, "text_encoder": denoiser.average["text"], "unet": denoiser.average["unet"]}
    pipeline = StableDiffusionInpaintPipeline(
        **networks,
        tokenizer=tokenizer,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )

    def note(step: int, loss: float) -> None:
        journal.scalars(step, {"loss": loss})
        if step % options.sample_every == 0:
            made = repaint(pipeline, shown, steps=20, guidance=GUIDANCE, seed=options.seed)
            journal.picture(step, side_by_side([shown.images, made], shown.masks))

    return note


def publish(out: Path, tokenizer_folder: Path | None = None) -> Path:
    """Write the pipeline of the checkpoints in `out/work` as they are, for a look before training ends.

    Raises:
        ModelError: there is no checkpoint yet.
    """
    from aoi.synth.training.checkpoints import load_checkpoint

    folder = find_tokenizer(tokenizer_folder)
    tokenizer, settings = read_tokenizer(folder), read_json(out / "train.json")
    first, second = load_checkpoint(out / "work" / "vae.pt"), load_checkpoint(out / "work" / "denoiser.pt")
    if first is None or second is None:
        raise ModelError(f"{out} has no checkpoint of both stages yet", hint="let the training go on")
    shape = TinyShape()
    vae, unet = build_vae(shape), build_unet(shape, settings["options"]["size"])
    text = build_text_encoder(shape, len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    vae.load_state_dict(first["network"])
    nn.ModuleDict({"unet": unet, "text": text}).load_state_dict(second["average"])
    write_pipeline(out / MODEL, vae, unet, text, folder)
    return out / MODEL


def find_tokenizer(folder: Path | None) -> Path:
    """`folder`, or `clip_bpe` in the folder that `AOI_WEIGHTS` names.

    Raises:
        ModelError: neither is there.
    """
    named = os.environ.get("AOI_WEIGHTS")
    for place in (folder, Path(named) / "clip_bpe" if named else None):
        if place is not None and place.is_dir():
            return place
    raise ModelError(
        "no tokenizer for the text encoder", hint="name a folder with CLIP's vocab.json and merges.txt: --option tokenizer=FOLDER"
    )


def _crops(dataset: Path, split: Split, options: TrainOptions, work: Path, progress: Progress) -> Crops:
    """The training crops: drawn once, then read back."""
    path = work / "crops.npz"
    if not path.is_file():
        rng = np.random.default_rng([options.seed, 1])
        good = [sample.path for sample in open_dataset(dataset).train_good]
        chosen = [good[i] for i in sorted(rng.permutation(len(good))[:_GOOD])]
        defects = read_defects(split.train, open_captions(options.captions))
        drawn = draw_crops(defects, read_good(chosen), options.crops, options.pixels, rng, grid=GRID, progress=progress)
        words, captions = np.array(drawn.words), np.array(drawn.captions)
        with atomic_path(path) as part, part.open("wb") as file:
            np.savez(file, images=drawn.images, masks=drawn.masks, truths=drawn.truths, words=words, captions=captions)
    with np.load(path, allow_pickle=False) as kept:
        said = [tuple(str(value) for value in kept[name]) for name in ("words", "captions")]
        return Crops(kept["images"], kept["masks"], kept["truths"], *said)


def _lpips() -> nn.Module | None:
    """LPIPS for the autoencoder where its weights are at hand."""
    from aoi.metrics.lpips import Lpips

    try:
        return Lpips.load()
    except AoiError:
        return None
