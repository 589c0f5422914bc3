"""The bound on coarse products holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aoi.detect.precision import exact_products, product_error, rounding_errors, thirds


@pytest.mark.parametrize("coarse", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("spread", [0.1, 30.0])
def test_no_product_is_farther_off_than_the_bound(rng: np.random.Generator, coarse: bool, spread: float) -> None:
    rows, points = (torch.from_numpy((rng.normal(size=(200, 96)) * spread).astype(np.float32)) for _ in range(2))
    rows[0] = points[0]  # the worst case for rounding is a vector with itself
    # A bfloat16 product with float32 sums: what is rounded are the factors.
    found = rows.bfloat16().float() @ points.bfloat16().float().T if coarse else rows @ points.T
    exact = rows.double() @ points.double().T
    norms, errors = torch.linalg.vector_norm(rows, dim=1), rounding_errors(rows, coarse=coarse)
    bound = product_error(
        norms, errors, torch.linalg.vector_norm(points, dim=1).max(), rounding_errors(points, coarse=coarse).max(), rows.shape[1]
    )
    assert bool(((found.double() - exact).abs() <= bound[:, None]).all())
    # A bound of a hundredth of the norms still tells points apart.
    assert bool((bound <= 0.01 * norms * torch.linalg.vector_norm(points, dim=1).max()).all())


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
