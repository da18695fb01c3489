"""Softmax, its logarithm and cross entropy: plans."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....array import NDArray, Spec
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.rows import BLOCK
from ..kernels.softmax import entropy_slope, finished, grown, slope
from ..registry import implements
from ..runtime import memory
from ..runtime.executable import Executable
from ..runtime.layout import Layout, Layouts, address

LEAST = 1 << 8  # elements below which NumPy is as fast


class _ClassRows:
    """Arrays of one shape as rows of classes: `axis` is brought last in memory."""

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


@implements("softmax")
def softmax(target: Target, x: Spec, *, axis: int) -> Executable | None:
    """Plan e^x over its sum along an axis."""
    return _shares(target, x, axis, logarithm=False)


@implements("log_softmax")
def log_softmax(target: Target, x: Spec, *, axis: int) -> Executable | None:
    """Plan x less the logarithm of the sum of e^x along an axis."""
    return _shares(target, x, axis, logarithm=True)


def _shares(target: Target, x: Spec, axis: int, logarithm: bool) -> Executable | None:
    if not _fits((x,), axis):
        return None
    rows, dtype = _ClassRows(x, axis), x.dtype.name
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

    return Executable(run)


def _slope(name: str, logarithm: bool) -> None:
    @implements(name)
    def plan(target: Target, dy: Spec, y: Spec, *, axis: int) -> Executable | None:
        if not _fits((dy, y), axis):
            return None
        rows = _ClassRows(y, axis)
        function = build(slope, target, y.dtype.name, logarithm, rows.blocks)

        def run(dy: NDArray, y: NDArray) -> NDArray:
            top, value, dx = rows.get(dy), rows.get(y), rows.new()
            function(address(top), address(value), address(dx), rows.count, rows.size)
            return dx

        return Executable(run)


_slope("softmax_dx", False)
_slope("log_softmax_dx", True)


class _Labels:
    """Labels as the kernels take them. IndexError for a label out of range.

    `index` is the label, 0 where ignored; `counted` tells which are not; `rate` is the class weight
    of each, 0 where ignored; `norm` is what the reduction divides by.
    """

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
                raise IndexError(f"cross_entropy: expected labels in [0, {classes}), got {worst}")
        self.counted = label != ignored
        self.index = label if self.counted.all() else np.where(self.counted, label, 0)
        rate = self.counted if w is None else w[self.index] * self.counted
        self.rate = rate.astype(dtype)

    def norm(self, reduction: str) -> Any:
        """Return what a reduction divides by."""
        dtype = self.rate.dtype
        return self.rate.sum(dtype=dtype) if reduction == "mean" else dtype.type(1)

    def reduce(self, loss: NDArray, reduction: str) -> NDArray:
        """Return the samples' losses reduced, or as they are for "none"."""
        dtype = self.rate.dtype
        if reduction == "none":
            return loss.astype(dtype, copy=False)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(loss.sum(dtype=dtype) / self.norm(reduction))

    def spread(self, dloss: NDArray, reduction: str) -> NDArray:
        """Return the gradient of each sample's loss: 0 where ignored."""
        norm = self.norm(reduction)
        each = dloss.reshape(-1) / norm if norm else np.zeros_like(dloss).reshape(-1)
        return np.where(self.counted, each, dloss.dtype.type(0))


def _weights(w: tuple[NDArray, ...], classes: int, dtype: Any) -> NDArray:
    """Return class weights, all 1 if there are none."""
    return np.ascontiguousarray(w[0], dtype) if w else np.ones(classes, dtype)


@implements("cross_entropy")
def cross_entropy(
    target: Target, x: Spec, labels: Spec, *w: Spec, ignore_index: int, label_smoothing: float,
    reduction: str,
) -> Executable | None:  # fmt: skip
    """Plan a cross entropy and the softmax that its gradient takes."""
    if not _fits((x,), 1):
        return None
    rows, dtype, smooth = _ClassRows(x, 1), x.dtype, label_smoothing / x.shape[1]
    first = build(grown, target, dtype.name, True, True, smooth != 0, rows.blocks)
    second = build(finished, target, dtype.name, True)
    extent, lines, each = (rows.count, rows.size), np.arange(rows.count), reduction == "none"

    def run(x: NDArray, target: NDArray, *w: NDArray) -> tuple[NDArray, NDArray]:
        label = _Labels(target, w[0] if w else None, rows.size, dtype, ignore_index)
        source, p, sums = rows.get(x), rows.new(), memory.empty((3, rows.count), dtype)
        # Without smoothing any address will do in their place: the kernel does not read it.
        v = _weights(w, rows.size, dtype) if smooth else sums
        first(address(source), address(p), address(v), address(sums), *extent)
        whole = np.log1p(sums[0])
        sums[0] += 1
        second(address(p), address(sums), *extent)
        with np.errstate(invalid="ignore"):  # all of -inf, or one inf: not a number
            picked = rows.table(source)[lines, label.index] - sums[1]
            loss = (1 - label_smoothing) * label.rate * (whole - picked)
            if smooth:
                loss += smooth * (whole * v.sum() - sums[2])
        if not label.counted.all():
            loss[~label.counted] = 0
            rows.table(p)[~label.counted] = 0
        return label.reduce(loss, reduction).reshape(target.shape if each else ()), p

    return Executable(run)


@implements("cross_entropy_dx")
def cross_entropy_dx(
    target: Target, dloss: Spec, p: Spec, labels: Spec, *w: Spec, ignore_index: int,
    label_smoothing: float, reduction: str,
) -> Executable | None:  # fmt: skip
    """Plan the gradient of a cross entropy."""
    if not _fits((p,), 1) or dloss.dtype != p.dtype:
        return None
    rows, dtype, smooth = _ClassRows(p, 1), p.dtype, label_smoothing / p.shape[1]
    function = build(entropy_slope, target, dtype.name, smooth != 0, rows.blocks)
    factors = np.zeros((3, rows.count), dtype)

    def run(dloss: NDArray, p: NDArray, target: NDArray, *w: NDArray) -> NDArray:
        label = _Labels(target, w[0] if w else None, rows.size, dtype, ignore_index)
        rate = label.spread(dloss, reduction)
        v = _weights(w, rows.size, dtype) if smooth else factors
        factors[1] = (1 - label_smoothing) * label.rate * rate
        factors[0] = factors[1]
        if smooth:
            factors[2] = smooth * rate
            factors[0] += factors[2] * v.sum()
        source, dx = rows.get(p), rows.new()
        inputs = source, label.index, v, factors, dx
        function(*[address(a) for a in inputs], rows.count, rows.size)
        return dx

    return Executable(run)
