"""The options of the couplings and generators of a plan, typed."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from aoi.configs.strict import StrictModel


def each_once(values: tuple[Any, ...], what: str) -> tuple[Any, ...]:
    """`values`, refused where one is there twice; `what` names one."""
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise ValueError(f"{what} {twice[0]} is named twice")
    return values


REAL = "real"
"""The generator that makes nothing: real defects taken out of the test, the upper bound."""
ORACLE_MASK = "oracle-mask"
"""The generator that paints into the masks of those real defects."""
GRAFT = "graft"
"""The generator that copies those real defects onto good images; see `aoi.bench.material.grafts`."""
KNOW_REAL = (REAL, ORACLE_MASK, GRAFT)
"""The generators that use real defects, which are taken out of the test."""
MIXED = "mixed"
"""The generator that makes nothing either: equal shares of what the plan's drawn generators made; see `aoi.bench.material.mixture`."""
OF_REAL = (REAL, GRAFT)
"""The generators whose defects are real ones, or made from them: what they teach knows the defects that judge."""
ENSEMBLE = "ensemble"
"""The coupling that joins the map with that of the plan's other detector."""
ENSEMBLE_HEAD = "ensemble-head"
"""The same, with a head on top."""
FOLDER = "folder:"
"""What a path to defects made elsewhere begins with."""


def known_generators(names: tuple[str, ...], *, also: tuple[str, ...] = ()) -> tuple[str, ...]:
    """`names`, refused where one is no generator, nor in `also`, nor a folder's path, or is there twice."""
    from aoi.synth.registry import COPYING, generator_names

    known = (*also, *(name for name in generator_names() if name not in COPYING))
    if MIXED in names and MIXED not in also:
        raise ValueError(f"{MIXED} makes no defects of its own and can only be among a plan's generators; name generators instead of it")
    if GRAFT in names and GRAFT not in also:
        raise ValueError(f"{GRAFT} copies real defects that are taken out of the test and can only be among a plan's generators")
    for name in names:
        if name not in known and not (name.startswith(FOLDER) and name != FOLDER):
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"unknown generator {name!r}" + (f", did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"))
    return each_once(names, "generator")


Ground = Literal["none", "image", "position"]
"""What a map is measured against: nothing, its image's own quiet part, or what good images have at that position."""


QUIET = (0.5, 0.99)
"""Weight and quantile of a head that nobody can tell to be bolder; record 6 says where they come from."""


class HeadPlan(StrictModel):
    """How the discriminative head is trained and fused; see `aoi.detect.head`."""

    weight: Annotated[float, Field(ge=0, le=100)] | Literal["auto"] = Field(
        default=QUIET[0], description="of the head's evidence beside the one-class map's 1; auto chooses it on the judges' defects"
    )
    quantile: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = Field(
        default=QUIET[1],
        description="of held-out good cells, below which the head counts as silent; auto chooses it on the judges' defects",
    )
    judges: tuple[str, ...] = Field(
        default=("perlin", "cutpaste"),
        min_length=1,
        description="generators whose defects an automatic choice is made on, never the head's own teacher; or real alone: the "
        "defects taken out of the test, never those that taught the head which is judged",
    )
    image_rule: Literal["one-class", "fused-max", "mean"] = Field(default="one-class", description="what the image score is made of")
    training: dict[str, Any] = Field(default={}, description="fields of aoi.detect.head.HeadOptions")

    @field_validator("judges")
    @classmethod
    def _judges(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if REAL in names and len(names) > 1:
            raise ValueError(f"{REAL} defects judge alone; leave the other judges out, or {REAL}")
        return known_generators(names, also=(REAL,))

    @property
    def chooses(self) -> bool:
        """True where something is left to an automatic choice."""
        return "auto" in (self.weight, self.quantile)


class Candidate(StrictModel):
    """Settings a detector might have."""

    strides: tuple[int, ...] | None = Field(default=None, min_length=1, description="of the feature maps it reads; null for its own")
    options: dict[str, Any] = Field(default={}, description="fields of the detector's options that differ from the plan's")
    image_size: int | None = Field(
        default=None, ge=32, le=2048, description="side of the square images are resized to, pixels; null for the plan's"
    )


class SelectPlan(StrictModel):
    """Which settings are tried on invented defects; see `aoi.bench.couplings.selection`."""

    candidates: dict[str, tuple[Candidate, ...]] = Field(
        default={
            "patchcore": (Candidate(), Candidate(strides=(8,)), Candidate(strides=(16,)), Candidate(options={"coreset_ratio": 0.05})),
            "padim": (Candidate(), Candidate(options={"dims": 200}), Candidate(strides=(8, 16)), Candidate(strides=(4, 8))),
        },
        description="for each detector, its own settings first, the others from cheap to dear: of equally good ones the first is taken",
    )
    sigmas: tuple[float, ...] = Field(
        default=(4.0, 2.0, 8.0, 16.0), min_length=1, description="of the map's Gaussian, pixels, the usual one first"
    )
    grounds: tuple[Ground, ...] = Field(
        default=("none", "image", "position"), min_length=1, description="what maps are measured against, the usual one first"
    )
    image_score: Literal["one-class", "selected"] = Field(
        default="one-class", description="of the detector with its own settings, or with the chosen ones"
    )
    oracle: bool = Field(default=False, description="also score every candidate on the real test images, to report how well the choice was")


class ProbePlan(StrictModel):
    """Defects of structure that judge beside the arm's own, and may only say no; see `aoi.bench.couplings.probing`."""

    generators: tuple[str, ...] = Field(
        default=("displace", "perlin"),
        description="that make them, on held-out good images; an arm is watched by the first that is not its own, a mixture by all; "
        "none for no veto",
    )
    count: int = Field(default=64, ge=2, le=100_000, description="defects of each")
    tolerance: float = Field(
        default=0.005,
        ge=0,
        le=1,
        description="AUPRO@0.3 on them that a change may cost; a larger loss that is above its standard error vetoes it",
    )

    @field_validator("generators")
    @classmethod
    def _drawn_here(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name.startswith(FOLDER) or name == "diffusion":
                raise ValueError(f"{name} cannot be a probe, which is drawn on held-out good images without a checkpoint")
        return known_generators(names)


class EnsemblePlan(StrictModel):
    """How much the other detector may say; see `aoi.bench.couplings.ensemble`."""

    shares: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        default=(0.25, 0.5, 0.75), min_length=1, description="of the other detector in the joined map; none is always tried"
    )

    @field_validator("shares")
    @classmethod
    def _shares(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(each_once(shares, "share")))


class NegativePlan(StrictModel):
    """The bank of defects and how loud it speaks; see `aoi.bench.couplings.negative`."""

    weight: float = Field(default=0.5, ge=0, le=100, description="of its evidence beside the one-class map's 1, where trust in it is full")
    quantile: float = Field(default=0.99, ge=0, le=1, description="of held-out good cells, below which the ratio counts as silent")
    bound: float = Field(default=3.0, gt=0, le=1000, description="what the evidence approaches, standard deviations of held-out good cells")
    image_rule: Literal["one-class", "fused-max", "mean"] = Field(default="one-class", description="what the image score is made of")
    bank: int = Field(default=2048, ge=1, description="cells in each of the two banks, at most")
    pool: int = Field(default=32768, ge=1, description="good cells, drawn at random, that the good bank is chosen from")
    editing: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="quantile of held-out good cells' distance to good: cells under a mask within it are no defects",
    )
    patch_size: int = Field(default=3, ge=1, description="side of the neighbourhood averaged into a cell's features, cells; odd")
    coverage: float = Field(default=0.3, gt=0, le=1, description="share of a cell under the mask from which it counts as defective")
    cells_per_image: int = Field(default=96, ge=1, description="good cells drawn from every image; all defective ones are taken")


