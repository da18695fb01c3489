"""Products by tiles have the bits of a NumPy model: of Intel's instructions, in the order in which
kernels add up."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")
pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")

from tallygrad.autograd import context
from tallygrad.autograd.array import array
from tallygrad.autograd.backends.llvm.compiler.isa import amx, targets
from tallygrad.autograd.backends.llvm.kernels.conv_tiles import depth
from tallygrad.autograd.backends.llvm.plans.conv_tiles import padded
from tallygrad.autograd.dtypes import bfloat16
from tallygrad.autograd.ops.conv import conv2d, conv2d_dw, conv2d_dx
from tallygrad.autograd.ops.linear import linear, matmul
from tallygrad.autograd.ops.recurrent_sequence import rnn_sequence, rnn_sequence_dx
from tallygrad.autograd.ops.sequence_weights import sequence_dw
from tallygrad.autograd.ops.shape import cast
from tallygrad.autograd.primitive import Primitive
from tallygrad.autograd.testing.tiles import tdpbf16ps, vcvtne2ps2bf16

if "avx512" not in targets.available():
    pytest.skip("tiles are emulated with AVX-512", allow_module_level=True)

BF16, FLOAT = bfloat16(), np.float32
NDArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]
GROUP = 32  # images, or rows, that a product of gradients of weights sums up
needs_amx = pytest.mark.skipif(not amx.permitted(), reason="this processor has no AMX to use")
# Numbers near 1, and these with a few infinities and NaN; numbers whose products are near the least
# of float32; denormal ones, whose products with others are not.
DRAWS = ["emulated-usual", "emulated-infinite", *(
    pytest.param(f"amx-{kind}", marks=needs_amx)
    for kind in ("usual", "infinite", "small", "denormal")
)]  # fmt: skip
# Images, channels, filters, size, taps, stride, padding, bias.
CONVOLUTIONS = [
    (16, 32, 32, 4, 1, 1, 0, 0),
    (20, 40, 33, 4, 3, 1, 1, 0),
    (9, 50, 20, 5, 3, 2, 1, 1),
    (33, 33, 18, 4, 1, 2, 0, 1),
    (17, 3, 16, 5, 3, 1, 1, 0),  # few channels: windows take their place
]


class Draw:
    """Draws numbers in bfloat16, every eighth of them a zero; the second factor is another."""

    def __init__(self, name: str) -> None:
        tiles, self.kind = name.split("-")
        self.backend, self.rng = f"llvm:tiles={tiles}", np.random.default_rng(5)

    def __call__(self, *shape: int, second: bool = False) -> NDArray:
        ranges = {"small": ((-66, -60), (-66, -60)), "denormal": ((-133, -122), (4, 8))}
        powers = self.rng.integers(*ranges.get(self.kind, ((-2, 3),) * 2)[second], shape)
        numbers = np.ldexp(self.rng.normal(size=shape), powers).astype(FLOAT)
        numbers[self.rng.random(shape) < 0.125] = -0.0
        if self.kind == "infinite":
            some = self.rng.random(shape) < 0.002
            numbers[some] = self.rng.choice([np.inf, -np.inf, np.nan], np.count_nonzero(some))
        return numbers.astype(BF16)

    def call(self, primitive: Primitive, *args: NDArray, **attrs: Any) -> list[NDArray]:
        """Return the results of a primitive, which tiles must compute."""
        with context.using(backend=self.backend):
            found = primitive(*(array(a) for a in args), **attrs)
        return [y.value for y in (found if isinstance(found, tuple) else (found,))]


def assert_same_bits(y: NDArray, expected: NDArray) -> None:
    """Compare numbers and the signs of zeros; a NaN is as good as another."""
    assert y.dtype == expected.dtype and y.shape == expected.shape
    kind = np.uint16 if y.dtype == BF16 else np.uint32
    bits, others = (np.ascontiguousarray(a).view(kind) for a in (y, expected))
    np.testing.assert_array_equal(np.where(np.isnan(y), 1, bits), np.where(np.isnan(y), 1, others))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))


@pytest.mark.skipif(not targets.target().rounds, reason="this processor has no AVX512-BF16")
def test_rounding_to_bfloat16() -> None:
    """Of any bits, and of those that are special: also of the NaN, all bits."""
    special = [
        0.0,
        2.0**-126,
        2.0**-127,
        2.0**-149,
        np.inf,
        np.nan,
        3.4e38,
        1 + 2**-8,
        1 + 3 * 2**-8,
    ]
    x = np.random.default_rng(0).integers(0, 2**32, 1 << 16, np.uint32)
    x[: len(special)] = np.array(special, FLOAT).view(np.uint32)
    x[9], x[10] = 0x7F800001, 0x007FFFFF  # a NaN of lower bits alone, the largest denormal number
    x[11:22] = x[:11] | 0x80000000
    numbers = x.view(FLOAT)
    (y,) = Draw("emulated-usual").call(cast, numbers, dtype=BF16)
    expected = vcvtne2ps2bf16(numbers).view(np.uint16)
    np.testing.assert_array_equal(y.view(np.uint16), expected)


def in_blocks(x: NDArray, axis: int, block: int) -> Iterator[NDArray]:
    """Cut an axis into blocks, of which the last is filled up with zeros."""
    x = np.moveaxis(x, axis, -1)
    x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % block)])
    for first in range(0, x.shape[-1], block):
        yield np.moveaxis(x[..., first : first + block], -1, axis)


def reached(size: int, output: int, taps: int, stride: int, pad: int) -> list[Any]:
    """Return for each tap of an axis which windows see a pixel with it, and which pixel."""
    found = []
    for tap in range(taps):
        seen = [(e, e * stride - pad + tap) for e in range(output)]
        found.append([*zip(*((e, p) for e, p in seen if 0 <= p < size), strict=True)])
    return found


def summed(x: NDArray, w: NDArray, shape: tuple[int, ...], rows: Any, columns: Any) -> NDArray:
    """Return images (N, M, *shape) in float32: x (N, C, h, w) and filters w (M, C, r, s) give, for
    each block of channels, then each tap of a row after the other, products of (to, from) `rows`
    and `columns`. Taps beyond the border are left out."""
    y = np.zeros((len(x), len(w), *shape), FLOAT)
    deep = depth(padded(x.shape[1], 2))
    for some, filters in zip(in_blocks(x, 1, deep), in_blocks(w, 1, deep), strict=True):
        for (i, rs), (j, cs) in product(rows, columns):
            if rs and cs:
                to, source = np.ix_(rs[0], cs[0]), np.ix_(rs[1], cs[1])
                here, there = (a.transpose(2, 3, 0, 1) for a in (y, some))
                part = there[source]
                sums = here[to].reshape(-1, len(w))
                sums = tdpbf16ps(sums, part.reshape(-1, deep), filters[:, :, i, j].T)
                here[to] = sums.reshape(*part.shape[:3], len(w))
    return y


class Convolution:
    """The model of a convolution."""

    def __init__(self, case: tuple[int, ...]) -> None:
        _, c, _, self.size, self.taps, self.stride, self.pad, _ = case
        self.output = (self.size + 2 * self.pad - self.taps) // self.stride + 1
        self.seen = reached(self.size, self.output, self.taps, self.stride, self.pad)
        self.is_gathered = c < 16

    def windows(self, x: NDArray) -> NDArray:
        """Return what windows see, tap by tap, as channels of one pixel."""
        y = np.zeros((len(x), self.taps, self.taps, x.shape[1], self.output, self.output), BF16)
        for (i, rs), (j, cs) in product(enumerate(self.seen), repeat=2):
            to, source = np.ix_(rs[0], cs[0]), np.ix_(rs[1], cs[1])
            y.transpose(1, 2, 4, 5, 0, 3)[i, j][to] = x.transpose(2, 3, 0, 1)[source]
        return y.reshape(len(x), -1, self.output, self.output)

    def y(self, x: NDArray, w: NDArray) -> NDArray:
        """Return y before a bias is added and it is rounded."""
        seen = [*enumerate(self.seen)]
        if self.is_gathered:
            x, w = self.windows(x), w.transpose(0, 2, 3, 1).reshape(len(w), -1, 1, 1)
            seen = [(0, [range(self.output)] * 2)]
        return summed(x, w, (self.output, self.output), seen, seen)

    def dx(self, dy: NDArray, w: NDArray) -> NDArray:
        """Return dx before it is rounded: gradients are added in the order of the windows."""
        seen = [(tap, ends[::-1]) for tap, ends in reversed([*enumerate(self.seen)])]
        return summed(dy, w.swapaxes(0, 1), (self.size, self.size), seen, seen)

    def dw(self, x: NDArray, dy: NDArray) -> NDArray:
        """Return dw: for each row, the sum over groups of images, and over the pixels of each."""
        if self.is_gathered:
            one = Convolution((0, 16, 0, self.output, 1, 1, 0, 0))
            found = one.dw(self.windows(x), dy)
            return found.reshape(len(found), self.taps, self.taps, -1).transpose(0, 3, 1, 2)
        dw = np.zeros((self.taps, self.taps, dy.shape[1], x.shape[1]), FLOAT)
        groups = [*zip(in_blocks(x, 0, GROUP), in_blocks(dy, 0, GROUP), strict=True)]
        for (i, rs), (j, cs) in product(enumerate(self.seen), repeat=2):
            for (e, p), (pixels, top), (f, q) in product(
                zip(*rs, strict=True), groups, [*zip(*cs, strict=True)]
            ):
                dw[i, j] = tdpbf16ps(dw[i, j], top[:, :, e, f].T, pixels[:, :, p, q])
        return dw.transpose(2, 3, 0, 1)


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolutions(name: str, case: tuple[int, ...]) -> None:
    n, c, m, size, taps, stride, pad, biased = case
    draw, model = Draw(name), Convolution(case)
    x, w = draw(n, c, size, size), draw(m, c, taps, taps, second=True)
    dy = draw(n, m, model.output, model.output)
    bias = [draw(m)] * biased
    attrs: dict[str, Any] = {
        "stride": (stride, stride), "padding": ((pad, pad),) * 2, "dilation": (1, 1), "groups": 1
    }  # fmt: skip
    sums = model.y(x, w)
    for b in bias:
        sums = sums + b.astype(FLOAT)[:, None, None]
    (y,) = draw.call(conv2d, x, w, *bias, **attrs)
    assert_same_bits(y, vcvtne2ps2bf16(sums))
    (dx,) = draw.call(conv2d_dx, dy, w, size=(size, size), **attrs)
    assert_same_bits(dx, vcvtne2ps2bf16(model.dx(dy, w)))
    dy = draw(*dy.shape, second=True)
    (dw,) = draw.call(conv2d_dw, x, dy, size=(taps, taps), **attrs)
    assert_same_bits(dw, model.dw(x, dy))


def multiplied(x: NDArray, w: NDArray) -> NDArray:
    """Return x (N, C) times w (M, C) in float32, as a convolution of single pixels."""
    return Convolution((0, 16, 0, 1, 1, 1, 0, 0)).y(*(a[:, :, None, None] for a in (x, w)))[
        ..., 0, 0
    ]


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize(("rows", "channels", "outputs"), [(40, 72, 33), (64, 33, 40)])
def test_linear(name: str, rows: int, channels: int, outputs: int) -> None:
    draw = Draw(name)
    x, w, bias = draw(rows, channels), draw(outputs, channels, second=True), draw(outputs)
    (y,) = draw.call(linear, x, w, bias)
    assert_same_bits(y, vcvtne2ps2bf16(multiplied(x, w) + bias.astype(FLOAT)))
    (dx,) = draw.call(matmul, dy := draw(rows, outputs), w)
    assert_same_bits(dx, vcvtne2ps2bf16(multiplied(dy, w.T)))
    dy = draw(rows, outputs, second=True)
    (dw,) = draw.call(matmul, np.ascontiguousarray(dy.T), x, wide=True)
    ends = (a[:, :, None, None] for a in (x, dy))
    assert_same_bits(dw, Convolution((0, 16, 0, 1, 1, 1, 0, 0)).dw(*ends)[..., 0, 0])


@pytest.mark.parametrize("name", DRAWS)
def test_recurrent_layers(name: str) -> None:
    """Those with ReLU: other cells use functions that round as no NumPy formula does. All gradients
    of weights are sums of one kernel."""
    draw, steps, rows, inputs, size = Draw(name), 3, 40, 40, 64
    x, h = draw(steps, rows, inputs), draw(rows, size)
    w_ih, w = draw(size, inputs, second=True), draw(size, size, second=True)
    bias, attrs = draw(size), {"nonlinearity": "relu", "backwards": False}
    hs, last = draw.call(rnn_sequence, x, w_ih, bias, h, w, **attrs)
    states = [h]
    for t in range(steps):
        both = zip((x[t], states[-1]), (w_ih, w), strict=True)
        sums = products(np.zeros((rows, size), FLOAT), *both) + bias.astype(FLOAT)
        states.append(vcvtne2ps2bf16(np.where(sums < 0, FLOAT(0), sums)))
    assert_same_bits(hs, np.stack(states[1:]))
    assert_same_bits(last, states[-1])
    dhs, dh = draw(steps, rows, size), draw(rows, size)
    (dgates,) = draw.call(rnn_sequence_dx, hs, w, dhs, dh, present=(True, True), **attrs)
    expected: list[NDArray] = []
    for t in reversed(range(steps)):
        sums = dh.astype(FLOAT)
        if expected:
            sums = products(np.zeros((rows, size), FLOAT), (expected[0], w.T))
        sums = sums + dhs[t].astype(FLOAT)
        sums = np.where(hs[t].astype(FLOAT) <= 0, FLOAT(0), sums)
        expected.insert(0, vcvtne2ps2bf16(sums))
    assert_same_bits(dgates, np.stack(expected))


@pytest.mark.parametrize("name", DRAWS)
def test_gradients_of_recurrent_weights(name: str) -> None:
    """Sums over all steps of a group of rows, then over those of the group before it."""
    draw, steps, rows, inputs, size = Draw(name), 3, 40, 40, 64
    dgates, x = draw(steps, rows, 4 * size, second=True), draw(steps, rows, inputs)
    hs, h = draw(steps, rows, size), draw(rows, size)
    found = draw.call(sequence_dw, dgates, x, hs, h, backwards=False)
    before, ones = np.concatenate([h[None], hs[:-1]]), np.ones((steps, rows, 1), BF16)
    for dw, seen in zip(found, (x, before, ones), strict=True):
        total = np.zeros((seen.shape[2], 4 * size), FLOAT)
        groups = [*zip(in_blocks(seen, 1, GROUP), in_blocks(dgates, 1, GROUP), strict=True)]
        for some, top in reversed(groups):
            for t in range(steps):
                total = tdpbf16ps(total, some[t].T, top[t])
        assert_same_bits(dw, total.T.reshape(dw.shape))


def products(sums: NDArray, *factors: tuple[NDArray, NDArray]) -> NDArray:
    """Add to sums products of x (N, K) and w (M, K), blocks of K after the other."""
    for x, w in factors:
        for a, b in zip(in_blocks(x, 1, 32), in_blocks(w, 1, 32), strict=True):
            sums = tdpbf16ps(sums, a, b.T)
    return sums
