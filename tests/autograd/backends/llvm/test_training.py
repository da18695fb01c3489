"""What kernels' rounding does to a training: gradients of one step, and a hundred losses."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import backends, context, models, nn, optim

pytest.importorskip("llvmlite")

from tallygrad.autograd.backends.llvm import Llvm
from tallygrad.autograd.backends.llvm.compiler.isa import targets
from tallygrad.autograd.nn.flat import flatten, gradient_order

BATCH, SHAPE = 16, (3, 32, 32)
PATTERNS = np.random.default_rng(0).normal(size=(10, *SHAPE)).astype("f")


@pytest.fixture(autouse=True)
def _small_tiles_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Winograd's method with tiles of 2x2 results alone under a name."""
    target = replace(targets.target(), convolution="winograd2")
    monkeypatch.setitem(backends._loaded, "llvm:2x2", Llvm(target))


def batch(number: int, dtype: str) -> tuple[ag.Tensor, ag.Tensor]:
    """Return noisy patterns, channels-last as from the loader, and their classes."""
    draw = np.random.default_rng((1, number))
    labels = draw.integers(0, 10, BATCH)
    x = PATTERNS[labels] * 0.5 + draw.normal(size=(BATCH, *SHAPE))
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1), dtype)
    return ag.from_numpy(last.transpose(0, 3, 1, 2)), ag.from_numpy(labels)


def resnet(dtype: str) -> nn.Module:
    ag.manual_seed(0)
    model = models.create("resnet20", input_shape=SHAPE, classes=10).astype(np.dtype(dtype))
    return model.train()


@cache
def gradients(backend: str, dtype: str = "float32") -> np.ndarray:
    """Return all gradients of one step in one array."""
    with context.using(backend=backend):
        model = resnet(dtype)
        x, labels = batch(0, dtype)
        ag.cross_entropy(model(x), labels).backward()
        found = [p.grad.numpy().ravel() for p in model.parameters() if p.grad is not None]
    assert len(found) == 59
    return np.concatenate(found).astype("float64")


@pytest.mark.parametrize(
    ("backend", "dtype", "bound"),
    [
        ("numpy", "float32", 1.9e-3),
        ("llvm:direct", "float32", 1.9e-3),
        ("llvm:2x2", "float32", 2.9e-3),
        ("llvm", "float32", 5.8e-3),
        ("llvm:winograd", "float32", 5.8e-3),
        ("llvm", "float64", 1e-11),
    ],
)
def test_gradients_of_a_step(backend: str, dtype: str, bound: float) -> None:
    exact = gradients("numpy", "float64")
    off = gradients(backend, dtype) - exact
    error = np.linalg.norm(off) / np.linalg.norm(exact)
    assert error < bound
    assert error > (1e-7 if dtype == "float32" else 0)  # rounded so, not the same numbers


@cache
def losses(backend: str) -> np.ndarray:
    """Return the losses of a hundred steps."""
    with context.using(backend=backend):
        model, found = resnet("float32"), []
        order = gradient_order(
            lambda: ag.cross_entropy(model(ag.zeros(2, *SHAPE)), ag.zeros(2, dtype=np.int64)),
            [*model.parameters()],
        )
        sgd = optim.SGD(flatten(order), 0.005, momentum=0.9)
        for number in range(100):
            x, labels = batch(number, "float32")
            loss = ag.cross_entropy(model(x), labels)
            loss.backward()
            sgd.step()
            sgd.zero_grad()
            found.append(loss.item())
    return np.array(found)


@pytest.mark.parametrize("backend", ["llvm:direct", "llvm:2x2", "llvm", "llvm:winograd"])
def test_a_hundred_losses(backend: str) -> None:
    """Rounding grows from step to step, so later ones are compared ten by ten."""
    expected, found = losses("numpy"), losses(backend)
    assert expected[-10:].mean() < expected[:10].mean() - 0.2
    np.testing.assert_allclose(found[:10], expected[:10], rtol=0, atol=1e-3)
    tens = [x.reshape(10, 10).mean(1) for x in (found, expected)]
    np.testing.assert_allclose(*tens, rtol=0, atol=0.03)
    assert (found != expected).any()
