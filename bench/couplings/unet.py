"""The field's segmentation network, its loss and its image score.

AnomalyDiffusion (Hu et al., AAAI 2024, arXiv 2312.05767) measures what generated defects are worth by training a U-Net on them; the
focal loss and the averaged window of the image score come from DRAEM (Zavrtanik et al., ICCV 2021).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

WINDOW = 21
"""Side of the window that the image score averages the map over, pixels."""
PRIOR = 0.01
"""The share of defective pixels a fresh network expects; without it the first steps only learn that most pixels are good."""
LEVELS = 5


class UNet(nn.Module):
    """Ronneberger et al., MICCAI 2015 (arXiv 1505.04597), padded, with batch normalisation.

    Args:
        width: channels of the finest level; the next three double them, the coarsest keeps those of the fourth.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width << min(level, LEVELS - 2) for level in range(LEVELS)]
        self.down = nn.ModuleList(_block(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.rise = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_block(2 * a, a) for a in widths[:-1])
        self.last = nn.Conv2d(width, 1, 1)
        nn.init.constant_(self.last.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]  # Lin et al., §4.1

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits N×S×S, above 0 where a defect is more likely than not.

        Args:
            images: N×3×S×S float32 in [-1, 1], S a multiple of 16.
        """
        passed = []
        found = images
        for level, block in enumerate(self.down):
            found = block(found if level == 0 else functional.max_pool2d(found, 2))
            passed.append(found)
        for level in reversed(range(LEVELS - 1)):
            found = self.up[level](torch.cat([passed[level], self.rise[level](found)], 1))
        logits: torch.Tensor = self.last(found)[:, 0]
        return logits


def _block(inside: int, outside: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inside, outside):
        layers += [nn.Conv2d(channels, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def focal_loss(logits: torch.Tensor, truth: torch.Tensor, *, gamma: float = 2.0, balance: float | None = None) -> torch.Tensor:
    """Mean of `-a (1 - p_t)^gamma log p_t` (Lin et al., ICCV 2017, arXiv 1708.02002, eq. 4 and 5), 0-d.

    Args:
        logits: of any shape, float.
        truth: of the same shape, 1 for defective and 0 for good.
        gamma: how far easy pixels are played down; 0 is the cross entropy.
        balance: `a` of defective pixels, good ones have `1 - a`; None for 1 and 1.
    """
    towards = torch.where(truth > 0.5, logits, -logits)
    # By logarithms: a power of 1 - p_t has no gradient where p_t rounds to 1.
    loss = -(gamma * functional.logsigmoid(-towards)).exp() * functional.logsigmoid(towards)
    if balance is not None:
        loss = loss * (truth * balance + (1 - truth) * (1 - balance))
    return loss.mean()


def pooled_maximum(maps: torch.Tensor, window: int = WINDOW) -> torch.Tensor:
    """The image score of the field: the maximum of the map averaged over a window, N float.

    Beyond the border the map counts as 0, and the mean is over the whole window all the same (DRAEM's `avg_pool2d(…, 21, 1, 10)`).

    Args:
        maps: N×S×S float, 0 where nothing is wrong.
        window: odd, pixels.
    """
    return functional.avg_pool2d(maps[:, None], window, 1, window // 2).amax((1, 2, 3))
