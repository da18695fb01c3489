"""Softmax, its logarithm and cross entropy, row by row: a row has the numbers of all classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...array import NDArray, Spec
from . import memory
from . import registry as plans
from .elementwise import parts_of
from .flat import Body, Layout, Layouts, sweep
from .jit import build
from .language import Integer, Kernel, Vector
from .layout import address
from .mathematics import exp, expm1, largest, total
from .targets import Target

LEAST = 1 << 8  # elements below which NumPy is as fast
BLOCK = 1 << 10  # columns whose sums run in the arrays' type


def _most(k: Kernel, row: Any, size: Integer) -> Vector:
    """Return the largest number of a row."""
    most = k.variable(-np.inf)

    def body(place: Integer, some: Integer | None) -> None:
        x = k.load(k.at(row, place), some)
        x = x if some is None else k.select(k.mask(some), x, -np.inf)
        most.set(k.larger(most.get(), x))

    sweep(k, size, body)
    return largest(k, most.get())


class _Sum:
    """A sum over a row: in the arrays' type over a block of columns, in float64 over blocks, where
    there are several."""

    def __init__(self, k: Kernel, blocks: bool) -> None:
        self._k, self._wide, self._many = k, k.doubles(), blocks
        self._part, self._blocks = k.variable(), self._wide.variable()

    def add(self, x: Vector, some: Integer | None) -> None:
        """Add what is there of a vector."""
        x = x if some is None else self._k.select(self._k.mask(some), x, 0.0)
        self._part.set(self._part.get() + x)

    def end_block(self) -> None:
        """Add up what a block came to."""
        self._blocks.set(self._blocks.get() + self._wide.convert(self._part.get()))
        self._part.set(self._k.vector(0.0))

    def total(self) -> Vector:
        """Return the sum, in all lanes."""
        sums = self._blocks if self._many else self._part
        return total(self._k, self._k.convert(sums.get()))


def _sweep_blocks(k: Kernel, size: Integer, blocks: bool, body: Body, *sums: _Sum) -> None:
    """Write down `body` for all places of a row, with what adds up sums in blocks."""
    if not blocks:
        return sweep(k, size, body)
    with k.loop(parts_of(k, size, BLOCK)) as i:
        start = k.times(i, BLOCK)
        count = k.least(BLOCK, k.builder.sub(k.integer(size), k.integer(start)))
        sweep(k, count, lambda place, some: body(k.sum(start, place), some))
        for sum in sums:
            sum.end_block()


def grown(
    target: Target, dtype: str, powers: bool, logarithm: bool, weighted: bool, blocks: bool
) -> Kernel:
    """Return the kernel of a softmax before its division: x, y, weights, sums, number of rows and
    of columns. A row of y is x less its largest, or `powers` of e with that exponent; of each row,
    one after the other, sums get that of the powers (if a `logarithm` is taken, less 1 for the
    largest, beside which it would lose the small ones), the largest x and, if `weighted`, the sum
    of the exponents times weights."""
    k = Kernel(target, dtype, ("x", "y", "w", "sums"), ("rows", "size"))
    x, y, w, sums, rows, size = k.arguments
    with k.loop(rows) as i:
        source, to = k.at(x, (i, size)), k.at(y, (i, size))
        most = _most(k, source, size)
        whole, inner, ones = (_Sum(k, blocks) for _ in range(3))

        def body(place: Integer, some: Integer | None) -> None:
            exponent = k.load(k.at(source, place), some) - most
            power = exp(k, exponent)
            if logarithm:
                top = exponent.equals(0.0)
                ones.add(k.select(top, 1.0, 0.0), some)
                whole.add(k.select(top, 0.0, power), some)
            else:
                whole.add(power, some)
            if weighted:
                inner.add(exponent * k.load(k.at(w, place), some), some)
            k.store(power if powers else exponent, k.at(to, place), some)

        _sweep_blocks(k, size, blocks, body, whole, inner, ones)
        sum = whole.total()
        k.store(sum + (ones.total() - 1.0) if logarithm else sum, k.at(sums, i), 1)
        k.store(most, k.at(sums, rows, i), 1)
        if weighted:
            k.store(inner.total(), k.at(sums, rows, rows, i), 1)
    return k


def finished(target: Target, dtype: str, quotient: bool) -> Kernel:
    """Return the kernel that divides each row by a number, or subtracts it: rows, numbers, number
    of rows and of columns."""
    k = Kernel(target, dtype, ("y", "sums"), ("rows", "size"))
    y, sums, rows, size = k.arguments
    with k.loop(rows) as i:
        row, number = k.at(y, (i, size)), k.broadcast(k.at(sums, i))

        def body(place: Integer, some: Integer | None) -> None:
            to = k.at(row, place)
            value = k.load(to, some)
            k.store(value / number if quotient else value - number, to, some)

        sweep(k, size, body)
    return k


def slope(target: Target, dtype: str, logarithm: bool, blocks: bool) -> Kernel:
    """Return the kernel of the gradient of a softmax, or of its logarithm: dy, y, dx, number of
    rows and of columns. A softmax's sum is taken twice, as by its reference."""
    k = Kernel(target, dtype, ("dy", "y", "dx"), ("rows", "size"))
    dy, y, dx, rows, size = k.arguments
    with k.loop(rows) as i:
        top, value, to = (k.at(p, (i, size)) for p in (dy, y, dx))

        def summed(base: Vector) -> Vector:
            sum = _Sum(k, blocks)

            def body(place: Integer, some: Integer | None) -> None:
                d = k.load(k.at(top, place), some)
                part = d if logarithm else (d - base) * k.load(k.at(value, place), some)
                sum.add(part, some)

            _sweep_blocks(k, size, blocks, body, sum)
            return sum.total()

        base = k.vector(0.0) if logarithm else summed(k.vector(0.0))
        whole = summed(base)

        def body(place: Integer, some: Integer | None) -> None:
            d, p = k.load(k.at(top, place), some), k.load(k.at(value, place), some)
            if logarithm:  # d (1 - e^p) - e^p (the sum of the others)
                made = 0.0 - k.fma(d, expm1(k, p), exp(k, p) * (whole - d))
            else:
                made = p * ((d - base) - whole)
            k.store(made, k.at(to, place), some)

        sweep(k, size, body)
    return k


