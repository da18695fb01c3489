"""Products, convolutions, recurrent layers and batch norm of bfloat16 beside float64 of the same
numbers: the bounds of docs/accuracy.md, for many and few terms and means far from zero."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")
pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")

from tallygrad.autograd import context
from tallygrad.autograd.array import NDArray, array
from tallygrad.autograd.backends.llvm.compiler.isa import amx, targets
from tallygrad.autograd.dtypes import bfloat16
from tallygrad.autograd.ops.conv import conv2d, conv2d_dw, conv2d_dx
from tallygrad.autograd.ops.gru import gru_dw, gru_sequence, gru_sequence_dx
from tallygrad.autograd.ops.linear import linear, matmul
from tallygrad.autograd.ops.norm import batch_norm, batch_norm_dx, batch_norm_sums
from tallygrad.autograd.ops.recurrent_sequence import lstm_sequence, lstm_sequence_dx
from tallygrad.autograd.ops.sequence_weights import sequence_dw

BF16 = bfloat16()
UNIT = 2.0**-24  # of float32: the error of a number between 1/2 and 1, at most
QUICK = {"numpy": 9, "llvm:tiles=off": 1}  # cases that are not slow to compile for
if "avx512" in targets.available():
    QUICK["llvm:tiles=emulated"] = 4
if "+avx512bf16" in targets.target().features.split(","):
    QUICK["llvm:tiles=dot,direct"] = 0
if amx.permitted():
    QUICK["llvm:tiles=amx"] = 0
Passes = Callable[[str, Callable[[NDArray], NDArray]], list[NDArray]]


def on_all(cases: list[tuple[int, ...]], others: int) -> list[Any]:
    """Return each backend with each case. The last `others` are slow to compile for; kernels for
    the ones before are those of test_tiles.py and test_recurrent_tiles.py."""
    quick = {name: min(some, len(cases) - others) for name, some in QUICK.items()}
    return [
        pytest.param(name, case, marks=[pytest.mark.slow] * (i >= quick[name] and name != "numpy"))
        for name in QUICK for i, case in enumerate(cases)
    ]  # fmt: skip


def draw(rng: np.random.Generator, *shape: int, mean: float = 0.0, scale: float = 1.0) -> NDArray:
    return (mean + scale * rng.normal(size=shape)).astype(BF16)


def wide(x: NDArray) -> NDArray:
    return x.astype(np.float64)


def rounding(exact: NDArray) -> NDArray:
    """Return the largest error of numbers that are rounded once to the 8 bits of bfloat16."""
    return np.ldexp(1.0, np.frexp(exact)[1] - 9)


def assert_bounded(backend: str, passes: Passes, terms: list[int]) -> None:
    """Compare sums of products with float64, the bound of whose errors follows from the sums of
    the products' magnitudes and their terms."""
    found, exact = passes(backend, lambda x: x), passes("numpy", wide)
    magnitudes = passes("numpy", lambda x: np.abs(wide(x)))
    for y, right, size, count in zip(found, exact, magnitudes, terms, strict=True):
        bound = count**0.5 * UNIT * size + (rounding(right) if y.dtype == BF16 else 0.0)
        assert (np.abs(wide(y) - right) <= bound).all()


# Rows, channels, results.
PRODUCTS = [(20, 64, 70), (64, 33, 40), (8, 300, 31), (1, 300, 40), (8, 5000, 31)]


@pytest.mark.parametrize("mean", [0.0, 3.0])
@pytest.mark.parametrize(("backend", "case"), on_all(PRODUCTS, others=1), ids=str)
def test_products(backend: str, mean: float, case: tuple[int, int, int]) -> None:
    rng, (rows, channels, outputs) = np.random.default_rng(0), case
    shapes = (rows, channels), (outputs, channels), (rows, outputs)
    x, w, dy = (draw(rng, *shape, mean=mean) for shape in shapes)

    def passes(name: str, form: Callable[[NDArray], NDArray]) -> list[NDArray]:
        a, b, g = (array(form(v)) for v in (x, w, dy))
        with context.using(backend=name):
            y, dx = linear(a, b), matmul(g, b)
            dw = matmul(array(g.value.T), a, wide=True)
            return [v.value for v in (y, dx, dw)]

    assert_bounded(backend, passes, [channels, outputs, rows])


