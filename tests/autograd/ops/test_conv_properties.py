"""Convolution and pooling over drawn shapes and options, against loops written out here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import tallygrad.autograd as ag
from tallygrad.autograd import context
from tallygrad.autograd.array import array
from tallygrad.autograd.ops import conv as ops
from tallygrad.autograd.ops import windows

Pair = tuple[int, int]
calm = [HealthCheck.function_scoped_fixture]
few = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=calm)
# Groups, channels and filters of each: plain, grouped, depthwise.
GROUPINGS = ((1, 1, 2), (1, 5, 2), (2, 2, 1), (3, 1, 2), (2, 1, 1), (3, 1, 1))


def pairs(low: int, high: int) -> st.SearchStrategy[Pair]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@dataclass(frozen=True)
class Case:
    """A convolution: images n, channels a group, filters a group, and the options."""

    n: int
    c: int
    m: int
    groups: int
    size: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    block: int

    @property
    def outputs(self) -> Pair:
        e, f = (
            (h + 2 * p - d * (k - 1) - 1) // s + 1
            for h, p, d, k, s in zip(
                self.size, self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        )
        return e, f

    @property
    def options(self) -> dict[str, Any]:
        names = ("stride", "padding", "dilation", "groups")
        return {name: getattr(self, name) for name in names}

    def draw(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return x, w and dy."""
        rng = np.random.default_rng(0)
        filters = self.m * self.groups
        shapes = (
            (self.n, self.c * self.groups, *self.size),
            (filters, self.c, *self.kernel),
            (self.n, filters, *self.outputs),
        )
        x, w, dy = (rng.standard_normal(shape) for shape in shapes)
        return x, w, dy

    def meetings(self) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
        """Yield the indices into x, w and y of each multiply-accumulate, border included."""
        e, f = self.outputs
        for n, g, m, i, j, k, r, s in product(
            *map(range, (self.n, self.groups, self.m, e, f, self.c, *self.kernel))
        ):
            h = i * self.stride[0] + r * self.dilation[0] - self.padding[0]
            w = j * self.stride[1] + s * self.dilation[1] - self.padding[1]
            yield (n, g * self.c + k, h, w), (g * self.m + m, k, r, s), (n, g * self.m + m, i, j)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    groups, c, m = draw(st.sampled_from(GROUPINGS))
    case = Case(
        n=draw(st.sampled_from([2, 1, 0])),
        c=c,
        m=m,
        groups=groups,
        size=draw(pairs(1, 8)),
        kernel=draw(pairs(1, 4)),
        stride=draw(pairs(1, 4)),
        padding=draw(pairs(0, 3)),
        dilation=draw(pairs(1, 4)),
        block=draw(st.sampled_from([1, 300, 1 << 20])),
    )
    assume(min(case.outputs) >= 1 and case.outputs[0] * case.outputs[1] <= 20)
    return case


