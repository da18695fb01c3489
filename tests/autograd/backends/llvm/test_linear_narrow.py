"""Products of bfloat16 without tiles: they have the bits of float32's products, rounded once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product as pairs
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd.array import Spec
from tallygrad.autograd.dtypes import bfloat16

pytest.importorskip("llvmlite", reason="llvmlite is not installed")
pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")

from tallygrad.autograd.backends.llvm.compiler.isa import targets
from tallygrad.autograd.backends.llvm.plans import linear
from tallygrad.autograd.backends.llvm.runtime import layout

WIDTHS = targets.available()
# Rows, inner axis, columns: one panel and many, one piece of the inner axis and several, of even
# and odd length; the last two have long rows of b.
SIZES = [
    (37, 150, 75), (200, 33, 100), (3, 20, 70), (64, 401, 9), (33, 1, 40), (5, 700, 130),
    (40, 160, 2100), (5, 40, 2100),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _all_sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let kernels do products that are too small to gain by them."""
    before = ag.get_num_threads()
    monkeypatch.setattr(linear, "LEAST", 1)
    yield
    ag.set_num_threads(before)


def drawn(*shape: int, turned: bool = False) -> np.ndarray:
    """Draw numbers of bfloat16, an odd place behind where vectors begin."""
    rng, size = np.random.default_rng(len(shape) + shape[0]), int(np.prod(shape))
    numbers = np.empty(size + 1, bfloat16())[1:].reshape(shape[::-1] if turned else shape)
    numbers[...] = rng.standard_normal(numbers.shape)
    return numbers.T if turned else numbers


def result(name: str, width: str, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
    specs = [Spec(a.shape, a.dtype) for a in arrays]
    kernel = getattr(linear, name)(targets.target(width), *specs, **attrs)
    assert kernel is not None
    return kernel(*arrays)


def check(name: str, width: str, *arrays: np.ndarray, wide: bool = False) -> None:
    expected = result(name, width, *(a.astype(np.float32) for a in arrays))
    found = result(name, width, *arrays, **({"wide": True} if wide else {}))
    assert found.dtype == (np.float32 if wide else bfloat16())
    np.testing.assert_array_equal(found, expected.astype(found.dtype))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("sizes", SIZES)
def test_layers_are_those_of_float32_rounded_once(sizes: tuple[int, int, int], width: str) -> None:
    n, c, m = sizes
    check("linear", width, drawn(n, c), drawn(m, c))
    check("linear", width, drawn(n, c), drawn(m, c), drawn(m))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("turned", [*pairs([False, True], repeat=2)])
@pytest.mark.parametrize("sizes", SIZES)
def test_products_are_those_of_float32_in_every_layout(
    sizes: tuple[int, int, int], turned: tuple[bool, bool], width: str
) -> None:
    n, c, m = sizes
    x, w, before = drawn(n, c, turned=turned[0]), drawn(c, m, turned=turned[1]), layout.layout_stats
    copies = before.read()
    check("matmul", width, x, w)
    check("matmul", width, x, w, wide=True)
    assert before.read() == copies


@pytest.mark.parametrize("widened", [0, 1 << 20])
@pytest.mark.parametrize("sizes", [(150, 40, 90), (40, 60, 700), (300, 130, 40), (40, 160, 2100)])
def test_neither_threads_nor_where_a_matrix_is_widened_change_a_bit(
    sizes: tuple[int, int, int], widened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, c, m = sizes
    x, w, b, dy = drawn(n, c), drawn(m, c), drawn(m), drawn(n, m)
    monkeypatch.setattr(linear, "WIDENED", widened)
    monkeypatch.setattr(linear, "WORTHWHILE", 1)
    for threads in (1, 3):
        ag.set_num_threads(threads)
        check("linear", WIDTHS[0], x, w, b)
        check("matmul", WIDTHS[0], dy, w)
        check("matmul", WIDTHS[0], dy.T, x, wide=True)


def test_parts_of_matrices_and_stacks_of_rows_are_products_too() -> None:
    x, w, wide = drawn(4, 50, 30), drawn(30, 70), drawn(50, 60)
    check("matmul", WIDTHS[0], x, w)
    check("matmul", WIDTHS[0], x.transpose(1, 0, 2), w)
    check("matmul", WIDTHS[0], wide[:, ::2], w)
    check("matmul", WIDTHS[0], x[0], w[:, ::-1])


def test_nothing_beside_the_result_is_written() -> None:
    for (n, c, m), turned in pairs(SIZES, (False, True)):
        x, w = drawn(n, c), drawn(m, c) if turned else drawn(c, m)
        run = linear._products(targets.target(), (n, c, m), "bfloat16", False, turned)
        y = np.full(n * m + 200, np.nan, bfloat16())
        inner = y[100 : 100 + n * m]
        run(*(layout.address(a) for a in (x, w, w, inner)))
        outside = np.concatenate([y[:100], y[-100:]]).astype(np.float32)
        assert np.isnan(outside).all() and not np.isnan(inner.astype(np.float32)).any()


def test_epilogues_are_left_to_wide_types() -> None:
    relu = linear.Epilogue(relu=True)
    for dtype, kept in (("float32", True), ("bfloat16", False)):
        x, w = (Spec(s, np.dtype(dtype)) for s in ((64, 80), (80, 80)))
        for name in ("linear", "matmul"):
            plan = getattr(linear, name)(targets.target(), x, w, epilogue=relu)
            assert (plan is not None) == kept
