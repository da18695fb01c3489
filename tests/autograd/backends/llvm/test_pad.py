"""Padding and the gradients of regular parts by kernels: equal to NumPy's to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tallygrad.autograd.array import Spec
from tallygrad.autograd.ops import shape as ops

pytest.importorskip("llvmlite")

from tallygrad.autograd.backends.llvm import registry
from tallygrad.autograd.backends.llvm.compiler.isa import targets
from tallygrad.autograd.backends.llvm.plans import pad

WIDTHS = targets.available()


def images(*shape: int, dtype: str = "float32") -> np.ndarray:
    n, c, h, w = shape
    drawn = np.random.default_rng(3).normal(size=(n, h, w, c)).astype(dtype)
    return drawn.transpose(0, 3, 1, 2)


def check(name: str, primitive: Any, x: np.ndarray, **attrs: Any) -> np.ndarray:
    target = targets.target(name, "auto")
    kernel = registry.find(target, primitive.name, (Spec(x.shape, x.dtype),), attrs)
    assert kernel is not None
    found, wanted = kernel(x), primitive.reference(x, **attrs)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)
    return np.asarray(found)


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3, 16, 21])
def test_pad(name: str, dtype: str, channels: int) -> None:
    x = images(5, channels, 24, 19, dtype=dtype)
    for widths in (((0, 0), (4, 5), (0, 0), (0, 0)), ((0, 0), (0, 30), (2, 1), (3, 20))):
        if dtype == "float32" or channels > 1:
            y = check(name, ops.pad, np.concatenate([x] * 4), widths=widths, value=0.0)
            assert y.strides[1] == y.itemsize


@pytest.mark.parametrize("name", WIDTHS)
def test_parts_of_every_kind(name: str) -> None:
    whole = (6, 20, 32, 33)
    for parts in (
        ((0, 6, 1), (0, 20, 1), (0, 32, 2), (0, 33, 2)),
        ((0, 6, 1), (3, 19, 1), (1, 30, 3), (5, 33, 4)),
        ((0, 6, 1), (7, 8, 1), (31, 32, 1), (32, 33, 1)),
    ):
        sizes = [len(range(*s)) for s in parts]
        check(name, ops.putslice, images(*sizes), slices=parts, shape=whole)
        part = images(*whole)[tuple(slice(*s) for s in parts)]  # not dense
        check(name, ops.putslice, part, slices=parts, shape=whole)
        check(name, ops.putslice, np.ascontiguousarray(part), slices=parts, shape=whole)


def test_what_has_no_kernel() -> None:
    target, x = targets.target("", "auto"), Spec((8, 16, 16, 16), np.dtype("f"))
    whole = ((0, 8, 1), (0, 16, 1), (0, 32, 2), (0, 32, 2))
    assert pad.putslice(target, x, slices=whole, shape=(8, 16, 32, 32))
    turned = (*whole[:2], (30, -1, -2), whole[3])
    assert pad.putslice(target, x, slices=turned, shape=(8, 16, 32, 32)) is None
    fewer = ((0, 16, 2), *whole[1:])
    assert pad.putslice(target, x, slices=fewer, shape=(16, 16, 32, 32)) is None
    border = ((0, 0), (0, 0), (1, 1), (1, 1))
    assert pad.pad(target, x, widths=border, value=0.0)
    assert pad.pad(target, x, widths=border, value=1.0) is None
