"""The bound on coarse products holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aoi.detect.precision import coarse_products, product_error, rounding_errors


@pytest.mark.parametrize("coarse", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("spread", [0.1, 30.0])
def test_no_product_is_farther_off_than_the_bound(rng: np.random.Generator, coarse: bool, spread: float) -> None:
    rows, points = (torch.from_numpy((rng.normal(size=(200, 96)) * spread).astype(np.float32)) for _ in range(2))
    rows[0] = points[0]  # the worst case for rounding is a vector with itself
    with coarse_products(on=coarse, device=rows.device):
        found = rows @ points.T
    exact = rows.double() @ points.double().T
    norms, errors = torch.linalg.vector_norm(rows, dim=1), rounding_errors(rows, coarse=coarse)
    bound = product_error(
        norms, errors, torch.linalg.vector_norm(points, dim=1).max(), rounding_errors(points, coarse=coarse).max(), rows.shape[1]
    )
    assert bool(((found.double() - exact).abs() <= bound[:, None]).all())
    # A bound of a hundredth of the norms still tells points apart.
    assert bool((bound <= 0.01 * norms * torch.linalg.vector_norm(points, dim=1).max()).all())


def test_the_precision_of_others_is_restored_after_an_error() -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(RuntimeError), coarse_products(on=True, device=torch.device("cpu")):
        raise RuntimeError
    assert torch.get_float32_matmul_precision() == before
