"""What a generator is trained with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from aoi.errors import ConfigError

Preset = Literal["tiny", "lora", "full"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
_SIZE: dict[Preset, int] = {"tiny": 128, "lora": 512, "full": 512}
_BATCH: dict[Preset, int] = {"tiny": 32, "lora": 4, "full": 4}
_RATE: dict[Preset, float] = {"tiny": 5e-4, "lora": 2e-4, "full": 5e-6}
_STEPS: dict[Preset, int | None] = {"tiny": None, "lora": 2000, "full": 5000}
_MINUTES: dict[Preset, float | None] = {"tiny": 90.0, "lora": None, "full": None}


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """One training run; equal options, data and machine give an equal model where the budget is in steps."""

    preset: Preset = "lora"
    """`tiny` trains a small pipeline from scratch; `lora` and `full` go on from `model`."""
    captions: Path | None = None
    """A caption table for the images; None makes captions up from the defect type, place and contrast."""
    model: str | None = None
    """Folder or hub name of an inpainting checkpoint; unused by `tiny`."""
    tokenizer: Path | None = None
    """Folder with CLIP's `vocab.json` and `merges.txt`, for `tiny`; None looks for `clip_bpe` in the folder `AOI_WEIGHTS` names."""
    size: int | None = None
    """Side of the training crops, pixels; None takes 128 for `tiny` and 512 for a checkpoint."""
    crops: int = 12_000
    """Training crops drawn once, for `tiny`."""
    share: float = 2 / 3
    """Of the real defects of each type that may be learnt from."""
    validation: float = 0.1
    """Of those, kept for choices."""
    steps: int | None = None
    """Steps of the denoiser; None leaves it to `minutes`, or to the preset where that is None too."""
    minutes: float | None = None
    """Minutes of work for the denoiser; None leaves it to `steps`."""
    vae_steps: int | None = 1500
    vae_minutes: float | None = 15.0
    batch: int | None = None
    """Defects a step and process; None takes 32 for `tiny` and 4 for a checkpoint."""
    lr: float | None = None
    """Peak learning rate; None takes 5e-4 (`tiny`), 2e-4 (`lora`) or 5e-6 (`full`)."""
    gpp: float = 0.0
    """Gaussian prompt perturbation in training."""
    seed: int = 0
    mgni: float = 0.0
    """Largest amplitude of the noise injected inside the mask in training; 0 leaves it out. Checkpoints only, like all that follows."""
    text_lr: float = 4e-5
    """Learning rate of the text encoder's adapter, `lora` only; 0 leaves the text encoder alone."""
    rank: int = 8
    alpha: int = 16
    accumulate: int = 1
    """Batches summed into one step."""
    prior: float = 0.2
    """Weight of good images repainted as good, which keeps what the checkpoint could do; 0 leaves it out."""
    average: float = 0.995
    """Memory of the moving average of the weights, which is what is kept; 0 keeps the last weights."""
    precision: Precision = "auto"
    """Of the arithmetic: `auto` takes bfloat16 on a GPU that has it, float16 on another, float32 on a processor."""
    device: Literal["auto", "cpu"] = "auto"
    checkpointing: bool = False
    """Recompute activations instead of keeping them: less memory, a third slower."""
    save_every: int = 100
    sample_every: int = 500
    """Steps between grids of samples."""

    def __post_init__(self) -> None:
        if self.preset not in get_args(Preset):
            raise ConfigError(f"unknown preset {self.preset!r}", hint="use tiny, lora or full")
        if self.precision not in get_args(Precision):
            raise ConfigError(f"unknown precision {self.precision!r}", hint=f"use one of {', '.join(get_args(Precision))}")
        self._check_counts()
        if self.pixels % 16:
            raise ConfigError(f"--size is {self.pixels}", hint="give a multiple of 16, such as 128")
        if not 0 < self.rate < 1 or not 0 <= self.text_lr < 1:
            raise ConfigError(
                f"learning rates of {self.rate} and {self.text_lr} are impossible", hint="give numbers between 0 and 1, such as 5e-4"
            )
        for name, value, top in (("--gpp", self.gpp, 10.0), ("--mgni", self.mgni, 1.0), ("--option prior", self.prior, 100.0)):
            if not 0 <= value <= top:
                raise ConfigError(f"{name} is {value}", hint=f"give a number from 0 to {top:g}")
        if not 0 <= self.average < 1:
            raise ConfigError(f"--option average is {self.average}", hint="give a number from 0 up to, but not, 1, such as 0.995")

    def _check_counts(self) -> None:
        for name, value, low, high in (
            ("--size", self.pixels, 32, 1024),
            ("--option crops", self.crops, 8, 1_000_000),
            ("--batch", self.samples, 1, 4096),
            ("--seed", self.seed, 0, 2**63 - 1),
            ("--option rank", self.rank, 1, 512),
            ("--option alpha", self.alpha, 1, 4096),
            ("--option accumulate", self.accumulate, 1, 4096),
            ("--option save_every", self.save_every, 1, 1_000_000),
            ("--option sample_every", self.sample_every, 1, 1_000_000),
        ):
            if not low <= value <= high:
                raise ConfigError(f"{name} is {value}", hint=f"give a whole number from {low} to {high}")

    @property
    def pixels(self) -> int:
        """Side of the training crops."""
        return _SIZE[self.preset] if self.size is None else self.size

    @property
    def samples(self) -> int:
        """Batch size."""
        return _BATCH[self.preset] if self.batch is None else self.batch

    @property
    def rate(self) -> float:
        """Peak learning rate."""
        return _RATE[self.preset] if self.lr is None else self.lr

    @property
    def limits(self) -> tuple[int | None, float | None]:
        """Steps and minutes of the denoiser, or of the checkpoint's training."""
        if self.steps is None and self.minutes is None:
            return _STEPS[self.preset], _MINUTES[self.preset]
        return self.steps, self.minutes

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, with the preset's own numbers in the place of None."""
        values = asdict(self) | {"size": self.pixels, "batch": self.samples, "lr": self.rate}
        values["steps"], values["minutes"] = self.limits
        return values | {name: None if values[name] is None else str(values[name]) for name in ("captions", "tokenizer")}
