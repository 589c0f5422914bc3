"""LPIPS against torchmetrics' implementation with the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aoi.errors import BackendUnavailable, ModelError
from aoi.metrics.lpips import HEADS_NAMES, SQUEEZENET_NAMES, Lpips


@pytest.fixture(scope="module")
def lpips(shared_weights) -> Lpips:
    return Lpips.load(shared_weights)


def test_it_equals_torchmetrics(lpips, rng):
    from torchmetrics.functional.image.lpips import _LPIPS

    theirs = _LPIPS(pretrained=True, net="squeeze", pnet_rand=True, use_dropout=True).eval()
    for theirs_stage, mine in zip(theirs.net.slices, lpips.stages, strict=True):
        theirs_stage.load_state_dict(dict(zip(theirs_stage.state_dict(), mine.state_dict().values(), strict=True)))
    a, b = (torch.from_numpy(rng.uniform(-1, 1, (3, 3, 70, 64)).astype(np.float32)) for _ in range(2))
    torch.testing.assert_close(lpips(a, b), theirs(a, b).flatten(), rtol=1e-4, atol=1e-5)


def test_equal_images_have_no_distance_and_the_mask_decides_what_counts(lpips, rng):
    a = rng.integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    b = a.copy()
    b[:, :20, :20] = 255 - b[:, :20, :20]
    assert lpips.distance(a, a) == pytest.approx(0, abs=1e-7)
    near, far = np.zeros((2, 2, 64, 64), bool)
    near[:, :20, :20], far[:, 44:, 44:] = True, True
    assert (lpips.masked(a, b, near) > 3 * lpips.masked(a, b, far)).all()
    assert lpips.masked(a, b, np.zeros_like(near)) == pytest.approx(0)
    assert lpips.map(a, b).shape == (2, 64, 64)


def test_it_can_be_learnt_from(lpips):
    a = torch.zeros(1, 3, 64, 64, requires_grad=True)
    lpips(a, torch.ones(1, 3, 64, 64)).sum().backward()
    assert a.grad is not None
    assert float(a.grad.abs().sum()) > 0


def test_missing_and_damaged_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("AOI_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.hub.set_dir(str(tmp_path / "hub"))
    with pytest.raises(BackendUnavailable) as caught:
        Lpips.load(tmp_path)
    assert SQUEEZENET_NAMES[0] in caught.value.hint
    (tmp_path / SQUEEZENET_NAMES[0]).write_bytes(b"torn")
    (tmp_path / HEADS_NAMES[0]).write_bytes(b"torn")
    with pytest.raises(ModelError, match="cannot be read"):
        Lpips.load(tmp_path)