class WeightPlan(StrictModel):
    """How much invented defects have to say in a detector's channels; see `aoi.bench.couplings.weighting`."""

    share: float = Field(
        default=0.5, ge=0, le=1, description="of a PatchCore channel's weight, or of PaDiM's channels, that invented defects decide about"
    )
    faintness: float = Field(default=0.1, gt=0, le=1, description="squared contrast of real defects in units of that of invented ones")
    prior: float = Field(default=0.1, gt=0, description="weight of the assumption that channels see nothing, in units of good variance")
    margin: float = Field(default=1.1, ge=1, description="how many times as much a channel must tell PaDiM as the one it replaces")
    coverage: float = Field(default=0.3, gt=0, le=1, description="share of a cell under the mask from which it counts as defective")
    refit: bool = Field(default=False, description="choose PatchCore's bank anew by the weighted distance instead of keeping its members")
    image_score: Literal["one-class", "refitted"] = Field(default="one-class", description="of the detector alone, or of the refitted one")


class NormalsPlan(StrictModel):
    """Which generated normals a detector learns from, and how many; see `aoi.bench.couplings.normals`."""

    folders: dict[str, Path] = Field(
        default={}, description="by data set, a folder of generated normals, taken instead of the ground around an arm's defects"
    )
    share: float = Field(
        default=0.5, ge=0, le=1, description="of PatchCore's bank that may be added, or of a vote of PaDiM that goes to generated images"
    )
    margin: float = Field(default=32.0, ge=0, description="distance to a defect from which its ground counts as good, pixels of the map")
    limit: float = Field(
        default=0.99, ge=0, le=1, description="quantile of held-out good cells' distance to the bank, beyond which none is added to it"
    )
    novelty: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="quantile of the same distance: a cell nearer than that to the good one it was drawn over is no news to PatchCore",
    )
    cells_per_image: int = Field(default=96, ge=1, description="cells of each generated image that may enter PatchCore's bank")
    image_score: Literal["one-class", "refitted"] = Field(default="one-class", description="of the detector alone, or of the refitted one")


class RealPlan(StrictModel):
    """Which real defects are taken out of the test for the generators `real`, `oracle-mask` and `graft`; see `aoi.bench.material.taken`."""

    per_type: int = Field(
        default=3,
        ge=1,
        le=10_000,
        description="at most so many defects of each type, each of another part; one part at least stays to be tested",
    )
    seed: int = Field(default=0, ge=0, description="that draws them; the same ones for every arm, whatever its own seed")
    texture: str = Field(default="perlin", description="the generator that paints into their masks")
    cama: bool = Field(default=False, description="move their masks to the same place of the part, with a network's features")

    @field_validator("texture")
    @classmethod
    def _texture(cls, name: str) -> str:
        return known_generators((name,))[0]


class DiffusionPlan(StrictModel):
    """What the generator `diffusion` paints, and with what."""

    model: str | None = Field(default=None, description="a folder, a name of `aoi models list`, or a hub name; null for the default")
    sentences: tuple[str, ...] = Field(default=(), description="what is painted, in turn; each names a kind of defect")
    settings: dict[str, Any] = Field(default={}, description="fields of aoi.synth.diffusion.settings.DiffusionSettings")
    leave_out_learnt: bool = Field(
        default=False,
        description="test no image, and no other picture of its part, that the checkpoint learnt from or was chosen on; else the run stops",
    )
