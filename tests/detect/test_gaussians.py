"""Streamed Gaussians in both forms against numpy's covariance in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aoi.detect import gaussians
from aoi.detect.gaussians import GaussianFit


def vectors(rng: np.random.Generator, count: int, dims: int) -> np.ndarray:
    """Features of a trained network: far from zero, a few strong directions, much faint variation; 6×count×dims float32."""
    strong = rng.normal(size=(6, count, 3)) @ rng.normal(size=(6, 3, dims)) * 2
    return (5 + strong + 0.1 * rng.normal(size=(6, count, dims))).astype(np.float32)


@pytest.mark.parametrize(("count", "dims"), [(60, 24), (24, 24), (23, 24), (9, 40), (2, 8)])
def test_distances_equal_those_of_the_inverse_in_float64(rng: np.random.Generator, monkeypatch, count: int, dims: int) -> None:
    monkeypatch.setattr(gaussians, "_SCRATCH", 4000)  # several parts
    known, new = vectors(rng, count + 5, dims)[:, :count], vectors(rng, 30, dims)
    sums = GaussianFit(6, dims, count, "cpu")
    for start in range(0, count, 7):
        sums.add(torch.from_numpy(known[:, start : start + 7]))
    found = sums.finish(0.01).squared(torch.from_numpy(new))
    for position in range(6):
        covariance = np.cov(known[position].astype(np.float64), rowvar=False) + 0.01 * np.eye(dims)
        delta = new[position] - known[position].astype(np.float64).mean(0)
        expected = np.einsum("nd,de,ne->n", delta, np.linalg.inv(covariance), delta)
        np.testing.assert_allclose(found[position], expected, rtol=2e-4)


def test_fewer_images_than_dimensions_take_less_memory() -> None:
    assert GaussianFit(10, 50, 20, "cpu").second.shape == (10, 20, 50)
    assert GaussianFit(10, 50, 50, "cpu").second.shape == (10, 50, 50)


def test_the_mean_itself_is_at_distance_zero(rng: np.random.Generator) -> None:
    for count in (50, 8):
        known = torch.from_numpy(vectors(rng, count, 16))
        sums = GaussianFit(6, 16, count, "cpu")
        sums.add(known)
        fitted = sums.finish(0.01)
        assert float(fitted.squared(fitted.mean[:, None]).max()) < 1e-6
        assert float((fitted.mean - known.mean(1)).abs().max()) < 1e-4


@pytest.mark.parametrize("dims", [6, 40])
def test_a_vote_of_three_is_three_equal_images(rng: np.random.Generator, dims: int) -> None:
    known, new = vectors(rng, 9, dims), torch.from_numpy(vectors(rng, 5, dims))
    counts = rng.integers(0, 4, (6, 9))
    counts[:, 0] = 10 - counts[:, 1:].sum(1).clip(0, 9)
    voting = GaussianFit(6, dims, 9, "cpu", voting=True)
    for part in (slice(0, 4), slice(4, 9)):
        voting.add(torch.from_numpy(known[:, part]), torch.from_numpy(counts[:, part].astype(np.float32)))
    found = voting.finish(0.01).squared(new)
    for position in range(6):
        repeated = torch.from_numpy(np.repeat(known[position], counts[position], axis=0)[None])
        sums = GaussianFit(1, dims, repeated.shape[1], "cpu")
        sums.add(repeated)
        np.testing.assert_allclose(found[position], sums.finish(0.01).squared(new[position][None])[0], rtol=1e-3)
