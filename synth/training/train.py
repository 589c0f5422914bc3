"""`aoi synth train`: one door to every way of training a generator."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aoi.data.files import write_json
from aoi.data.progress import Progress, silent
from aoi.synth.training.options import TrainOptions

__all__ = ["TrainOptions", "TrainReport", "train"]


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training came to."""

    out: Path
    model: Path
    """What `aoi synth generate --model` takes."""
    figures: dict[str, Any]
    """By stage."""
    seconds: float
    base: str | None = None
    """The checkpoint that `model` is an adapter of; None where it stands alone."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"out": str(self.out), "model": str(self.model), "base": self.base, **self.figures, "seconds": round(self.seconds, 1)}

    def summary(self) -> str:
        """For people."""
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in self.figures.get("images", {}).items())
        lines = [f"{self.model}: trained on {counts} real defects in {self.seconds / 60:.0f} min"]
        for stage in ("autoencoder", "denoiser"):
            if self.figures.get(stage):
                lines.append(f"{stage}: " + ", ".join(f"{name} {value}" for name, value in self.figures[stage].items()))
        model = shlex.quote(str(self.model))
        chosen = f"--model {model}" if self.base is None else f"--model {shlex.quote(self.base)} --lora {model}"
        return "\n".join([*lines, f"use it: aoi synth generate IMAGES --prompt … --generator diffusion {chosen}"])


def train(dataset: Path, out: Path, options: TrainOptions | None = None, *, progress: Progress = silent) -> TrainReport:
    """Train a generator on the real defects of a data set, or go on where a training was stopped.

    `out` gets the finished pipeline or adapter (`model/`), `training_images.jsonl` and `held_back.jsonl` (which real images were learnt
    from and which never seen, with the hash of their pixels), `train.json`, and checkpoints and logs in `work/`.

    Args:
        dataset: MVTec AD or DS-MVTec layout, with defects and masks.
        out: new, or begun by the same call.
        options: how; None takes the defaults.
        progress: called with the stages' names.

    Raises:
        DataError: no real defects with masks.
        ConfigError: impossible options, or `out` belongs to other ones.
        ModelError: the checkpoint or tokenizer cannot be used.
    """
    options, began = options or TrainOptions(), time.perf_counter()
    if options.preset == "tiny":
        from aoi.synth.training.tiny import MODEL, train_tiny

        figures = train_tiny(dataset, out, options, progress=progress)
        report = TrainReport(out, out / MODEL, figures, time.perf_counter() - began)
    else:
        from aoi.synth.training.finetune import MODEL, finetune
        from aoi.synth.training.pretrained import base_name

        figures = finetune(dataset, out, options, progress=progress)
        base = base_name(options.model) if options.preset == "lora" else None
        report = TrainReport(out, out / MODEL, figures, time.perf_counter() - began, base)
    write_json(out / "report.json", report.as_dict())
    return report