# Images, channels, results, extent, taps, stride, padding. The last one is Winograd's.
CONVOLUTIONS = [
    (16, 32, 32, 4, 1, 1, 0),
    (33, 3, 40, 8, 5, 1, 2),
    (2, 544, 576, 3, 3, 1, 1),
    (20, 40, 33, 9, 3, 2, 1),
    (4, 64, 64, 14, 3, 1, 1),
]


@pytest.mark.parametrize("mean", [0.0, 3.0])
@pytest.mark.parametrize(("backend", "case"), on_all(CONVOLUTIONS, others=2), ids=str)
def test_convolutions(backend: str, mean: float, case: tuple[int, ...]) -> None:
    n, c, m, extent, taps, stride, pad = case
    rng, size = np.random.default_rng(0), (extent + 2 * pad - taps) // stride + 1
    shapes = (n, c, extent, extent), (m, c, taps, taps), (n, m, size, size)
    x, w, dy = (draw(rng, *shape, mean=mean) for shape in shapes)
    attrs: dict[str, Any] = {
        "stride": (stride, stride), "padding": ((pad, pad), (pad, pad)), "dilation": (1, 1),
        "groups": 1,
    }  # fmt: skip

    def passes(name: str, form: Callable[[NDArray], NDArray]) -> list[NDArray]:
        a, b, g = (array(form(v)) for v in (x, w, dy))
        with context.using(backend=name):
            y = conv2d(a, b, **attrs)
            dx = conv2d_dx(g, b, size=(extent, extent), **attrs)
            return [v.value for v in (y, dx, conv2d_dw(a, g, size=(taps, taps), **attrs))]

    assert_bounded(backend, passes, [c * taps**2, m * taps**2, n * size**2])


# Steps, rows, inputs, units, back to front, for LSTMs and GRUs.
SEQUENCES = [(3, 32, 32, 32, 0), (4, 45, 5, 64, 1), (28, 32, 32, 32, 0)]


@pytest.mark.parametrize("mean", [0.0, 1.0])
@pytest.mark.parametrize(("backend", "case"), on_all(SEQUENCES, others=1), ids=str)
def test_lstm(backend: str, mean: float, case: tuple[int, ...]) -> None:
    """Relative to the largest number: states round in each step, and gradients in each one back."""
    rng, (steps, rows, inputs, units, backwards) = np.random.default_rng(0), case
    w_ih, w = (draw(rng, 4 * units, k, scale=units**-0.5) for k in (inputs, units))
    x, bias = draw(rng, steps, rows, inputs, mean=mean), draw(rng, 4 * units)
    h, c, dhs = (draw(rng, *shape, units, scale=0.5) for shape in ((rows,), (rows,), (steps, rows)))

    def passes(name: str, form: Callable[[NDArray], NDArray]) -> list[NDArray]:
        arrays = [array(form(v)) for v in (x, w_ih, bias, h, c, w, dhs)]
        kind = {"backwards": bool(backwards)}
        with context.using(backend=name):
            hs, _, _, cells, acts = lstm_sequence(*arrays[:6], **kind)
            present = True, False, False
            back = lstm_sequence_dx(acts, cells, *arrays[4:], present=present, **kind)
            weights = sequence_dw(acts, arrays[0], hs, arrays[3], **kind)
            return [v.value for v in (hs, cells, acts, *back, *weights)]

    found, exact = passes(backend, lambda x: x), passes("numpy", wide)
    bounds = [2.0**-8] * 3 + [6 * 2.0**-9] * (len(found) - 6) + [2.0**-9] * 3
    for y, right, bound in zip(found, exact, bounds, strict=True):
        assert np.abs(wide(y) - right).max() <= bound * np.abs(right).max()


