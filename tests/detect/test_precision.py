"""The bound on coarse products holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aoi.detect.precision import UNIT, exact_products, highest_of_nearest, sum_error, thirds


def coarse_halves(rows: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Half the squared distances of rounded rows and points, summed in float32 and rounded themselves."""
    near, far = rows.bfloat16().float(), points.bfloat16().float()
    return (near.square().sum(1)[:, None] / 2 + far.square().sum(1)[None] / 2 - near @ far.T).bfloat16().float()


@pytest.mark.parametrize("spread", [1e-3, 0.1, 30.0, 1e4])
@pytest.mark.parametrize("apart", [1.0, 1e-2, 1e-4])
def test_the_nearest_never_comes_out_higher_than_the_bound(rng: np.random.Generator, spread: float, apart: float) -> None:
    rows = torch.from_numpy((rng.normal(size=(200, 96)) * spread).astype(np.float32))
    points = (rows[:, None] + torch.from_numpy(rng.normal(size=(200, 5, 96)) * spread * apart).float()).flatten(0, 1)
    found, nearest = coarse_halves(rows, points), torch.cdist(rows.double(), points.double()).argmin(1)
    errors = (rows - rows.bfloat16().float()).norm(dim=1) + (points - points.bfloat16().float()).norm(dim=1).max()
    norms = rows.bfloat16().float().norm(dim=1)
    sums = sum_error(norms, points.bfloat16().float().norm(dim=1).max(), 96)
    highest = highest_of_nearest(found.amin(1).clamp_min(0), errors, sums)
    assert bool((found.gather(1, nearest[:, None])[:, 0] <= highest).all())
    if apart == 1:  # and it still tells points apart
        assert float((found <= highest[:, None]).float().mean()) < 0.02


def test_rounding_moves_a_number_by_less_than_a_unit() -> None:
    """The worst there is lies half way above a power of two."""
    worst = torch.tensor([1 + 2.0**-8, 1 + 2.0**-8 + 2.0**-20, 1.99999, 3.3])
    moved = (worst - worst.bfloat16().float()).abs() / worst
    assert bool((moved <= UNIT / (1 + UNIT)).all())
    assert float(moved.max()) > 0.99 * UNIT


def test_three_numbers_of_eight_bits_are_one_of_twenty_four(rng: np.random.Generator) -> None:
    values = torch.from_numpy(np.concatenate([rng.normal(size=500) * 10.0 ** rng.integers(-20, 20, 500), [0.0, 1.0]]).astype(np.float32))
    parts = thirds(values)
    assert parts.dtype == torch.bfloat16
    assert torch.equal(parts.double().sum(1), values.double())


def test_the_precision_of_others_is_restored_after_an_error() -> None:
    def fails() -> None:
        with exact_products(torch.device("cpu")):
            assert torch.get_float32_matmul_precision() == "highest"
            raise RuntimeError

    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(RuntimeError):
            fails()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
