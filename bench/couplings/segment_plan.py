"""How the coupling `segment` trains its network: the options of a plan, without torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from aoi.configs.strict import StrictModel

LEAKING = "segment-legacy"
"""What the coupling `segment` is called in every table where it follows the field's leaking protocol."""
Protocol = Literal["clean", "legacy"]


class SegmentPlan(StrictModel):
    """The segmentation network that the field trains on pairs of invented images and masks; see `aoi.bench.couplings.segment`.

    The field's own size is `width: 64`, `learning_rate: 1e-4` and 200 epochs over all defects; the defaults are what two cores can do in
    about a minute an arm.
    """

    protocol: Literal["clean", "legacy", "both"] = Field(
        default="clean",
        description="clean chooses the epoch on held-out invented defects; legacy on the test images, which leaks and proves nothing",
    )
    side: int = Field(default=256, ge=32, le=1024, multiple_of=16, description="of the square that the network sees, pixels")
    width: int = Field(default=8, ge=2, le=256, description="channels of the finest level, doubled at each of the next three")
    epochs: int = Field(default=6, ge=1, le=10_000, description="after each of which the network is judged; the best one is kept")
    steps: int = Field(
        default=20, ge=1, le=1_000_000, description="an epoch, whatever the amount of defects, so that all arms cost the same"
    )
    batch: int = Field(default=8, ge=2, le=1024)
    good_share: float = Field(default=0.5, ge=0, lt=1, description="of a batch that are good images")
    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="of Adam; the field's 1e-4 wants its many epochs")
    gamma: float = Field(default=2.0, ge=0, le=10, description="of the focal loss")
    balance: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="weight of defective pixels, good ones have the rest; null for none"
    )
    judged: int = Field(default=32, ge=1, description="at most so many held-out defects, and as many good images, judge an epoch")
    minutes: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="of training after which no further epoch begins; the result then depends on the machine. null for no limit",
    )

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """Those that are run."""
        return ("clean", "legacy") if self.protocol == "both" else (self.protocol,)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers of an arm apart from its protocol, JSON-ready."""
        return self.model_dump(mode="json", exclude={"protocol"})

    @property
    def couplings(self) -> tuple[str, ...]:
        """What they are called in tables."""
        return tuple(LEAKING if protocol == "legacy" else "segment" for protocol in self.protocols)