@pytest.mark.parametrize("mean", [0.0, 1.0])
@pytest.mark.parametrize(("backend", "case"), on_all(SEQUENCES, others=1), ids=str)
def test_gru(backend: str, mean: float, case: tuple[int, ...]) -> None:
    """As an LSTM."""
    rng, (steps, rows, inputs, units, backwards) = np.random.default_rng(0), case
    w_ih, w = (draw(rng, 3 * units, k, scale=units**-0.5) for k in (inputs, units))
    x, b_ih, b_hh = draw(rng, steps, rows, inputs, mean=mean), *draw(rng, 2, 3 * units)
    h, dhs = (draw(rng, *shape, units, scale=0.5) for shape in ((rows,), (steps, rows)))
    dgates, dstates = draw(rng, 2, steps, rows, 3 * units)
    dstates[..., : 2 * units] = dgates[..., : 2 * units]

    def passes(name: str, form: Callable[[NDArray], NDArray]) -> list[NDArray]:
        arrays = [array(form(v)) for v in (x, w_ih, b_ih, h, w, b_hh, dhs, dgates, dstates)]
        read, first, w_hh, dys = arrays[0], *arrays[3:5], arrays[6]
        kind = {"backwards": bool(backwards)}
        with context.using(backend=name):
            hs, _, acts = gru_sequence(*arrays[:6], **kind)
            back = gru_sequence_dx(acts, hs, first, w_hh, dys, present=(True, False), **kind)
            sums = gru_dw(*arrays[7:], read, hs, first, **kind)
            return [v.value for v in (hs, acts, *back, *sums)]

    found, exact = passes(backend, lambda x: x), passes("numpy", wide)
    bounds = [2.0**-8] * 2 + [6 * 2.0**-9] * 3 + [2.0**-9] * 4
    for y, right, bound in zip(found, exact, bounds, strict=True):
        assert np.abs(wide(y) - right).max() <= bound * np.abs(right).max()


@pytest.mark.parametrize("backend", ["numpy", "llvm"])
@pytest.mark.parametrize("mean", [0.0, 30.0, 1000.0])
@pytest.mark.parametrize("shape", [(8, 20, 6, 5), (64, 16, 16, 16), (50, 24)], ids=str)
def test_batch_norm(backend: str, mean: float, shape: tuple[int, ...]) -> None:
    """Statistics and sums are float32, of numbers that may lie far from zero."""
    rng, axes = np.random.default_rng(0), (0, *range(2, len(shape)))
    x, dy = draw(rng, *shape, mean=mean, scale=3.0), draw(rng, *shape, mean=0.5)
    w, b = rng.normal(size=(2, shape[1])).astype(np.float32)
    with context.using(backend=backend):
        y, *statistics = batch_norm(array(x), array(w), array(b), eps=1e-5)
        sums = batch_norm_sums(array(dy), array(x), *statistics, eps=1e-5)
        dx = batch_norm_dx(array(dy), array(x), array(w), *statistics, *sums, eps=1e-5)
        found = [wide(a.value) for a in (*statistics, *sums, y, dx)]

    def each(v: NDArray) -> NDArray:
        return wide(v).reshape(1, -1, *(1 for _ in shape[2:]))

    middle, variance = wide(x).mean(axes), wide(x).var(axes)
    deviation, grad = np.sqrt(variance + 1e-5), wide(dy)
    normed = (wide(x) - each(middle)) / each(deviation)
    dw, db = (grad * normed).sum(axes), grad.sum(axes)
    share, slope = shape[1] / prod(shape), each(w / deviation)
    right = normed * each(w) + each(b), slope * (grad - share * (each(db) + normed * each(dw)))
    far = 1 + np.abs(middle) / deviation
    bounds = [
        UNIT * far * deviation,
        16 * UNIT * variance,
        2 * UNIT * (np.abs(grad * normed).sum(axes) + far * np.abs(db)),
        UNIT * np.abs(grad).sum(axes),
        rounding(right[0]) + 4 * UNIT * each(far * (np.abs(w) + np.abs(b))),
        rounding(right[1]) + 4 * UNIT * np.abs(slope) * each(far),
    ]
    for a, value, bound in zip(found, (middle, variance, dw, db, *right), bounds, strict=True):
        assert (np.abs(a - value) <= bound).all()
