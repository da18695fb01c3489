"""Layer and RMS norm on every target: rows that fill no vectors, long ones, far from zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from tallygrad.autograd.backends.llvm.compiler.isa import targets


def run(backend: str, x: Any, dy: Any, centered: bool) -> tuple[list[Any], set[tuple[str, str]]]:
    """Return y and the gradient of x, and the backend of each standardization."""
    norm = ag.layer_norm if centered else ag.rms_norm
    with context.using(backend=backend, ledger=ag.Ledger()) as state:
        t = ag.from_numpy(x).requires_grad_()
        y = norm(t, x.shape[-1], eps=1e-5)
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


def test_threads_give_the_same_bits_and_columns_in_any_order() -> None:
    draw = np.random.default_rng(2)
    x, dy = draw.standard_normal((2, 512, 600)).astype(np.float32)
    before, results = ag.get_num_threads(), []
    try:
        for threads, turned in ((1, False), (3, False), (1, True)):
            ag.set_num_threads(threads)
            a, b = (np.asfortranarray(v) if turned else v for v in (x, dy))
            results.append(run("llvm", a, b, True)[0])
    finally:
        ag.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(a, b)