def entropy_slope(target: Target, dtype: str, smooth: bool, blocks: bool) -> Kernel:
    """Return the kernel of the gradient of a cross entropy: p, labels, weights, factors, dx, number
    of rows and of columns. Factors are what each row of p is multiplied with, what of that is
    multiplied with p - 1 at its label, and, if `smooth`, what is subtracted, times the weights,
    everywhere. p - 1 is what the others have: nothing is lost where p is nearly 1."""
    k = Kernel(target, dtype, ("p", "labels", "w", "factors", "dx"), ("rows", "size"))
    p, labels, w, factors, dx, rows, size = k.arguments
    with k.loop(rows) as i:
        source, to = k.at(p, (i, size)), k.at(dx, (i, size))
        many, hit, soft = (
            k.broadcast(k.at(factors, (rows, j), i)) if j < 2 or smooth else k.vector(0.0)
            for j in range(3)
        )
        label, others = k.read(labels, i), _Sum(k, blocks)

        def body(place: Integer, some: Integer | None) -> None:
            value = k.load(k.at(source, place), some)
            before = k.builder.sub(label, k.integer(place))
            here = k.builder.xor(k.mask(before), k.mask(k.sum(before, 1)))
            others.add(k.select(here, 0.0, value), some)
            made = value * many
            if smooth:
                made = made - soft * k.load(k.at(w, place), some)
            k.store(made, k.at(to, place), some)

        _sweep_blocks(k, size, blocks, body, others)
        spot = k.at(to, label)
        made = k.load(spot, 1) - k.load(k.at(source, label), 1) * hit
        k.store(made - others.total() * hit, spot, 1)
    return k


