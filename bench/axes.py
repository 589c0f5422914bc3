"""The axes of an ablation beside its arms: how many defects, how many good images, what was done to the test images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from aoi.bench.arms import NONE, Condition
from aoi.bench.plan_options import each_once
from aoi.configs.strict import StrictModel

ALL = "all"
"""How a command line says that every good image is used."""


@dataclass(frozen=True, slots=True)
class Stock:
    """What one data set can give."""

    good: int | None = None
    """Good training images; None where that does not matter."""
    supply: Mapping[str, int] = field(default_factory=dict)
    """Defects there are of generators that cannot make more; the others are missing."""


PLENTY = Stock()
"""Nothing is limited."""


class Axes(StrictModel):
    """How many defects, how many good images, which degradations, and how these are combined."""

    count: int = Field(default=300, ge=10, le=1_000_000, description="synthetic defects for each generator and seed")
    amounts: tuple[Annotated[int, Field(ge=0, le=1_000_000)], ...] | None = Field(
        default=None, min_length=1, description="instead of count, several: each arm gets the first of one set; 0 is the baseline"
    )
    shots: tuple[Annotated[int, Field(ge=4)] | None, ...] = Field(
        default=(None,),
        min_length=1,
        description="good training images, drawn by the seed, each draw within the larger ones; null for all",
    )
    degradation: tuple[str, ...] = Field(
        default=(NONE,), min_length=1, description="of the test images: none, noise:SIGMA, jpeg:QUALITY, blur:SIGMA"
    )
    combine: Literal["cross", "each"] = Field(
        default="cross",
        description="cross: everything with everything; each: one axis moves, the others stay at their first entry",
    )

    @field_validator("amounts")
    @classmethod
    def _amounts(cls, amounts: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if amounts is not None and max(amounts) < 2:
            raise ValueError("no amount is above 1, so that no arm would get defects")
        if amounts is not None and 1 in amounts:
            raise ValueError("one defect can be either learnt from or held out; the least amount is 2")
        return None if amounts is None else each_once(amounts, "amount")

    @field_validator("shots", mode="before")
    @classmethod
    def _all_shots(cls, shots: Any) -> Any:
        return tuple(None if each == ALL else each for each in shots) if isinstance(shots, (list, tuple)) else shots

    @field_validator("shots")
    @classmethod
    def _shots(cls, shots: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return each_once(shots, "number of shots")

    @field_validator("degradation")
    @classmethod
    def _degradation(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        from aoi.bench.material.degrade import Degradation

        return each_once(tuple(Degradation.parse(text).name for text in texts), "degradation")

    @model_validator(mode="after")
    def _one_amount(self) -> Axes:
        if self.amounts is not None and "count" in self.model_fields_set and self.count != max(self.amounts):
            raise ValueError(f"count is {self.count} and amounts go up to {max(self.amounts)}: leave one of the two out")
        return self

    @property
    def most(self) -> int:
        """Defects that are made for each generator and seed: the largest amount."""
        return max(self.amounts) if self.amounts is not None else self.count

    def doses(self, supply: int | None = None) -> tuple[int | None, ...]:
        """The amounts that arms are given, ascending; None for all that `most` came to.

        Args:
            supply: defects there are, where no more can be made; larger amounts then are that one.
        """
        wanted = sorted({each for each in self.amounts or (self.count,) if each})
        if supply is not None:
            return tuple(sorted({min(each, supply) for each in wanted}))
        return tuple(None if each == self.most else each for each in wanted)

    def conditions(self, good: int | None = None) -> tuple[Condition, ...]:
        """The circumstances arms are compared under, those of the first entries first.

        Args:
            good: training images there are; as many shots or more are the same as all.
        """
        shots = tuple(dict.fromkeys(0 if each is None or (good is not None and each >= good) else each for each in self.shots))
        if self.combine == "cross":
            return tuple(Condition(few, worse) for few in shots for worse in self.degradation)
        return (*(Condition(few, self.degradation[0]) for few in shots), *(Condition(shots[0], worse) for worse in self.degradation[1:]))

    def points(self, stock: Stock, generators: tuple[str, ...]) -> Iterator[tuple[Condition, dict[str, tuple[int | None, ...]]]]:
        """Every condition with the amounts that each generator's arms get under it."""
        for number, condition in enumerate(self.conditions(stock.good)):
            doses = {name: self.doses(stock.supply.get(name)) for name in generators}
            alone = self.combine == "each" and number > 0
            yield condition, {name: each[-1:] for name, each in doses.items()} if alone else doses
