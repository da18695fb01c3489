"""Layer and RMS norm on every target: rows that fill no vectors, long ones, far from zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from tallygrad.autograd.backends.llvm.compiler.isa import targets


def channels_last(x: Any) -> Any:
    """Return x (N, C, ..) with its channels last in memory."""
    return np.moveaxis(np.moveaxis(x, 1, -1).copy(), -1, 1)


def run(
    backend: str, x: Any, dy: Any, centered: bool = True, groups: int = 0
) -> tuple[list[Any], set[tuple[str, str]]]:
    """Return y and the gradient of x, and the backend of each standardization: of the last axis, or
    of groups of channels."""
    norm = ag.layer_norm if centered else ag.rms_norm
    with context.using(backend=backend, ledger=ag.Ledger()) as state:
        t = ag.from_numpy(x).requires_grad_()
        y = ag.group_norm(t, groups) if groups else norm(t, x.shape[-1], eps=1e-5)
        y.backward(ag.from_numpy(dy))
        assert t.grad is not None
        keys = {(r.key.primitive, r.key.backend) for r in state.ledger}
        return [y.numpy(), t.grad.numpy()], {k for k in keys if k[0].startswith("standardize")}


@pytest.mark.parametrize("target", targets.available())
@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(3, 1), (5, 37), (2, 2500)])
def test_rows_of_any_length(rows: int, columns: int, centered: bool, target: str) -> None:
    draw = np.random.default_rng(0)
    for dtype, within in ((np.float32, 3e-6), (np.float64, 1e-13)):
        x, dy = draw.standard_normal((2, rows, columns)).astype(dtype)
        expected, _ = run("numpy", x, dy, centered)
        found, keys = run(f"llvm:{target}", x, dy, centered)
        assert keys == {("standardize", "llvm"), ("standardize_dx", "llvm")}
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=within * max(1, np.abs(b).max()))


@pytest.mark.parametrize("target", targets.available())
@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize(("shape", "groups"), [
    ((3, 6, 5, 7), 3), ((40, 36, 11, 9), 1), ((2, 65, 3), 65), ((1, 16, 1, 1), 2), ((4, 6), 2),
])  # fmt: skip
def test_groups_of_channels(shape: tuple[int, ...], groups: int, turned: bool, target: str) -> None:
    draw = np.random.default_rng(0)
    for dtype, within in ((np.float32, 3e-6), (np.float64, 1e-13)):
        x, dy = draw.standard_normal((2, *shape)).astype(dtype)
        x[:, 0] += 5  # a channel unlike the others
        if turned:
            x, dy = channels_last(x), channels_last(dy)
        expected, _ = run("numpy", x, dy, groups=groups)
        found, keys = run(f"llvm:{target}", x, dy, groups=groups)
        assert keys == {("standardize", "llvm"), ("standardize_dx", "llvm")}
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=within * max(1, np.abs(b).max()))


@pytest.mark.parametrize("target", targets.available())
def test_a_mean_far_from_zero_costs_no_accuracy(target: str) -> None:
    draw = np.random.default_rng(1)
    x = (draw.standard_normal((4, 1500)) + 1e4).astype(np.float32)
    x[3, 0] = 0.0  # a first number unlike the others
    exact = x.astype(np.float64)
    exact -= exact.mean(1, keepdims=True)
    exact /= np.sqrt(np.square(exact).mean(1, keepdims=True) + 1e-5)
    (y, _), _ = run(f"llvm:{target}", x, x, True)
    np.testing.assert_allclose(y, exact, rtol=0, atol=2e-5)
    np.testing.assert_allclose(y[:3], exact[:3], rtol=0, atol=2e-6)


@pytest.mark.parametrize(("shape", "groups"), [((512, 600), 0), ((16, 32, 15, 15), 4)])
def test_threads_give_the_same_bits_and_axes_in_any_order(
    shape: tuple[int, ...], groups: int
) -> None:
    draw = np.random.default_rng(2)
    x, dy = draw.standard_normal((2, *shape)).astype(np.float32)
    if groups:
        x, dy = channels_last(x), channels_last(dy)
    before, results = ag.get_num_threads(), []
    try:
        for threads, turned in ((1, False), (3, False), (1, True)):
            ag.set_num_threads(threads)
            a, b = (np.asfortranarray(v) if turned else v for v in (x, dy))
            results.append(run("llvm", a, b, groups=groups)[0])
    finally:
        ag.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(a, b)
