"""`aoi synth train --model`: LoRA layers for, or the whole UNet of, an existing inpainting checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aoi.data.files import append_jsonl, writable_folder
from aoi.data.layouts import open_dataset
from aoi.data.progress import Progress, silent
from aoi.errors import BackendUnavailable, ModelError
from aoi.synth.training.budget import Budget, Clock
from aoi.synth.training.checkpoints import load_checkpoint, save_checkpoint
from aoi.synth.training.claim import claim, counts, open_captions, write_split
from aoi.synth.training.crops import Picture, draw_crops, read_defects, read_good
from aoi.synth.training.examples import Batch, draw_batch
from aoi.synth.training.learner import Average, Learner, Perturbation
from aoi.synth.training.options import TrainOptions
from aoi.synth.training.pretrained import (
    add_adapters,
    base_name,
    grid_of,
    latents_of,
    open_checkpoint,
    token_ids,
    trained,
    write_adapter,
    write_checkpoint,
)
from aoi.synth.training.samples import Journal, repaint, side_by_side
from aoi.synth.training.split import real_defects, split_defects

MODEL = "model"
_GOOD = 200
_WARM_UP = 20
_SHOWN = 4
"""Crops of the validation share that the grids of samples show."""


@dataclass(frozen=True, slots=True)
class Material:
    """Decoded images."""

    defects: list[Picture]
    judged: list[Picture]
    """Of the validation share; of the training share where that is too small."""
    good: list[Picture]


def finetune(dataset: Path, out: Path, options: TrainOptions, *, progress: Progress = silent) -> dict[str, Any]:
    """Train, resume, or finish; see `aoi.synth.training.train.train`. Start it with `accelerate launch` to use several GPUs.

    Returns:
        JSON-ready: words, counts of the split, and the training's last figures.
    """
    accelerator = _accelerator(options)
    pipeline = open_checkpoint(options.model, _base_dtype(accelerator, options))
    split = split_defects(real_defects(dataset), share=options.share, validation=options.validation, seed=options.seed)
    if accelerator.is_main_process:
        writable_folder(out / "work")
        claim(out, dataset, options)
        write_split(out, split)
    accelerator.wait_for_everyone()
    captions = open_captions(options.captions)
    defects = read_defects(split.train, captions)
    good = [sample.path for sample in open_dataset(dataset).train_good][:_GOOD]
    material = Material(defects, read_defects(split.validation, captions) or defects, read_good(good))
    last = Finetuning(pipeline, accelerator, material, out, options).run(progress)
    accelerator.end_training()
    return {"words": list(split.words), "images": counts(split), "denoiser": last}


def _accelerator(options: TrainOptions) -> Any:
    """accelerate's door to devices and processes; one that an earlier call in this process left with other settings is renewed."""
    from accelerate import Accelerator  # type: ignore[import-untyped]
    from accelerate.state import AcceleratorState  # type: ignore[import-untyped]

    cpu = options.device == "cpu" or not torch.cuda.is_available()
    precision = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}.get(options.precision)
    if precision is None:
        precision = "no" if cpu else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if cpu and precision == "fp16":
        raise BackendUnavailable("float16 cannot be trained on a processor", hint="use --precision bfloat16 or float32")
    AcceleratorState._reset_state()
    return Accelerator(cpu=cpu, mixed_precision=precision)


def _base_dtype(accelerator: Any, options: TrainOptions) -> torch.dtype:
    """Of the frozen weights: half precision under LoRA on a GPU; what is trained stays in float32."""
    if options.preset == "full" or accelerator.device.type == "cpu":
        return torch.float32
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision, torch.float32)


