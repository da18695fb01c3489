"""Kernels of local response normalisation, and the logarithm, against NumPy, for all targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from tallygrad.autograd.array import NDArray, Spec
from tallygrad.autograd.backends.llvm import registry
from tallygrad.autograd.backends.llvm.compiler import jit
from tallygrad.autograd.backends.llvm.compiler.isa import targets
from tallygrad.autograd.backends.llvm.compiler.language import KernelBuilder
from tallygrad.autograd.backends.llvm.compiler.mathematics import log
from tallygrad.autograd.backends.llvm.runtime.layout import layout_stats
from tallygrad.autograd.ops import lrn
from tallygrad.autograd.primitive import Primitive

# Shapes with channels that fill vectors, leave a rest or are fewer than a window's; window; alpha,
# beta, k. Powers are quarters, whole, none, or of a logarithm.
CASES: list[tuple[tuple[int, ...], int, tuple[float, float, float]]] = [
    ((2, 5, 3, 3), 5, (1e-1, 0.75, 1.0)),
    ((3, 16, 2, 2), 5, (1.0, 0.75, 2.0)),
    ((3, 33, 3, 1), 4, (1.0, 0.5, 1.0)),
    ((2, 7, 1, 3), 1, (1.0, 1.0, 1.0)),
    ((2, 1, 3, 3), 3, (1.0, 0.25, 1.0)),
    ((2, 37, 5), 9, (0.5, 0.6, 1.0)),
    ((1, 130, 2, 2, 2), 22, (2.0, 3.1, 0.5)),
    ((2, 6, 3, 3), 40, (1.0, -0.75, 1.0)),
    ((2, 6, 3, 3), 3, (1.0, 0.0, 1.0)),
    ((17, 9, 1, 1), 2, (1.0, -2.3, 1.0)),
    ((2, 9, 3, 3), 3, (1.0, 2.0, -20.0)),
]


@pytest.fixture(params=targets.available())
def target(request: pytest.FixtureRequest) -> targets.Target:
    return targets.target(request.param)


def run(target: targets.Target, p: Primitive, *arrays: NDArray, **attrs: Any) -> Any:
    """Run a primitive's kernel, which must be there."""
    specs = tuple(Spec(a.shape, a.dtype) for a in arrays)
    kernel = registry.find(target, p.name, specs, attrs)
    assert kernel is not None
    return kernel(*arrays)


def last(x: NDArray) -> NDArray:
    """Return x with its channels last in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def near(found: NDArray, expected: NDArray, steps: float = 32) -> None:
    assert found.dtype == expected.dtype
    scale = float(np.abs(expected).max())
    limit = steps * float(np.finfo(expected.dtype).eps) * scale
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "size", "numbers"), CASES)
def test_response_norm_equals_numpy(
    target: targets.Target,
    shape: tuple[int, ...],
    size: int,
    numbers: tuple[float, ...],
    dtype: Any,
) -> None:
    attrs = {"size": size, "alpha": numbers[0], "beta": numbers[1]}
    x, dy = np.random.default_rng(0).standard_normal((2, *shape)).astype(dtype)
    y, s = lrn.local_response_norm.reference(x, **attrs, k=numbers[2])
    moves = layout_stats.copies
    found = run(target, lrn.local_response_norm, last(x), **attrs, k=numbers[2])
    for a, b in zip(found, (y, s), strict=True):
        near(a, b)
        assert np.moveaxis(a, 1, -1).flags.c_contiguous
    dx = lrn.lrn_dx.reference(dy, x, s, **attrs)
    near(run(target, lrn.lrn_dx, last(dy), last(x), last(s), **attrs), dx)
    assert layout_stats.copies == moves
    near(run(target, lrn.lrn_dx, dy, x, s, **attrs), dx)


def test_what_is_not_a_number_stays_in_its_windows(target: targets.Target) -> None:
    x = np.ones((9, 20, 2, 2), np.float32)
    x[4, 7, 1, 0] = np.nan
    attrs = {"size": 5, "alpha": 1.0, "beta": 0.75}
    y, s = run(target, lrn.local_response_norm, last(x), **attrs, k=1.0)
    expected = np.zeros(x.shape, bool)
    expected[4, 5:10, 1, 0] = True
    np.testing.assert_array_equal(np.isnan(y), expected)
    dx = run(target, lrn.lrn_dx, np.ones_like(x), last(x), s, **attrs)
    expected[4, 3:12, 1, 0] = True
    np.testing.assert_array_equal(np.isnan(dx), expected)
    # No trace is left for the next call.
    y, _ = run(target, lrn.local_response_norm, np.ones_like(x), **attrs, k=1.0)
    assert np.isfinite(y).all()


def test_large_whole_powers_and_mixed_types_are_left_to_numpy(target: targets.Target) -> None:
    one, two = Spec((2, 3, 4, 4), np.dtype(np.float32)), Spec((2, 3, 4, 4), np.dtype(np.float64))
    attrs = {"size": 3, "alpha": 1.0}
    name = "local_response_norm"
    assert registry.find(target, name, (one,), {**attrs, "beta": 5.0, "k": -1.0}) is None
    assert registry.find(target, "lrn_dx", (one, one, one), {**attrs, "beta": 5.0}) is None
    assert registry.find(target, "lrn_dx", (two, one, one), {**attrs, "beta": 0.75}) is None


def logarithms(target: targets.Target, dtype: str, size: int) -> KernelBuilder:
    k = KernelBuilder(target, dtype, ("x", "y"))
    x, y = k.arguments
    with k.loop(size // k.lanes) as i:
        k.store(log(k, k.load(k.at(x, (i, k.lanes)))), k.at(y, (i, k.lanes)))
    return k


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logarithms(target: targets.Target, dtype: str) -> None:
    info = np.finfo(dtype)
    rng = np.random.default_rng(0)
    odd = [0.0, -0.0, -1.0, np.inf, -np.inf, np.nan, 1.0, info.tiny, info.tiny / 4, info.max]
    near_one, wide = 1 + rng.standard_normal(1000) / 8, rng.uniform(-1, 1, 998)
    x = np.concatenate([odd, near_one, 2.0 ** (wide * -info.minexp)])
    x = np.concatenate([x, np.ones(-len(x) % 16)]).astype(dtype)
    y = np.empty_like(x)
    jit.build(logarithms, target, dtype, len(x))(x.ctypes.data, y.ctypes.data)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = np.log(x)
    np.testing.assert_allclose(y, expected, rtol=4 * info.eps, atol=0)
