"""Max pooling undone: torch's results for one to three axes, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import nn


@pytest.mark.parity
@pytest.mark.parametrize("shape", [(2, 3, 9), (3, 6, 8), (2, 1, 6, 5), (1, 2, 5, 4, 7)])
def test_parity_with_torch(shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    axes = 2 if shape == (3, 6, 8) else len(shape) - 2
    numbers = np.random.default_rng(0).standard_normal(shape)
    found = []
    for t in (ag, torch):
        pool = getattr(t.nn, f"MaxPool{axes}d")(2, return_indices=True)
        unpool = getattr(t.nn, f"MaxUnpool{axes}d")(2)
        x = t.tensor(numbers, requires_grad=True)
        y, positions = pool(x)
        z = unpool(y, positions, output_size=x.shape if any(n % 2 for n in shape[-axes:]) else None)
        (z**3).sum().backward()
        found.append([z.detach().numpy(), x.grad.numpy()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    assert found[0][0].shape == shape


def test_what_does_not_fit() -> None:
    y, positions = nn.MaxPool2d(2, return_indices=True)(ag.randn(1, 4, 4))
    unpool = nn.MaxUnpool2d(2)
    for size in ((6, 4), (4,)):
        with pytest.raises(ValueError, match=r"less than \(2, 2\) from \(4, 4\), got \(\d"):
            unpool(y, positions, size)
    with pytest.raises(ValueError, match=r"shape, got \(1, 2, 2\) and \(2, 2\)"):
        unpool(y, positions[0])
    with pytest.raises(IndexError):
        unpool(y, positions + 16)