class _Rows:
    """Arrays of one shape as rows of classes: along `axis`, which is brought last in memory."""

    def __init__(self, spec: Spec, axis: int) -> None:
        self.layouts, self.axis = Layouts(spec), axis % len(spec.shape)
        self.size = spec.shape[axis]
        self.count = spec.size // self.size
        self.blocks = self.size > BLOCK
        self.lie: Layout = self.layouts.along(self.axis)
        self.order = [*(i for i in range(len(spec.shape)) if i != self.axis), self.axis]

    def get(self, x: NDArray) -> NDArray:
        """Return x so that its rows lie one behind the other."""
        lie = self.layouts.of(x)
        same = lie is not None and lie[0] == self.lie[0]
        return x if same else self.layouts.moved(x, self.lie[1])

    def table(self, x: NDArray) -> NDArray:
        """Return the rows that `get` returned as a matrix."""
        return x.transpose(self.order).reshape(self.count, self.size)

    def new(self) -> NDArray:
        """Return an array of rows whose numbers are not set."""
        return self.layouts.new(self.lie[1])


def _fits(specs: tuple[Spec, ...], axis: int) -> bool:
    x = specs[0]
    return x.size >= max(LEAST, 1) and len(x.shape) > 0 and all(s == x for s in specs)


@plans.implements("softmax")
def softmax(target: Target, x: Spec, *, axis: int) -> plans.Kernel | None:
    """Plan e^x over its sum along an axis."""
    return _shares(target, x, axis, logarithm=False)


@plans.implements("log_softmax")
def log_softmax(target: Target, x: Spec, *, axis: int) -> plans.Kernel | None:
    """Plan x less the logarithm of the sum of e^x along an axis."""
    return _shares(target, x, axis, logarithm=True)


def _shares(target: Target, x: Spec, axis: int, logarithm: bool) -> plans.Kernel | None:
    if not _fits((x,), axis):
        return None
    rows, dtype = _Rows(x, axis), x.dtype.name
    first = build(grown, target, dtype, not logarithm, logarithm, False, rows.blocks)
    second = build(finished, target, dtype, not logarithm)
    extent = rows.count, rows.size

    def run(x: NDArray) -> NDArray:
        source, y, sums = rows.get(x), rows.new(), memory.empty((2, rows.count), x.dtype)
        at, whole = address(y), address(sums)
        first(address(source), at, whole, whole, *extent)
        if logarithm:
            np.log1p(sums[0], out=sums[0])
        second(at, whole, *extent)
        return y

    return run


def _slope(name: str, logarithm: bool) -> None:
    @plans.implements(name)
    def plan(target: Target, dy: Spec, y: Spec, *, axis: int) -> plans.Kernel | None:
        if not _fits((dy, y), axis):
            return None
        rows = _Rows(y, axis)
        function = build(slope, target, y.dtype.name, logarithm, rows.blocks)

        def run(dy: NDArray, y: NDArray) -> NDArray:
            top, value, dx = rows.get(dy), rows.get(y), rows.new()
            function(address(top), address(value), address(dx), rows.count, rows.size)
            return dx

        return run


_slope("softmax_dx", False)
_slope("log_softmax_dx", True)


class _Labels:
    """Labels as the kernels take them: `place`, 0 where ignored; `counted`, and `rate`, the class
    weight of each, 0 where ignored; `norm`, what the reduction divides by. IndexError for a label
    out of range."""

    def __init__(
        self, target: NDArray, w: NDArray | None, classes: int, dtype: Any, ignored: int
    ) -> None:
        label = np.ascontiguousarray(target).reshape(-1).astype(np.int64, copy=False)
        # Without a sign, a label below 0 is a large one.
        wrong = label.view(np.uint64) >= classes
        if wrong.any():
            out = wrong & (label != ignored)
            if out.any():
                worst = label[out][0]
                raise IndexError(
                    f"cross_entropy: label {worst} is out of range for {classes} classes"
                )
        self.counted = label != ignored
        self.place = label if self.counted.all() else np.where(self.counted, label, 0)
        rate = self.counted if w is None else w[self.place] * self.counted
        self.rate = rate.astype(dtype)

    def norm(self, reduction: str) -> Any:
        """Return what a reduction divides by."""
        dtype = self.rate.dtype
        return self.rate.sum(dtype=dtype) if reduction == "mean" else dtype.type(1)

    def spread(self, dloss: NDArray, reduction: str) -> NDArray:
        """Return the gradient of each sample's loss: 0 where ignored."""
        norm = self.norm(reduction)
        each = dloss.reshape(-1) / norm if norm else np.zeros_like(dloss).reshape(-1)
        return np.where(self.counted, each, dloss.dtype.type(0))


