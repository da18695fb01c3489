"""Products of the llvm backend: shapes, layouts, threads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product as pairs
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import products
from tallygrad.autograd.array import Spec
from tallygrad.autograd.dtypes import bfloat16
from tallygrad.autograd.ops import linear as ops

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from tallygrad.autograd.backends.llvm.compiler.isa import targets
from tallygrad.autograd.backends.llvm.plans import linear
from tallygrad.autograd.backends.llvm.registry import find_tiled
from tallygrad.autograd.backends.llvm.runtime import layout
from tallygrad.autograd.backends.llvm.runtime.executable import Executable

WIDTHS = targets.available()
# Rows, inner axis, columns: with rests everywhere, more than one block of the inner axis, fewer
# rows than a tile, one of each.
SIZES = [(37, 150, 75), (200, 33, 100), (3, 20, 70), (64, 400, 9), (33, 1, 40), (5, 700, 130)]


@pytest.fixture(autouse=True)
def _all_sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let kernels do products that are too small to gain by them."""
    before = ag.get_num_threads()
    monkeypatch.setattr(linear, "LEAST", 1)
    yield
    ag.set_num_threads(before)


def drawn(*shape: int, dtype: str = "float32", turned: bool = False) -> np.ndarray:
    """Draw numbers, an odd place behind where vectors begin."""
    rng, size = np.random.default_rng(len(shape) + shape[0]), int(np.prod(shape))
    numbers = np.empty(size + 1, dtype)[1:].reshape(shape[::-1] if turned else shape)
    numbers[...] = rng.standard_normal(numbers.shape)
    return numbers.T if turned else numbers


def planned(name: str, width: str, *arrays: np.ndarray) -> Executable:
    specs = [Spec(a.shape, a.dtype) for a in arrays]
    kernel = getattr(linear, name)(targets.target(width), *specs)
    assert kernel is not None
    return kernel


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    within = (4e-6 if found.dtype == np.float32 else 1e-14) * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=within)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", SIZES)
def test_layers_equal_numpy(sizes: tuple[int, int, int], dtype: str, width: str) -> None:
    n, c, m = sizes
    x, w, b = drawn(n, c, dtype=dtype), drawn(m, c, dtype=dtype), drawn(m, dtype=dtype)
    expected = x.astype(float) @ w.T.astype(float)
    close(planned("linear", width, x, w)(x, w), expected)
    close(planned("linear", width, x, w, b)(x, w, b), expected + b)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(150, 75), (33, 100), (7, 3), (400, 16), (1, 40), (64, 1)])
