"""Kernels that read and write bfloat16: those of single operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from tallygrad.autograd.array import Spec
from tallygrad.autograd.backends.llvm.compiler import mathematics
from tallygrad.autograd.backends.llvm.compiler.isa import targets
from tallygrad.autograd.backends.llvm.compiler.jit import build
from tallygrad.autograd.backends.llvm.compiler.language import KernelBuilder
from tallygrad.autograd.backends.llvm.registry import find
from tallygrad.autograd.backends.llvm.runtime.layout import address
from tallygrad.autograd.dtypes import FLOAT32, bfloat16
from tallygrad.autograd.ops import activation, elementwise, reduce
from tallygrad.autograd.primitive import Primitive


@pytest.fixture(params=targets.available())
def target(request: pytest.FixtureRequest) -> targets.Target:
    return targets.target(request.param)


def kernel(target: targets.Target, p: Primitive, x: np.ndarray, **attrs: Any) -> Any:
    """Return the kernel for a call, which there must be."""
    plan = find(target, p.name, (Spec(x.shape, x.dtype),), attrs)
    assert plan is not None and plan.native
    return plan


def test_sums_of_bfloat16_are_those_of_float32(target: targets.Target) -> None:
    for shape in ((6, 7, 5, 20), (131, 77), (3000,)):
        x = np.random.default_rng(0).standard_normal(shape).astype("f4").astype(bfloat16())
        axes = tuple(range(len(shape) - 1)) or (0,)
        got = kernel(target, reduce.sum, x, axes=axes, wide=True)(x)
        wide = x.astype("f4")
        wanted = kernel(target, reduce.sum, wide, axes=axes)(wide)
        assert got.dtype == np.float32 and got.tobytes() == wanted.tobytes()
        assert np.abs(got - wide.sum(axes, dtype="f8")).max() < 1e-3


def test_tanh_of_bfloat16(target: targets.Target) -> None:
    """At most one in 200 numbers is rounded to the other side."""
    every = np.arange(1 << 16, dtype=np.uint16).view(bfloat16())
    sizes = np.abs(every.astype("f4"))
    x = every[(sizes > 2**-6) & (sizes < 4)]
    got = kernel(target, activation.tanh, x)(x)
    wanted = np.tanh(x.astype("f8")).astype("f4").astype(bfloat16())
    assert (got != wanted).mean() < 0.005
    np.testing.assert_allclose(got.astype("f4"), wanted.astype("f4"), rtol=2**-7)
    special = np.repeat(np.array([np.nan, np.inf, -np.inf, 0, 1e-30, -90], bfloat16()), 64)
    got = kernel(target, activation.tanh, special)(special).astype("f4")
    np.testing.assert_allclose(got[::64], [np.nan, 1, -1, 0, 1e-30, -1], rtol=2**-8)


def test_few_numbers_are_cast_by_kernels(target: targets.Target) -> None:
    """A captured step would leave its compiled loop for NumPy."""
    for source, to in ((bfloat16(), FLOAT32), (FLOAT32, bfloat16())):
        plan = find(target, "cast", (Spec((3,), source),), {"dtype": to})
        assert plan is not None and plan.native
        numbers = np.array([1, -2.5, 3], source)
        assert plan(numbers).dtype == to and plan(numbers).tolist() == [1, -2.5, 3]


def test_the_quotient_for_tanh_is_as_near_as_it_says() -> None:
    x = np.linspace(1e-3, mathematics.NEARLY_ONE, 20_001)
    top, bottom = (np.polyval(numbers[::-1], x * x) for numbers in mathematics.RATIO)
    found = x * top / bottom
    assert np.abs(found / np.tanh(x) - 1).max() < 2**-19
    assert abs(found[-1] - 1) < 2**-19  # which stands for all larger ones
    assert np.abs(found - np.tanh(x)).max() / 2 < 2**-20  # of a gate, half of it and half


def test_exponentials_of_bfloat16(target: targets.Target) -> None:
    """At most one in 200 numbers is rounded to the other side."""
    every = np.arange(1 << 16, dtype=np.uint16).view(bfloat16())
    x = every[np.abs(every.astype("f4")) < 80]
    x = x[np.abs(x.astype("f4")) > 2**-6]
    got = kernel(target, elementwise.exp, x)(x)
    wanted = np.exp(x.astype("f8")).astype("f4").astype(bfloat16())
    assert (got != wanted).mean() < 0.005
    np.testing.assert_allclose(got.astype("f4"), wanted.astype("f4"), rtol=2**-7)


def partial_copy(target: targets.Target, count: int) -> KernelBuilder:
    """Return a kernel that copies the first numbers of a vector."""
    k = KernelBuilder(target, bfloat16(), ("x", "y"))
    x, y = k.arguments
    k.store(k.load(x, count), y, count)
    return k


def test_parts_of_vectors_touch_nothing_else(target: targets.Target) -> None:
    for count in range(1, target.lanes(bfloat16())):
        x = np.arange(1, 33, dtype="f4").astype(bfloat16())
        y = np.full(32, -1, bfloat16())
        build(partial_copy, target, count)(*(address(a) for a in (x, y)))
        assert y.tolist() == [*range(1, count + 1), *[-1] * (32 - count)]