def _weights(w: tuple[NDArray, ...], classes: int, dtype: Any) -> NDArray:
    """Return class weights, all 1 if there are none."""
    return np.ascontiguousarray(w[0], dtype) if w else np.ones(classes, dtype)


@plans.implements("cross_entropy")
def cross_entropy(
    target: Target, x: Spec, labels: Spec, *w: Spec, ignore_index: int, label_smoothing: float,
    reduction: str,
) -> plans.Kernel | None:  # fmt: skip
    """Plan a cross entropy and the softmax that its gradient takes."""
    if not _fits((x,), 1):
        return None
    rows, dtype, smooth = _Rows(x, 1), x.dtype, label_smoothing / x.shape[1]
    first = build(grown, target, dtype.name, True, True, smooth != 0, rows.blocks)
    second = build(finished, target, dtype.name, True)
    extent, lines = (rows.count, rows.size), np.arange(rows.count)

    def run(
        x: NDArray, target: NDArray, *w: NDArray
    ) -> tuple[NDArray, NDArray]:
        label = _Labels(target, w[0] if w else None, rows.size, dtype, ignore_index)
        source, p, sums = rows.get(x), rows.new(), memory.empty((3, rows.count), dtype)
        v = _weights(w, rows.size, dtype) if smooth else sums
        first(address(source), address(p), address(v), address(sums), *extent)
        whole = np.log1p(sums[0])
        sums[0] += 1
        second(address(p), address(sums), *extent)
        with np.errstate(invalid="ignore"):  # all of -inf, or one inf: not a number
            picked = rows.table(source)[lines, label.place] - sums[1]
            loss = (1 - label_smoothing) * label.rate * (whole - picked)
            if smooth:
                loss += smooth * (whole * v.sum() - sums[2])
        if not label.counted.all():
            loss[~label.counted] = 0
            rows.table(p)[~label.counted] = 0
        if reduction == "none":
            return loss.astype(dtype, copy=False).reshape(target.shape), p
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(loss.sum(dtype=dtype) / label.norm(reduction)), p

    return run


@plans.implements("cross_entropy_dx")
def cross_entropy_dx(
    target: Target, dloss: Spec, p: Spec, labels: Spec, *w: Spec, ignore_index: int,
    label_smoothing: float, reduction: str,
) -> plans.Kernel | None:  # fmt: skip
    """Plan the gradient of a cross entropy."""
    if not _fits((p,), 1) or dloss.dtype != p.dtype:
        return None
    rows, dtype, smooth = _Rows(p, 1), p.dtype, label_smoothing / p.shape[1]
    function = build(entropy_slope, target, dtype.name, smooth != 0, rows.blocks)
    factors = np.zeros((3, rows.count), dtype)

    def run(
        dloss: NDArray, p: NDArray, target: NDArray, *w: NDArray
    ) -> NDArray:
        label = _Labels(target, w[0] if w else None, rows.size, dtype, ignore_index)
        rate = label.spread(dloss, reduction)
        v = _weights(w, rows.size, dtype) if smooth else factors
        factors[1] = (1 - label_smoothing) * label.rate * rate
        factors[0] = factors[1]
        if smooth:
            factors[2] = smooth * rate
            factors[0] += factors[2] * v.sum()
        source, dx = rows.get(p), rows.new()
        given = source, label.place, v, factors, dx
        function(*[address(a) for a in given], rows.count, rows.size)
        return dx

    return run