def test_one_row_equals_numpy_and_nothing_beside_it_is_written(
    sizes: tuple[int, int], dtype: str, width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "VECTOR", 1)
    c, m = sizes
    x, w, b = drawn(1, c, dtype=dtype), drawn(m, c, dtype=dtype), drawn(m, dtype=dtype)
    expected = x.astype(float) @ w.T.astype(float)
    room = np.full(m + 200, np.nan, dtype)

    def inner(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        return room[100:-100].reshape(shape)

    monkeypatch.setattr(linear.memory, "empty", inner)
    close(planned("linear", width, x, w)(x, w).copy(), expected)
    close(planned("linear", width, x, w, b)(x, w, b), expected + b)
    assert np.isnan(room[:100]).all() and np.isnan(room[-100:]).all()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("turned", [*pairs([False, True], repeat=2)])
@pytest.mark.parametrize("sizes", SIZES)
def test_products_equal_numpy_in_every_layout_without_a_copy(
    sizes: tuple[int, int, int],
    turned: tuple[bool, bool],
    width: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n, c, m = sizes
    x, w = drawn(n, c, turned=turned[0]), drawn(c, m, turned=turned[1])
    before = layout.layout_stats.copies
    monkeypatch.setattr(np, "matmul", None)
    close(planned("matmul", width, x, w)(x, w), x.astype(float) @ w.astype(float))
    assert layout.layout_stats.copies == before


LONG = [(37, 150, 75), (200, 33, 100), (3, 90, 70), (64, 400, 9), (33, 1, 40), (5, 700, 130)]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", LONG)
def test_long_rows_are_gone_through_in_another_order(
    sizes: tuple[int, int, int], dtype: str, width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few rows of the second matrix or of the result at a time; in threads, too."""
    monkeypatch.setattr(linear, "LONG", 1)
    monkeypatch.setattr(linear, "BLOCKED", 1 << 14)
    n, c, m = sizes
    orders = set()

    def tile(*given: Any) -> linear.MatmulTile:
        made = choose(*given)
        orders.add(made.order)
        return made

    choose = linear.tile
    monkeypatch.setattr(linear, "tile", tile)
    y = np.full(n * m + 200, np.nan, dtype)
    for turned in (False, True):
        x, w = drawn(n, c, dtype=dtype, turned=turned), drawn(c, m, dtype=dtype)
        for worthwhile, threads in ((1 << 60, 1), (1, 3)):
            monkeypatch.setattr(linear, "WORTHWHILE", worthwhile)
            ag.set_num_threads(threads)
            y[...] = np.nan
            inner = y[100 : 100 + n * m]
            run = linear._products(targets.target(width), sizes, dtype, turned, False)
            run(*(layout.address(a) for a in (x, w, w, inner)))
            assert np.isnan(y[:100]).all() and np.isnan(y[-100:]).all()
            close(inner.reshape(n, m), x.astype(float) @ w.astype(float))
    first, deep = linear.Order.PANELS, n < linear.COPIED or c > 128
    assert first not in orders and (deep or orders == {linear.Order.ROWS})


def test_one_plan_serves_every_layout_and_stacks_of_rows() -> None:
    x, w = drawn(4, 50, 30), drawn(30, 70)
    kernel = planned("matmul", WIDTHS[0], x[0], w)
    wide, turned = drawn(50, 60), drawn(50, 30, turned=True)
    for left, right in ((x[0], w), (turned, w), (x[0], w[:, ::-1]), (wide[:, ::2], w), (x[1], w)):
        close(kernel(left, right), left.astype(float) @ right.astype(float))
    close(planned("matmul", WIDTHS[0], x, w)(x, w), x.astype(float) @ w)
    parts = x.transpose(1, 0, 2)
    close(planned("matmul", WIDTHS[0], parts, w)(parts, w), parts.astype(float) @ w)


@pytest.mark.parametrize("sizes", SIZES)
def test_nothing_beside_the_result_is_written(sizes: tuple[int, int, int]) -> None:
    n, c, m = sizes
    for turned in (False, True):
        x, w = drawn(n, c), drawn(m, c) if turned else drawn(c, m)
        run = linear._products(targets.target(), sizes, "float32", False, turned)
        y = np.full(n * m + 200, np.nan, np.float32)
        inner = y[100 : 100 + n * m]
        run(*(layout.address(a) for a in (x, w, w, inner)))
        assert np.isnan(y[:100]).all() and np.isnan(y[-100:]).all()
        close(inner.reshape(n, m), x.astype(float) @ (w.T if turned else w))


@pytest.mark.parametrize("sizes", [(150, 40, 90), (40, 60, 700), (700, 30, 40)])
def test_threads_do_not_change_a_bit(
    sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a product is shared or not, and by how many threads: in both backends."""
    n, c, m = sizes
    x, w, b, dy = drawn(n, c), drawn(m, c), drawn(m), drawn(n, m)
    calls = [("linear", (x, w, b)), ("matmul", (dy, w)), ("matmul", (dy.T, x))]
    whole = [planned(name, WIDTHS[0], *xs)(*xs) for name, xs in calls]
    monkeypatch.setattr(linear, "WORTHWHILE", 1)
    monkeypatch.setattr(products, "WORTHWHILE", 1)
    monkeypatch.setattr(products, "BLOCK", 32)
    kernels = [planned(name, WIDTHS[0], *xs) for name, xs in calls]
    first = [getattr(ops, name).reference(*xs) for name, xs in calls]
    for threads in (1, 2, 3, 8):
        ag.set_num_threads(threads)
        for (name, xs), kernel, mine, theirs in zip(calls, kernels, whole, first, strict=True):
            np.testing.assert_array_equal(kernel(*xs), mine)
            np.testing.assert_array_equal(getattr(ops, name).reference(*xs), theirs)
            close(theirs, mine)


@pytest.mark.parametrize("sizes", [(150, 40, 40), (40, 60, 700)])
def test_each_thread_has_scratch_memory_of_its_own(
    sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "WORTHWHILE", 1)
    n, c, m = sizes
    x, w, y = drawn(n, c), drawn(c, m), drawn(n, m)
    work = linear._SharedProduct(
        targets.target(), linear.MatrixProduct("float32", c, m, 0, (c, 1)), n
    )
    ag.set_num_threads(3)
    work.run(*(layout.address(a) for a in (x, w, w, y)))
    close(y, x.astype(float) @ w)
    assert len({layout.address(room) for room in work.room.arrays.values()}) == 3


def test_what_does_not_pay_is_left_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    def kept(*shapes: tuple[int, ...], name: str = "linear", dtype: str = "float32") -> bool:
        specs = [Spec(s, np.dtype(dtype)) for s in shapes]
        return getattr(linear, name)(targets.target(), *specs) is not None

    assert kept((64, 800), (500, 800), (500,)) and kept((64, 500), (500, 800), name="matmul")
    assert kept((1, 800), (500, 800), (500,)) and kept((1, 1, 800), (500, 800))
    assert kept((1, 80), (500, 80), (500,)) and kept((64, 500), (10, 500), (10,))
    assert not kept((1, 8), (50, 8), (50,)) and not kept((1, 8000), (8000, 8000))
    assert not kept((2, 8000), (500, 8000), (500,))
    assert not kept((4, 50), (10, 50), (10,))
    assert not kept((2048, 2048), (2048, 2048))
    assert not kept((8, 64, 80), (8, 80, 64), name="matmul")
    specs = Spec((64, 800), np.dtype("f4")), Spec((500, 800), np.dtype("f8"))
    assert linear.linear(targets.target(), *specs) is None


def test_a_bias_of_another_type_widens_the_result() -> None:
    x, w, b = drawn(4, 5), drawn(3, 5), drawn(3, dtype="float64")
    y = ag.linear(ag.from_numpy(x), ag.from_numpy(w), ag.from_numpy(b))
    assert y.dtype == np.float64
    np.testing.assert_allclose(y.numpy(), x @ w.T + b, rtol=1e-6)


def test_the_ledger_shows_a_bias_as_additions() -> None:
    x, w, b = (ag.from_numpy(drawn(*s)) for s in ((4, 5), (3, 5), (3,)))
    with ag.context.using(ledger=ag.Ledger()) as state:
        ag.linear(x, w, b)
        ag.linear(x, w)
    (row,) = [row for row in state.ledger if row.key.primitive == "linear"]
    assert (row.cost.macs, row.cost.add) == (2 * 4 * 5 * 3, 4 * 3)


@pytest.mark.skipif("avx512" not in WIDTHS, reason="tiles are emulated with AVX-512")
@pytest.mark.parametrize("columns", [32, 40])
def test_gradients_of_matrices_lie_as_they_are_read(columns: int) -> None:
    """Row by row, without gaps."""
    rng = np.random.default_rng(0)
    dy, x = (rng.standard_normal((64, n)).astype("f4").astype(bfloat16()) for n in (48, columns))
    plan = find_tiled(
        targets.target(tiles="emulated"), "matmul",
        (Spec((48, 64), bfloat16()), Spec(x.shape, bfloat16())), {"wide": True},
    )  # fmt: skip
    assert plan is not None
    dw = plan(dy.T, x)
    wanted = dy.T.astype("f8") @ x.astype("f8")
    np.testing.assert_allclose(dw, wanted, atol=1e-4)
    assert dw.flags.c_contiguous
