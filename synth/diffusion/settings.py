"""What the diffusion generator is told besides the sentence and the place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from aoi.errors import ConfigError

Injection = Literal["off", "posterior", "paper"]
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Offload = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True)
class DiffusionSettings:
    """Equal settings, jobs and machine give equal pictures."""

    model: str | None = None
    """A folder in diffusers' layout, a name of `aoi models list`, or a hub name fetched before; None takes the catalogue's default."""
    loras: tuple[str, ...] = ()
    """Adapters on top: folders or files, each with `:WEIGHT` behind it if it is not 1."""
    steps: int | None = None
    """Denoising steps (DDIM); None takes what the checkpoint's `aoi.json` advises, or 50."""
    guidance: float | None = None
    """How closely the words are followed; 1 is not at all. None takes what the checkpoint's `aoi.json` advises, or 7.5."""
    strength: float | None = None
    """0 (nothing changes) to 1 (painted anew); None follows the severity asked for, see `strength_of`."""
    negative_prompt: str = ""
    """What the picture should not be."""
    gpp: float = 0.0
    """Gaussian prompt perturbation: deviation of the noise on the text encoder's output (MAGIC)."""
    mgni: Injection = "off"
    """Mask-guided noise injection: `posterior` as MAGIC's code does it, `paper` as its paper writes it."""
    mgni_stop: float = 0.4
    """Share of the steps after which nothing is injected any more."""
    mgni_amplitude: tuple[float, float] = (0.0, 0.6)
    """Least and greatest amplitude, drawn for each picture."""
    mgni_submask: bool = True
    """Inject only into a random rectangle or ellipse of the mask."""
    sag: bool = False
    """Spatially adaptive guidance: inside the mask it rises from `sag_inside[0]` to `sag_inside[1]`, outside it is `guidance`."""
    sag_inside: tuple[float, float] = (4.0, 7.5)
    context: float = 0.6
    """Surroundings the model sees on each side of the defect, in units of the defect's extent."""
    resolution: int | None = None
    """Side of the square the model paints, pixels; None takes what it was trained on."""
    feather: float = 4.0
    """Pixels of that square over which the new picture fades into the old one."""
    grain: bool = True
    """Put back the good image's fine texture where the square is larger than what the model paints, so that no patch comes out blurred."""
    candidates: int = 1
    """Pictures painted for each defect; the one that changed most inside the mask is kept."""
    batch_size: int = 4
    """Defects painted at once; fewer where memory does not suffice."""
    dtype: Dtype = "auto"
    device: str = "auto"
    offload: Offload = "auto"
    """Whether weights wait in main memory until they are needed; `auto` decides by the memory found."""
    compile: bool = False
    """Compile the denoiser: minutes at the start, faster from then on."""
    safety: bool = True
    """Use the checkpoint's own safety checker, if it has one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "loras", tuple(self.loras))
        for name, value, low, high in (
            ("--steps", self.steps, 1, 1000),
            ("--candidates", self.candidates, 1, 64),
            ("--batch-size", self.batch_size, 1, 1024),
            ("--guidance", self.guidance, 1, 100),
            ("--gpp", self.gpp, 0, 10),
            ("mgni_stop", self.mgni_stop, 0, 1),
            ("context", self.context, 0, 10),
            ("feather", self.feather, 0, 64),
        ):
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{name} is {value}", hint=f"give a number from {low} to {high}")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise ConfigError(f"--strength is {self.strength}", hint="give a number above 0 and up to 1")
        if self.resolution is not None and (self.resolution < 32 or self.resolution > 4096 or self.resolution % 8):
            raise ConfigError(f"resolution is {self.resolution}", hint="give a multiple of 8 from 32 to 4096")
        for name, chosen, known in (("--mgni", self.mgni, Injection), ("--dtype", self.dtype, Dtype), ("offload", self.offload, Offload)):
            if chosen not in get_args(known):
                raise ConfigError(f"{name} is {chosen!r}", hint=f"use one of {', '.join(get_args(known))}")
        for name, pair in (("mgni_amplitude", self.mgni_amplitude), ("sag_inside", self.sag_inside)):
            if len(pair) != 2 or not 0 <= pair[0] <= pair[1]:
                raise ConfigError(f"{name} is {pair}", hint="give two numbers, the lesser first")


LEAST_STRENGTH = 0.3
"""Of the denoising that a barely visible defect gets."""


def strength_of(severity: float | None) -> float:
    """How much of the picture's own noise the model starts from, for a severity: rises in a straight line to 1.

    Args:
        severity: 0 (barely visible) to 1 (unmissable); None paints anew.
    """
    return 1.0 if severity is None else LEAST_STRENGTH + (1 - LEAST_STRENGTH) * severity
