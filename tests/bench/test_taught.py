"""A trained head that another process finds is the same head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from aoi.bench.cache.sharing import Sharing
from aoi.bench.cache.store import Cache
from aoi.bench.couplings.taught import Taught, read_taught
from aoi.detect.features import FeatureSet
from aoi.detect.head import Head
from aoi.errors import DataError


@pytest.fixture
def features() -> FeatureSet:
    rng = np.random.default_rng(0)
    maps = {"fine": rng.normal(size=(3, 5, 8, 8)), "coarse": rng.normal(size=(3, 4, 4, 4))}
    return FeatureSet({name: each.astype(np.float32) for name, each in maps.items()}, (64, 64), tuple(map(Path, "abc")))


@pytest.fixture
def taught(features) -> Taught:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(9, 6), nn.GELU(), nn.Linear(6, 1)).eval().requires_grad_(False)
    head = Head(("fine", "coarse"), 3, torch.randn(9), torch.rand(9) + 0.5, network)
    return Taught(head, head.logits(features), head.logits(features.take([1])))


def test_a_head_that_was_kept_answers_to_the_bit(taught, features, tmp_path) -> None:
    taught.write(tmp_path)
    before = torch.random.get_rng_state()
    found = read_taught(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (found.head.layers, found.head.patch_size) == (("fine", "coarse"), 3)
    np.testing.assert_array_equal(found.head.logits(features), taught.head.logits(features))
    np.testing.assert_array_equal(found.test, taught.test)
    np.testing.assert_array_equal(found.good, taught.good)
    assert not any(each.requires_grad for each in found.head.network.parameters())


def test_another_process_finds_it(taught, features, tmp_path) -> None:
    made = []

    def make() -> Taught:
        made.append(1)
        return taught

    for _ in range(2):  # each with a memory of its own, and the same cache
        sharing = Sharing(Cache(tmp_path), device="cpu")
        for _ in range(2):
            found = sharing.kept("heads", [features, "seed 0"], make, read_taught)
            np.testing.assert_array_equal(found.test, taught.test)
    assert len(made) == 1
    sharing.kept("heads", [features, "seed 1"], make, read_taught)
    assert len(made) == 2


def test_what_is_no_head_is_refused(tmp_path) -> None:
    save_file({"mean": np.zeros(3)}, tmp_path / "head.safetensors")
    with pytest.raises(DataError, match="no head"):
        read_taught(tmp_path)
    (tmp_path / "head.safetensors").write_bytes(b"torn")
    with pytest.raises(DataError, match="is damaged"):
        read_taught(tmp_path)
