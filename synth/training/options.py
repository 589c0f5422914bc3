"""What a generator is trained with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from aoi.errors import ConfigError

Preset = Literal["tiny", "lora", "full"]


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
    size: int = 128
    """Side of the training crops, pixels."""
    crops: int = 12_000
    """Training crops drawn once, for `tiny`."""
    share: float = 2 / 3
    """Of the real defects of each type that may be learnt from."""
    validation: float = 0.1
    """Of those, kept for choices."""
    steps: int | None = None
    """Steps of the denoiser; None leaves it to `minutes`."""
    minutes: float | None = 90.0
    """Minutes of work for the denoiser; None leaves it to `steps`."""
    vae_steps: int | None = 1500
    vae_minutes: float | None = 15.0
    batch: int = 32
    lr: float = 5e-4
    gpp: float = 0.0
    """Gaussian prompt perturbation in training."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("--size", self.size, 32, 1024),
            ("--crops", self.crops, 8, 1_000_000),
            ("--batch", self.batch, 1, 4096),
            ("--seed", self.seed, 0, 2**63 - 1),
        ):
            if not low <= value <= high:
                raise ConfigError(f"{name} is {value}", hint=f"give a whole number from {low} to {high}")
        if self.size % 16:
            raise ConfigError(f"--size is {self.size}", hint="give a multiple of 16, such as 128")
        if not 0 < self.lr < 1:
            raise ConfigError(f"a learning rate of {self.lr} is impossible", hint="give a number between 0 and 1, such as 5e-4")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        values = asdict(self)
        return values | {name: None if values[name] is None else str(values[name]) for name in ("captions", "tokenizer")}