def in_blocks(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Cut images into blocks of so many bytes."""
    monkeypatch.setattr(windows, "BLOCK_BYTES", size)


def leaf(a: np.ndarray) -> ag.Tensor:
    return ag.tensor(a, requires_grad=True)


def near(a: Any, b: np.ndarray) -> None:
    np.testing.assert_allclose(a.numpy(), b, rtol=1e-9, atol=1e-9)


@few
@given(case=cases())
def test_convolution_equals_loops(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    in_blocks(monkeypatch, case.block)
    x, w, dy = case.draw()
    y, dx, dw = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(w.shape)
    macs = 0
    for at, tap, to in case.meetings():
        macs += 1
        if 0 <= at[2] < x.shape[2] and 0 <= at[3] < x.shape[3]:
            y[to] += x[at] * w[tap]
            dx[at] += dy[to] * w[tap]
            dw[tap] += dy[to] * x[at]
    images, filters = leaf(x), ag.Parameter(ag.tensor(w))
    with context.using(ledger=ag.Ledger()) as state:
        result = ag.conv2d(images, filters, **case.options)
        result.backward(ag.tensor(dy))
    near(result, y)
    near(images.grad, dx)
    near(filters.grad, dw)
    counted = {phase: cost.macs for phase, cost in state.ledger.by("phase").items()}
    assert counted == dict.fromkeys(("forward", "backward_data", "backward_weights"), macs)


@few
@given(case=cases(), more=pairs(0, 3))
def test_transposed_convolution_is_the_adjoint(
    case: Case, more: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """<conv(x), dy> = <x, conv_transpose(dy)> for images as large as the transposed makes."""
    in_blocks(monkeypatch, case.block)
    assume(all(a < max(b, c) for a, b, c in zip(more, case.stride, case.dilation, strict=True)))
    _, w, dy = case.draw()
    size = [
        (n - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for n, s, p, d, k, extra in zip(
            case.outputs, case.stride, case.padding, case.dilation, case.kernel, more, strict=True
        )
    ]
    assume(min(size) >= 1)
    y = ag.conv_transpose2d(ag.tensor(dy), ag.tensor(w), output_padding=more, **case.options)
    assert y.shape == (case.n, case.c * case.groups, *size)
    x = np.random.default_rng(1).standard_normal(y.shape)
    seen = ag.conv2d(ag.tensor(x), ag.tensor(w), **case.options).numpy()
    # Where the output padding holds whole strides, conv2d finds windows that dy does not know.
    seen = seen[:, :, : dy.shape[2], : dy.shape[3]]
    np.testing.assert_allclose((seen * dy).sum(), (x * y.numpy()).sum(), rtol=1e-9, atol=1e-9)


@few
@given(case=cases())
def test_same_padding_keeps_the_size(case: Case) -> None:
    x, w, _ = case.draw()
    y = ag.conv2d(
        ag.tensor(x), ag.tensor(w), padding="same", dilation=case.dilation, groups=case.groups
    )
    assert y.shape[2:] == case.size
    lost = [d * (k - 1) for d, k in zip(case.dilation, case.kernel, strict=True)]
    (top, left), (bottom, right) = [n // 2 for n in lost], [n - n // 2 for n in lost]
    wide = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    plain = ag.conv2d(ag.tensor(wide), ag.tensor(w), dilation=case.dilation, groups=case.groups)
    near(y, plain.numpy())


@dataclass(frozen=True)
class Pool:
    """A pooling and its windows along each axis, as torch documents them."""

    size: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    ceil: bool
    block: int

    def starts(self, axis: int) -> list[int]:
        """Places where windows start: all that fit, and with `ceil` one more that starts in the
        image or the border before it."""
        size, pad, step = self.size[axis], self.padding[axis], self.stride[axis]
        reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        fitting = range(-pad, size + pad - reach + 1, step)
        following = -pad + len(fitting) * step
        partly = following - step + reach < size + pad if fitting else True
        if self.ceil and partly and following < size:
            return [*fitting, following]
        return [*fitting]

    def taps(self, axis: int, start: int) -> list[int]:
        return [start + self.dilation[axis] * i for i in range(self.kernel[axis])]

    def windows(self) -> Iterator[tuple[Pair, list[tuple[int, int]]]]:
        """Yield each window's place in the result and its taps, row by row."""
        for (e, top), (f, left) in product(enumerate(self.starts(0)), enumerate(self.starts(1))):
            yield (e, f), list(product(self.taps(0, top), self.taps(1, left)))

    def inside(self, tap: Pair, border: int = 0) -> bool:
        return all(
            -border * p <= i < n + border * p
            for i, n, p in zip(tap, self.size, self.padding, strict=True)
        )


@st.composite
def pools(draw: st.DrawFn, dilated: bool = True) -> Pool:
    pool = Pool(
        size=draw(pairs(1, 8)),
        kernel=draw(pairs(1, 4)),
        stride=draw(pairs(1, 4)),
        padding=draw(pairs(0, 2)),
        dilation=draw(pairs(1, 3)) if dilated else (1, 1),
        ceil=draw(st.booleans()),
        block=draw(st.sampled_from([1, 300, 1 << 20])),
    )
    reach = [d * (k - 1) + 1 for d, k in zip(pool.dilation, pool.kernel, strict=True)]
    assume(all(2 * p <= r for p, r in zip(pool.padding, reach, strict=True)))
    assume(all(n + 2 * p >= r for n, p, r in zip(pool.size, pool.padding, reach, strict=True)))
    assume(all(any(map(pool.inside, taps)) for _, taps in pool.windows()))
    return pool


@few
@given(pool=pools(), ties=st.booleans())
def test_largest_values_equal_loops(
    pool: Pool, ties: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_blocks(monkeypatch, pool.block)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, *pool.size))
    x = np.round(x) if ties else x
    images = leaf(x)
    y, places = ag.max_pool2d(
        images, pool.kernel, pool.stride, pool.padding, pool.dilation, pool.ceil,
        return_indices=True,
    )  # fmt: skip
    assert y.shape == (2, 3, len(pool.starts(0)), len(pool.starts(1)))
    dy = rng.standard_normal(y.shape)
    best, where, dx = np.zeros(y.shape), np.zeros(y.shape, np.int64), np.zeros(x.shape)
    for (e, f), taps in pool.windows():
        for n, c in product(range(2), range(3)):
            tap = max(filter(pool.inside, taps), key=lambda t: x[n, c, *t])  # the first of equals
            best[n, c, e, f] = x[n, c, *tap]
            where[n, c, e, f] = tap[0] * pool.size[1] + tap[1]
            dx[n, c, *tap] += dy[n, c, e, f]
    y.backward(ag.tensor(dy))
    np.testing.assert_array_equal(y.numpy(), best)
    np.testing.assert_array_equal(places.numpy(), where)
    near(images.grad, dx)


