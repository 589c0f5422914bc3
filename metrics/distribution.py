"""How far two sets of pictures are apart: KID and FID of their features, and the diversity of one set around another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aoi.errors import DataError


def kid(real: np.ndarray, synthetic: np.ndarray, *, subsets: int, subset_size: int, seed: int) -> tuple[float, float]:
    """Kernel inception distance: squared maximum mean discrepancy under the kernel (x·y/D + 1)³, unbiased (Bińkowski et al., ICLR 2018).

    Args:
        real, synthetic: N×D and M×D features.
        subsets: how many random subsets of both are compared.
        subset_size: of each, at most N and M, at least 2.
        seed: draws the subsets.

    Returns:
        Mean and standard deviation over the subsets; the field reports them times 1000.

    Raises:
        DataError: a set has fewer than two pictures.
    """
    import torch
    from torchmetrics.image.kid import poly_mmd

    size = min(subset_size, len(real), len(synthetic))
    if size < 2:
        raise DataError("KID needs two pictures of each side", hint="generate more, or score a larger set")
    rng = np.random.default_rng(seed)
    a, b = torch.from_numpy(real.astype(np.float64)), torch.from_numpy(synthetic.astype(np.float64))
    found = [
        float(poly_mmd(a[torch.from_numpy(rng.permutation(len(a))[:size])], b[torch.from_numpy(rng.permutation(len(b))[:size])]))
        for _ in range(subsets)
    ]
    return float(np.mean(found)), float(np.std(found))


def fid(real: np.ndarray, synthetic: np.ndarray) -> float:
    """Fréchet distance of two Gaussians fitted to features (Heusel et al., NeurIPS 2017); biased upwards for sets smaller than D.

    Args:
        real, synthetic: N×D and M×D features, N and M at least 2.
    """
    import torch
    from torchmetrics.image.fid import _compute_fid

    if min(len(real), len(synthetic)) < 2:
        raise DataError("FID needs two pictures of each side", hint="generate more, or score a larger set")
    moments = []
    for features in (real, synthetic):
        values = torch.from_numpy(features.astype(np.float64))
        moments += [values.mean(0), torch.cov(values.T)]
    return max(0.0, float(_compute_fid(*moments)))


def within_clusters(nearest: np.ndarray, distance: Callable[[int, int], float], *, most_pairs: int, seed: int) -> tuple[float | None, int]:
    """Mean distance of pairs of synthetic pictures that share their nearest real one (IC-LPIPS; Ojha et al., CVPR 2021).

    Args:
        nearest: M int, the nearest real picture of each synthetic one.
        distance: of two synthetic pictures by number.
        most_pairs: measured in one cluster; more are sampled.
        seed: draws them.

    Returns:
        The mean over clusters of two or more (None if there is none), and how many those are.
    """
    rng, means = np.random.default_rng(seed), []
    for cluster in np.unique(nearest):
        members = np.flatnonzero(nearest == cluster)
        pairs = [(int(a), int(b)) for i, a in enumerate(members) for b in members[i + 1 :]]
        if len(pairs) > most_pairs:
            pairs = [pairs[i] for i in rng.choice(len(pairs), most_pairs, replace=False)]
        if pairs:
            means.append(float(np.mean([distance(a, b) for a, b in pairs])))
    return (float(np.mean(means)) if means else None), len(means)
