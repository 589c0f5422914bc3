"""What a batch of synthetic defects is made with; equal options and equal images give equal bytes."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from aoi.captions.places import ANYWHERE, Place, parse_place
from aoi.captions.spec import DefectSpec, SizeRange
from aoi.data.files import finite
from aoi.errors import ConfigError
from aoi.synth.blend import Blend
from aoi.synth.foreground import ForegroundMode, check_foreground
from aoi.synth.registry import COPYING, GeneratorSettings, generator_names, unknown_generator

if TYPE_CHECKING:
    from aoi.synth.diffusion.settings import DiffusionSettings

LocateMethod = Literal["auto", "geometry", "clipseg", "grounded"]
LOCATE_METHODS: tuple[LocateMethod, ...] = get_args(LocateMethod)
_AREA = (0.003, 0.06)
_ADDED_LATER = (
    "prompt",
    "prompts",
    "masks",
    "cama",
    "mm_per_pixel",
    "locate",
    "locate_model",
    "band",
    "features",
    "min_feature_change",
    "diffusion",
    "references",
)
"""Left out of a folder's configuration while they say nothing, so that folders of older versions go on being recognised."""
MAX_SIDE = 8192
"""Largest side that may be asked for, in pixels."""


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """One batch."""

    generator: str = "perlin"
    """A registered generator."""
    count: int = 100
    """How many defects."""
    seed: int = 0
    """Everything random is derived from it and from each defect's number."""
    size: int | None = None
    """Side of the square the images are resized to before anything else; None keeps each image's own size."""
    where: str | None = None
    """A place in words, such as `upper left` or `左上`; None is anywhere on the part."""
    area: tuple[float, float] = _AREA
    """Least and greatest area of a defect; overrules the size that a prompt names."""
    area_unit: Literal["fraction", "pixels"] = "fraction"
    """Whether `area` is a fraction of the part's area or a number of pixels of the output."""
    severity: float | None = None
    """0 (slight) to 1 (severe); None varies it."""
    opacity: tuple[float, float] = (0.35, 1.0)
    """How opaque the new pixels are, least and most, in (0, 1]; `severity` moves between them."""
    textures: Path | None = None
    """Folder of texture pictures; None makes textures up."""
    foreground: ForegroundMode = "auto"
    """How the part is found: `auto`, `full` (textures), `otsu`, a network by name, or an ONNX file."""
    blend: Blend = "feather"
    """How new pixels meet old ones: `feather`, `poisson`, `hard`."""
    kind: str = "anomaly"
    """What the defect is called in the manifest."""
    label: str | None = None
    """Name of the folder under `test/`; None takes the generator's name."""
    max_tries: int = 8
    """How often a defect that fails verification is tried again with a derived seed."""
    workers: int | None = None
    """Processes; None is one for each core. The result does not depend on it."""
    prompt: str | None = None
    """A sentence that names the defect and its place, in English or Chinese; `where`, `severity`, `area` and `kind` overrule it."""
    prompts: Path | None = None
    """A table of prompts (see `aoi.synth.requests`) instead of one."""
    masks: Path | None = None
    """Folder of real defect masks whose outlines are used instead of drawn ones."""
    cama: bool | None = None
    """Whether real masks are moved to the same place of the part (CAMA); None does it where a network's weights are at hand."""
    mm_per_pixel: float | None = None
    """Scale of the images at their output size; None leaves millimetres to be read as pixels, and says so."""
    locate: LocateMethod = "auto"
    """How a prompt's place is found: on the part's box (`geometry`), by its words (`clipseg`), or by a detector (`grounded`)."""
    locate_model: str | None = None
    """Folder or hub name of the network that locates; for `grounded` two, a detector and a SAM 2, with a comma between them."""
    band: float | None = None
    """Width of a named row or column as a fraction of the part; None takes a third."""
    features: bool = False
    """Also verify in feature space (LPIPS), where its weights are at hand."""
    min_feature_change: float = 0.0
    """Least change in feature space."""
    diffusion: DiffusionSettings | None = None
    """What the generator `diffusion` is built with."""
    references: Path | None = None
    """Folder of real defects with masks, which the generator `graft` copies."""

    def __post_init__(self) -> None:
        _check_number("--count", self.count, 1, 10_000_000)
        _check_number("--seed", self.seed, 0, 2**63 - 1)
        _check_number("--max-tries", self.max_tries, 1, 1000)
        if self.size is not None:
            _check_number("--size", self.size, 16, MAX_SIDE)
        if self.workers is not None:
            _check_number("--workers", self.workers, 1, 1024)
        if self.generator not in generator_names():
            raise unknown_generator(self.generator)
        self._check_references()
        check_foreground(self.foreground)
        if not re.fullmatch(r"[^/\\\s.][^/\\]*", self.folder) or self.folder == "good":
            raise ConfigError(f"{self.folder!r} cannot name a folder of defects", hint="use letters, such as scratch, but not good")
        if self.locate not in LOCATE_METHODS:
            raise ConfigError(f"unknown way to locate {self.locate!r}", hint=f"use one of {', '.join(LOCATE_METHODS)}")
        if self.prompt is not None and self.prompts is not None:
            raise ConfigError("both one prompt and a table of prompts were given", hint="use either --prompt or --prompts")
        if self.mm_per_pixel is not None and not 0 < self.mm_per_pixel < 1000:
            raise ConfigError(f"--mm-per-pixel is {self.mm_per_pixel}", hint="give the width of one pixel in millimetres, such as 0.02")
        _ = self.spec, self.settings

    def _check_references(self) -> None:
        if self.generator not in COPYING:
            if self.references is not None:
                copying = ", ".join(COPYING)
                raise ConfigError(
                    f"{self.generator} invents its defects and takes no references",
                    hint=f"leave --references out, or use --generator {copying}",
                )
            return
        if self.references is None:
            raise ConfigError(
                f"the generator {self.generator} copies real defects and was given none",
                hint="name a data set with a few of them and their masks: --references FOLDER",
            )
        if self.masks is not None:
            raise ConfigError(f"the generator {self.generator} takes outlines from its references", hint="leave --mask out")

    @property
    def folder(self) -> str:
        """The label of the defects: the folder's name under `test/` and `ground_truth/`."""
        return self.generator if self.label is None else self.label

    @property
    def place(self) -> Place:
        """`where`, understood."""
        return ANYWHERE if self.where is None else parse_place(self.where)

    @property
    def spec(self) -> DefectSpec:
        """What every defect of the batch should be."""
        return DefectSpec(self.kind, self.place, SizeRange(*self.area, unit=self.area_unit), self.severity, self.where or "")

    @property
    def settings(self) -> GeneratorSettings:
        """What the generator is built with."""
        copied = (self.references, self.size, self.foreground) if self.generator in COPYING else ()
        return GeneratorSettings(self.textures, self.opacity, self.blend, self.mm_per_pixel, self.diffusion, *copied)

    @property
    def size_was_given(self) -> bool:
        """Whether `area` says more than its default."""
        return self.area != _AREA or self.area_unit != "fraction"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: everything that decides the result, hence without `workers`; later options only where they are used."""
        values: dict[str, Any] = finite(asdict(self))
        del values["workers"]
        for name, field in type(self).__dataclass_fields__.items():
            if name in _ADDED_LATER and getattr(self, name) == field.default:
                del values[name]
        return values | ({} if self.prompt is not None or self.prompts is not None else {"label": self.folder})


def _check_number(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} is {value}", hint=f"give a whole number from {low} to {high}")
