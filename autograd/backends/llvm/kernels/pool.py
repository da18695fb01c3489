"""Pooling of images, forward and backward: the largest value or the mean of each window.

Each pair of a run of rows and one of columns (`windows.py`) has its own code, in which it is known
which taps lie in the image; so the inner loop, over vectors of channels, has no branches. Forward
keeps the largest value and the number of its tap in registers; `argmax` stores that number as a
byte. Backward gathers: each pixel of dx adds up what the windows that see it send, so that it is
written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import llvmlite.ir as ir
import numpy as np

from ..compiler.isa.targets import Target
from ..compiler.language import I1, I32, POINTER, Integer, KernelBuilder, pieces
from ..compiler.vectors import Vector
from .border import Pair
from .windows import PixelStrip, PoolWindows, Reach, WindowRun, runs, strips

I8 = ir.IntType(8)
UNROLLED = 64  # taps of a window that are written down one by one


class _Writer:
    """What both kernels share: the loop over channels, and the bytes of argmax."""

    def __init__(self, k: KernelBuilder, pool: PoolWindows, unroll: int) -> None:
        self.k, self.pool, self.unroll = k, pool, unroll
        self.whole = ir.VectorType(ir.IntType(8 * k.dtype.itemsize), k.lanes)
        self.bytes = ir.VectorType(I8, k.lanes)

    def channels(self) -> Iterator[tuple[Integer, int]]:
        """Loop over vectors of channels: yield where each begins and how many numbers it has. The
        last overlaps the one before, or is masked where there is none."""
        k, channels = self.k, self.pool.channels
        whole, rest = divmod(channels, k.lanes)
        for start, count, size in pieces(whole, self.unroll):
            with k.loop(count) as i:
                for v in range(size):
                    yield k.sum((i, size * k.lanes), (start + v) * k.lanes), k.lanes
        if rest:
            # Writing some numbers twice is cheaper than a mask, and gives the same.
            yield max(channels - k.lanes, 0), min(channels, k.lanes)

    def same(self, number: int) -> Any:
        """Return a vector of integers, all the same."""
        return ir.Constant(self.whole, [number] * self.k.lanes)

    def store_argmax(self, argmax: Any, pointer: Any, m: int) -> None:
        """Write integers as bytes."""
        k = self.k
        value = k.builder.trunc(argmax, self.bytes)
        if m >= k.lanes:
            k.builder.store(value, pointer, align=1)
            return
        kinds = [self.bytes, POINTER, I32, ir.VectorType(I1, k.lanes)]
        name = f"llvm.masked.store.v{k.lanes}i8.p0"
        self._call(name, ir.VoidType(), kinds, [value, pointer, I32(1), k.mask(m)])

    def load_argmax(self, pointer: Any, m: int) -> Any:
        """Return bytes as integers."""
        k = self.k
        if m >= k.lanes:
            value = k.builder.load(pointer, align=1, typ=self.bytes)
        else:
            kinds = [POINTER, I32, ir.VectorType(I1, k.lanes), self.bytes]
            name = f"llvm.masked.load.v{k.lanes}i8.p0"
            rest = ir.Constant(self.bytes, [0] * k.lanes)
            value = self._call(name, self.bytes, kinds, [pointer, I32(1), k.mask(m), rest])
        return k.builder.zext(value, self.whole)

    def byte(self, pointer: Any, *terms: Any) -> Any:
        """Return an address, so many bytes behind another."""
        return self.k.builder.gep(pointer, [self.k.integer(self.k.sum(*terms))], source_etype=I8)

    def _call(self, name: str, result: Any, kinds: list[Any], values: list[Any]) -> Any:
        known = self.k.module.globals.get(name)
        if known is None:
            known = ir.Function(self.k.module, ir.FunctionType(result, kinds), name)
        return self.k.builder.call(known, values)


class _Forward(_Writer):
    """Writes the kernel from x to y, and the taps of the largest values."""

    def run(self) -> None:
        """Go through images and runs of windows."""
        k, pool, (x, y, argmax, count) = self.k, self.pool, self.k.arguments
        vertical, horizontal = (runs(a, not pool.largest) for a in (pool.vertical, pool.horizontal))
        with k.loop(count) as n:
            for rows in vertical:
                with k.loop(rows.times) as i:
                    source = k.at(x, (n, pool.image[0]), *self._start(i, rows, 0))
                    at = (n, pool.out[0]), (k.sum(i, rows.first), pool.out[1])
                    for columns in horizontal:
                        self._row(source, y, argmax, at, (rows, columns))

    def _row(
        self, x: Any, y: Any, argmax: Any, at: tuple[Any, ...], run: tuple[WindowRun, WindowRun]
    ) -> None:
        """Write a run of windows in a row."""
        k = self.k
        with k.loop(run[1].times) as j:
            source = k.at(x, *self._start(j, run[1], 1))
            at = (*at, (k.sum(j, run[1].first), self.pool.out[2]))
            for c, m in self.channels():
                if self.pool.largest:
                    best, where = self._largest(k.at(source, c), run, m)
                    self.store_argmax(where, self.byte(argmax, *at, c), m)
                else:
                    best = self._mean(k.at(source, c), run, m)
                k.store(best, k.at(y, *at, c), m)

    def _start(self, i: Integer, run: WindowRun, which: int) -> tuple[Any, ...]:
        """Return where the current window begins along an axis, perhaps before the image."""
        axis = (self.pool.vertical, self.pool.horizontal)[which]
        apart = self.pool.image[1 + which]
        return (i, axis.stride * apart), (run.first * axis.stride - axis.lead) * apart

    def _taps(self, window: tuple[WindowRun, WindowRun]) -> Iterator[tuple[int, int]]:
        """Return number and offset of each tap in the image."""
        p, (_, row, pixel) = self.pool, self.pool.image
        for i, j in product(window[0].taps, window[1].taps):
            offset = i * p.vertical.dilation * row + j * p.horizontal.dilation * pixel
            yield i * p.horizontal.taps + j, offset

    def _largest(
        self, source: Any, window: tuple[WindowRun, WindowRun], m: int
    ) -> tuple[Vector, Any]:
        """Return the largest values and the numbers of their taps: the first of equal ones, the
        last of those that are not numbers."""
        k, taps = self.k, [*self._taps(window)]
        if not taps:
            return k.vector(-np.inf), self.same(0)
        best, where = k.load(k.at(source, taps[0][1]), m), self.same(taps[0][0])
        for number, offset in taps[1:]:
            seen = k.load(k.at(source, offset), m)
            # A NaN wins, and stays: nothing is larger than it.
            taken = k.builder.or_(seen > best, seen.isnan())
            best = k.select(taken, seen, best)
            where = k.builder.select(taken, self.same(number), where)
        return best, where

    def _mean(self, source: Any, window: tuple[WindowRun, WindowRun], m: int) -> Vector:
        k, (rows, columns) = self.k, window
        taps, divides = [*self._taps(window)], self.pool.divides(rows.counted, columns.counted)
        if not taps:
            return k.vector(0.0)
        if len(taps) > UNROLLED:
            return self._looped(k.at(source, taps[0][1]), window, m) / divides
        total = k.load(k.at(source, taps[0][1]), m)
        for _, offset in taps[1:]:
            total = total + k.load(k.at(source, offset), m)
        return total / divides

    def _looped(self, source: Any, window: tuple[WindowRun, WindowRun], m: int) -> Vector:
        """Return the sum of a large window: of a row's pieces, then of its rows, so that rounding
        errors stay those of short sums."""
        k, (_, row, pixel) = self.k, self.pool.image
        whole, line, short = k.variable(), k.variable(), k.variable()
        with k.loop(len(window[0].taps)) as i:
            line.set(k.vector(0.0))
            for first, times, size in pieces(len(window[1].taps), UNROLLED):
                with k.loop(times) as j:
                    short.set(k.vector(0.0))
                    with k.loop(size) as tap:
                        at = (i, row), (j, size * pixel), (tap, pixel), first * pixel
                        short.set(short.get() + k.load(k.at(source, *at), m))
                    line.set(line.get() + short.get())
            whole.set(whole.get() + line.get())
        return whole.get()


class _Backward(_Writer):
    """Writes the kernel from dy, and the taps of the largest values, to dx."""

    def run(self) -> None:
        """Go through images and strips of pixels."""
        k, pool, (dy, argmax, dx, count) = self.k, self.pool, self.k.arguments
        vertical, horizontal = (
            strips(a, not pool.largest) for a in (pool.vertical, pool.horizontal)
        )
        with k.loop(count) as n:
            for rows in vertical:
                with k.loop(rows.times) as i:
                    row = k.sum((i, rows.step), rows.first)
                    to = k.at(dx, (n, pool.image[0]), (row, pool.image[1]))
                    at = (n, pool.out[0]), (k.sum((i, rows.advance), rows.window), pool.out[1])
                    for columns in horizontal:
                        self._row(dy, argmax, to, at, (rows, columns))

    def _row(
        self,
        dy: Any,
        argmax: Any,
        dx: Any,
        at: tuple[Any, ...],
        strip: tuple[PixelStrip, PixelStrip],
    ) -> None:
        """Write a strip of groups of pixels along a row."""
        k, columns = self.k, strip[1]
        with k.loop(columns.times) as j:
            to = k.at(dx, (k.sum((j, columns.step), columns.first), self.pool.image[2]))
            at = (*at, (k.sum((j, columns.advance), columns.window), self.pool.out[2]))
            for c, m in self.channels():
                send = self._sender(dy, argmax, (*at, c), m)
                self._pixels(k.at(to, c), strip, send, m)

    def _pixels(
        self,
        to: Any,
        group: tuple[PixelStrip, PixelStrip],
        send: Callable[[Reach, Reach], Vector],
        m: int,
    ) -> None:
        """Write a group of pixels: the sum of what windows send, in the order of their taps."""
        k, (_, row, pixel) = self.k, self.pool.image
        for (a, down), (b, right) in product(*(enumerate(s.pixels) for s in group)):
            shares = [send(i, j) for i, j in product(down, right)]
            total = shares[0] if shares else k.vector(0.0)
            for share in shares[1:]:
                total = total + share
            k.store(total, k.at(to, a * row + b * pixel), m)

    def _sender(
        self, dy: Any, argmax: Any, at: tuple[Any, ...], m: int
    ) -> Callable[[Reach, Reach], Vector]:
        """Return what gives a window's share for the pixel under one of its taps."""
        k, pool = self.k, self.pool
        tops: dict[Pair, tuple[Vector, Any]] = {}

        def top(down: Reach, right: Reach) -> tuple[Vector, Any]:
            apart = down.window * pool.out[1] + right.window * pool.out[2]
            value = k.load(k.at(dy, *at, apart), m)
            if pool.largest:
                return value, self.load_argmax(self.byte(argmax, *at, apart), m)
            return value * (1 / pool.divides(down.counted, right.counted)), None

        def send(down: Reach, right: Reach) -> Vector:
            window = down.window, right.window
            if window not in tops:
                tops[window] = top(down, right)
            value, where = tops[window]
            if not pool.largest:
                return value
            number = down.tap * pool.horizontal.taps + right.tap
            hit = k.builder.icmp_unsigned("==", where, self.same(number))
            return k.select(hit, value, 0.0)

        return send


def forward(target: Target, pool: PoolWindows, unroll: int) -> KernelBuilder:
    """Return the kernel of pooling: x, y, argmax (largest values only: the tap of each, a byte) and
    the number of images."""
    k = KernelBuilder(target, pool.dtype, ("x", "y", "place"), ("count",))
    _Forward(k, pool, unroll).run()
    return k


def backward(target: Target, pool: PoolWindows, unroll: int) -> KernelBuilder:
    """Return the kernel of the gradient: dy, argmax, dx and the number of images."""
    k = KernelBuilder(target, pool.dtype, ("dy", "place", "dx"), ("count",))
    _Backward(k, pool, unroll).run()
    return k