@few
@given(pool=pools(dilated=False), counted=st.booleans(), divisor=st.sampled_from([None, 3]))
def test_means_equal_loops(
    pool: Pool, counted: bool, divisor: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_blocks(monkeypatch, pool.block)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, *pool.size))
    images = leaf(x)
    y = ag.avg_pool2d(images, pool.kernel, pool.stride, pool.padding, pool.ceil, counted, divisor)
    dy = rng.standard_normal(y.shape)
    means, dx = np.zeros(y.shape), np.zeros(x.shape)
    for (e, f), taps in pool.windows():
        count = divisor or sum(pool.inside(tap, border=int(counted)) for tap in taps)
        for i, j in filter(pool.inside, taps):
            means[:, :, e, f] += x[:, :, i, j] / count
            dx[:, :, i, j] += dy[:, :, e, f] / count
    y.backward(ag.tensor(dy))
    near(y, means)
    near(images.grad, dx)


@pytest.mark.parametrize("odd", [nan, -inf, inf])
@pytest.mark.parity
def test_numbers_that_do_not_compare_go_where_torch_puts_them(odd: float) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.backends.mkldnn.enabled = False
    x = np.random.default_rng(0).standard_normal((1, 2, 6, 6))
    x[:, :, :2, :2] = x[0, 1, 4, 5] = odd
    ours = ag.max_pool2d(ag.tensor(x), 3, 1, 1, return_indices=True)
    theirs = torch.nn.functional.max_pool2d(torch.tensor(x), 3, 1, 1, return_indices=True)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_gradients_that_overflowed_stay_in_their_places() -> None:
    x = leaf(np.arange(16.0).reshape(1, 1, 4, 4))
    ag.max_pool2d(x, 2).backward(ag.tensor(np.full((1, 1, 2, 2), inf)))
    assert x.grad is not None
    assert sorted(x.grad.numpy().ravel()) == [0.0] * 12 + [inf] * 4


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_type_and_layout(dtype: str) -> None:
    """Results are of the operands' type and channels-last in memory, of any layout of these."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 8, 8)).astype(dtype), rng.standard_normal((4, 3, 3, 3))
    images, filters = leaf(x), leaf(w.astype(dtype))
    y = ag.conv2d(images, filters, stride=2, padding=1)
    z = ag.max_pool2d(y, 2)
    ag.avg_pool2d(z, 2).backward(ag.tensor(np.ones((2, 4, 1, 1), dtype)))
    assert images.grad is not None and filters.grad is not None
    for t in (y, z, images.grad):
        assert t.dtype == dtype and t.numpy().transpose(0, 2, 3, 1).flags.c_contiguous
    assert filters.grad.dtype == dtype and filters.grad.numpy().flags.c_contiguous


def test_threads_do_not_share_memory() -> None:
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((4, 6, 20, 20)) for _ in range(8)]
    w = rng.standard_normal((5, 6, 3, 3))

    def work(x: np.ndarray) -> list[np.ndarray]:
        images, filters = leaf(x), leaf(w)
        y = ag.max_pool2d(ag.conv2d(images, filters, padding=1), 3, 2, 1)
        y.backward(ag.ones_like(y))
        assert images.grad is not None and filters.grad is not None
        return [y.numpy(), images.grad.numpy(), filters.grad.numpy()]

    expected = [work(x) for x in inputs]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            for got, known in zip(threads.map(work, inputs), expected, strict=True):
                for a, b in zip(got, known, strict=True):
                    np.testing.assert_array_equal(a, b)


X, W = (1, 4, 8, 8), (6, 4, 3, 3)


def refused(piece: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert piece in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("piece", "options"),
    [
        ("stride: expected one number or 2, at least 1, got 0", {"stride": 0}),
        ("dilation: expected one number or 2, at least 1, got (1, 0)", {"dilation": (1, 0)}),
        ("padding: expected one number or 2, at least 0, got -1", {"padding": -1}),
        ("padding: expected one number or 2, at least 0, got (1, 2, 3)", {"padding": (1, 2, 3)}),
        ("for stride 1, 'same', got 'same' with stride (2, 2)", {"padding": "same", "stride": 2}),
        (
            "expected padding of numbers, 'valid' or, for stride 1, 'same', got 'full'",
            {"padding": "full"},
        ),
        ("expected groups that divide 6 filters, got 4", {"groups": 4}),
        ("of 8 channels for weight (6, 4, 3, 3) with groups=2, got 4", {"groups": 2}),
        ("least (9, 9) for kernel (3, 3) with dilation (4, 4), got (8, 8)", {"dilation": 4}),
    ],
)
def test_wrong_options_of_a_convolution(piece: str, options: dict[str, Any]) -> None:
    refused(piece, lambda: ag.conv2d(ag.zeros(*X), ag.zeros(*W), **options))


@pytest.mark.parametrize(
    ("piece", "function", "options"),
    [
        (
            "below stride (2, 2) or dilation (1, 1), got (2, 2)",
            ag.conv_transpose2d,
            {"output_padding": 2, "stride": 2},
        ),
        ("expected an output of at least 1 x 1, got -2 x -2", ag.conv_transpose2d, {"padding": 6}),
        (
            "expected padding of at most half of kernel (3, 3), got (2, 2)",
            ag.max_pool2d,
            {"kernel_size": 3, "padding": 2},
        ),
        (
            "kernel_size: expected one number or 2, at least 1, got 0",
            ag.avg_pool2d,
            {"kernel_size": 0},
        ),
        (
            "expected divisor_override positive or None, got 0",
            ag.avg_pool2d,
            {"kernel_size": 2, "divisor_override": 0},
        ),
        (
            "of one number or 2, at least 0, got (1, 2, 3)",
            ag.adaptive_avg_pool2d,
            {"output_size": (1, 2, 3)},
        ),
        ("of one number or 2, at least 0, got -1", ag.adaptive_max_pool2d, {"output_size": -1}),
    ],
)
def test_wrong_options(piece: str, function: Any, options: dict[str, Any]) -> None:
    weight = (ag.zeros(4, 6, 3, 3),) if function is ag.conv_transpose2d else ()
    refused(piece, lambda: function(ag.zeros(*X), *weight, **options))


@pytest.mark.parametrize("dtype", ["int64", "float16"])
def test_other_types_are_refused(dtype: str) -> None:
    x = ag.tensor(np.zeros(X, dtype))
    for call in (
        lambda: ag.conv2d(x, ag.tensor(np.zeros(W, dtype))),
        lambda: ag.max_pool2d(x, 2),
        lambda: ag.avg_pool2d(x, 2),
        lambda: ag.adaptive_max_pool2d(x, 3),
        lambda: ag.conv2d(ag.tensor(np.zeros(X)), ag.tensor(np.zeros(W, np.float32))),
        lambda: ag.conv2d(ag.zeros(*X), ag.zeros(*W), ag.tensor(np.zeros(6))),
    ):
        with pytest.raises(TypeError, match=r"^\w+: expected .*float32.*, got "):
            call()


def test_negative_padding_cuts_off() -> None:
    """Seen with a large image, where the gradient is scattered tap by tap, and a small one."""
    rng = np.random.default_rng(0)
    for high, wide in ((9, 7), (6, 12)):
        x, w = rng.standard_normal((2, 5, high, wide)), rng.standard_normal((6, 5, 3, 3))
        attrs: dict[str, Any] = {"stride": (1, 1), "dilation": (1, 1), "groups": 1}
        cut = x[:, :, 1:-1, 2:-1]
        plain, short = ((0, 0), (0, 0)), ((-1, -1), (-2, -1))
        y = ops.conv2d(array(cut), array(w), padding=plain, **attrs)
        np.testing.assert_allclose(
            ops.conv2d(array(x), array(w), padding=short, **attrs).value, y.value, rtol=1e-12
        )
        dx = ops.conv2d_dx(y, array(w), size=cut.shape[2:], padding=plain, **attrs)
        expected = np.pad(dx.value, ((0, 0), (0, 0), (1, 1), (2, 1)))
        found = ops.conv2d_dx(y, array(w), size=(high, wide), padding=short, **attrs)
        np.testing.assert_allclose(found.value, expected, rtol=1e-12, atol=1e-12)