class Finetuning:
    """One training of one checkpoint."""

    def __init__(self, pipeline: Any, accelerator: Any, material: Material, out: Path, options: TrainOptions) -> None:
        self.pipeline, self.accelerator, self.material, self.out, self.options = pipeline, accelerator, material, out, options
        self.grid, self.step, self.before = grid_of(pipeline), 0, 0.0
        if options.pixels % (self.grid * 8):
            raise ModelError(f"{options.pixels} pixels do not fit the checkpoint's grid", hint=f"use --size {self.grid * 8} or a multiple")
        self._choose_parameters()
        from diffusers import DDIMScheduler

        scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        alphas = scheduler.alphas_cumprod.clamp(1e-8, 1 - 1e-8)
        perturbation = Perturbation(options.gpp, options.mgni)
        self.learner = Learner(pipeline.unet, pipeline.text_encoder, alphas, scheduler.config.prediction_type, perturbation)
        self.average = Average(self.learner, options.average)
        rates = {"unet": options.rate, "text_encoder": options.text_lr}
        groups = [
            {"params": list(trained(getattr(pipeline, name)).values()), "lr": rate, "peak": rate}
            for name, rate in rates.items()
            if trained(getattr(pipeline, name))
        ]
        self.optimiser: Any = torch.optim.AdamW(groups, lr=options.rate, weight_decay=1e-2)
        self._resume()
        pipeline.vae.to(accelerator.device).requires_grad_(False).eval()
        self.average.values = {name: value.to(accelerator.device) for name, value in self.average.values.items()}
        self.wrapped, self.optimiser = accelerator.prepare(self.learner, self.optimiser)
        self.learner.train()

    def _choose_parameters(self) -> None:
        options, pipeline = self.options, self.pipeline
        if options.preset == "lora":
            add_adapters(pipeline, rank=options.rank, alpha=options.alpha, text=options.text_lr > 0, seed=options.seed)
        else:
            pipeline.unet.requires_grad_(True)
            pipeline.text_encoder.requires_grad_(False)
        if options.checkpointing:
            pipeline.unet.enable_gradient_checkpointing()

    def run(self, progress: Progress) -> dict[str, Any]:
        """Train until the budget is spent; stage `training`, in thousandths of the budget.

        Returns:
            Step, samples, seconds and mean loss of the last stretch.
        """
        budget, clock, losses, row = Budget(*self.options.limits), Clock(self.before), [], {}
        journal = Journal(self.out) if self.accelerator.is_main_process else None
        while (spent := self._agreed(budget.spent(self.step, clock.seconds))) < 1:
            losses.append(self._advance())
            progress("training", round(1000 * spent), 1000)
            if self.step % self.options.save_every == 0:
                row = self._note(journal, losses, clock.seconds)
                losses = []
                self._save(clock.seconds)
            if self.step % self.options.sample_every == 0:
                self._show(journal)
        if losses:
            row = self._note(journal, losses, clock.seconds)
        self._save(clock.seconds)
        self._show(journal)
        self._publish()
        if journal is not None:
            journal.close()
        return row

    def _agreed(self, spent: float) -> float:
        """The first process's word on how much is spent, so that all stop at the same step."""
        if self.accelerator.num_processes == 1:
            return spent
        from accelerate.utils import broadcast  # type: ignore[import-untyped]

        return float(broadcast(torch.tensor(spent, device=self.accelerator.device)))

    def _advance(self) -> float:
        """One step of the optimiser over `accumulate` batches; returns the mean loss."""
        pieces, total = self.options.accumulate, 0.0
        warm = min(1.0, (self.step + 1) / _WARM_UP)
        for group in self.optimiser.param_groups:
            group["lr"] = warm * group["peak"]
        for piece in range(pieces):
            loss = self._loss(piece, last=piece == pieces - 1)
            total += float(loss) / pieces
        if self.accelerator.sync_gradients:
            self.accelerator.clip_grad_norm_(list(trained(self.learner).values()), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        self.average.update()
        return total

    def _loss(self, piece: int, *, last: bool) -> Tensor:
        """Loss of one batch, its gradient added up; processes speak to each other only after the last."""
        options, seeds = self.options, np.random.SeedSequence([self.options.seed, self.step, piece, self.accelerator.process_index])
        rng = np.random.default_rng(seeds)
        material = self.material
        batch = draw_batch(
            material.defects, material.good, count=options.samples, size=options.pixels, grid=self.grid, prior=options.prior, rng=rng
        )
        seed = int(rng.integers(2**62))
        given = self._encoded(batch, seed)
        if last:
            loss = self.wrapped(*given, seed + 1)
            self.accelerator.backward(loss / options.accumulate)
        else:
            with self.accelerator.no_sync(self.wrapped):
                loss = self.wrapped(*given, seed + 1)
                self.accelerator.backward(loss / options.accumulate)
        return torch.as_tensor(loss.detach())

    @torch.no_grad()
    def _encoded(self, batch: Batch, seed: int) -> tuple[Tensor, ...]:
        device, generator = self.accelerator.device, torch.Generator().manual_seed(seed)
        images, hidden = batch.images.to(device), batch.hidden.to(device)
        latents = latents_of(self.pipeline.vae, images, generator)
        seen = latents_of(self.pipeline.vae, images * ~hidden, generator)
        ids = token_ids(self.pipeline, list(batch.captions)).to(device)
        return latents, seen, batch.masks.to(device), batch.weights.to(device), ids

    def _note(self, journal: Journal | None, losses: list[float], seconds: float) -> dict[str, Any]:
        samples = self.step * self.options.samples * self.options.accumulate * self.accelerator.num_processes
        row = {"step": self.step, "samples": samples, "seconds": round(seconds), "loss": round(float(np.mean(losses)), 5)}
        if journal is not None:
            append_jsonl(self.out / "work" / "finetune.jsonl", [row])
            journal.scalars(self.step, {"loss": row["loss"]})
        return row

    def _show(self, journal: Journal | None) -> None:
        """A grid of validation crops: real with the mask's outline, and repainted by the averaged weights."""
        if journal is None:
            return
        rng = np.random.default_rng([self.options.seed, 7])
        crops = draw_crops(self.material.judged, [], _SHOWN, self.options.pixels, rng, grid=self.grid)
        with self.average.applied(), torch.no_grad(), self.accelerator.autocast():
            self.learner.eval()
            made = repaint(self.pipeline, crops, steps=20, guidance=5.0, seed=self.options.seed, batch=1)
            self.learner.train()
        journal.picture(self.step, side_by_side([crops.images, made], crops.masks))

    def _save(self, seconds: float) -> None:
        if self.accelerator.is_main_process:
            values = {name: parameter.detach().cpu() for name, parameter in trained(self.learner).items()}
            state = {"trained": values, "average": self.average.state(), "optimiser": self.optimiser.state_dict()}
            save_checkpoint(self.out / "work" / "finetune.pt", state | {"step": self.step, "seconds": seconds})

    @torch.no_grad()
    def _resume(self) -> None:
        state = load_checkpoint(self.out / "work" / "finetune.pt")
        if state is None:
            return
        parameters = trained(self.learner)
        if set(parameters) != set(state["trained"]):
            raise ModelError(f"the training in {self.out} is of another checkpoint", hint="choose another --out")
        for name, parameter in parameters.items():
            parameter.copy_(state["trained"][name])
        self.average.restore(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.before = int(state["step"]), float(state["seconds"])

    def _publish(self) -> None:
        """Write what generation loads: the adapter, or the whole pipeline."""
        if not self.accelerator.is_main_process:
            return
        options = self.options
        with self.average.applied():
            if options.preset == "lora":
                notes = {"rank": options.rank, "alpha": options.alpha, "steps": self.step, "gpp": options.gpp, "mgni": options.mgni}
                write_adapter(self.out / MODEL, self.pipeline, base_name(options.model), notes)
            else:
                write_checkpoint(self.out / MODEL, self.pipeline)
