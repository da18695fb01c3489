"""Bytes in kernels: numbers rounded to 8-bit integers, and weights laid out for their products.

Weights lie in the order in which they are read: [result / 16][tap][channel / 4][16 results]
[4 channels]. Where channels are filled up, their fours are, too.
"""

from __future__ import annotations

from copy import copy

import llvmlite.ir as ir
import numpy as np

from ..compiler.isa.targets import Target
from ..compiler.language import I32, Integer, KernelBuilder, pieces
from ..compiler.transpose import columns_of
from ..compiler.vectors import Vector
from .sweep import sweep

SUMS, TERMS = 16, 4  # of an instruction
BYTES = SUMS * TERMS
I8 = ir.IntType(8)


def octets(k: KernelBuilder) -> KernelBuilder:
    """Return a kernel with addresses in bytes."""
    other = copy(k)
    other.stored, other.cell = np.dtype(np.int8), I8
    return other


def pack(target: Target, results: int, channels: int, taps: int, quads: int) -> KernelBuilder:
    """Return the kernel that lays weights out for products of integers: w [result][tap][channel],
    and what it writes, with so many fours of channels, which must be zeros before."""
    k = KernelBuilder(target, "float32", ("w", "packed"))
    w, packed = k.arguments
    if channels != quads * TERMS:
        _pack_bytes(k, results, channels, taps, quads)
        return k
    words = taps * channels // TERMS  # moved as they are
    for first, times, rows in pieces(results, SUMS):
        for begin, steps, size in pieces(words, SUMS):
            with k.loop(times) as block, k.loop(steps) as step:
                source = k.at(w, (block, SUMS * words), (step, SUMS), first * words + begin)
                to = k.at(packed, (block, SUMS * words), (step, SUMS * SUMS))
                to = k.at(to, first * words + begin * SUMS)
                for i, column in enumerate(columns_of(k, source, words, rows, size)):
                    k.store(column, k.at(to, i * SUMS))
    return k


def _pack_bytes(k: KernelBuilder, results: int, channels: int, taps: int, quads: int) -> None:
    """Lay weights out whose channels do not fill all fours."""
    b, (w, packed) = octets(k), k.arguments
    for first, times, size in pieces(results, SUMS):
        with k.loop(times) as block, k.loop(size) as lane, k.loop(taps) as tap:
            m = k.sum((block, SUMS), lane, first)
            source = b.at(w, (m, taps * channels), (tap, channels))
            start = (block, taps * quads * BYTES), first // SUMS * taps * quads * BYTES
            to = b.at(packed, *start, (tap, quads * BYTES), (lane, TERMS))
            if channels >= TERMS:
                with k.loop(channels // TERMS) as q:
                    four = k.builder.load(b.at(source, (q, TERMS)), align=1, typ=I32)
                    k.builder.store(four, b.at(to, (q, BYTES)), align=TERMS)
            for i in range(channels - channels % TERMS, channels):
                one = k.builder.load(b.at(source, i), align=1, typ=I8)
                k.builder.store(one, b.at(to, i // TERMS * BYTES + i % TERMS), align=1)


def rounded(target: Target, low: int, high: int) -> KernelBuilder:
    """Return the kernel that rounds float32 numbers to bytes: x, a scale, factors, y, factors that
    are NaN if a number is not finite; how many numbers, how many factors. NaN becomes the
    lowest."""
    pointers = ("x", "scale", "factors", "y", "checked")
    k = KernelBuilder(target, "float32", pointers, ("count", "filters"))
    (x, scale, factors, y, checked, count, filters), b = k.arguments, octets(k)
    rate, nothing = 1.0 / k.broadcast(scale), k.variable()  # NaN where a number was not finite
    kind = ir.VectorType(I8, k.lanes)

    def body(index: Integer, some: Integer | None) -> None:
        value = k.load(k.at(x, index), some)
        none = value - value
        nothing.set(k.select(none.isnan(), none, nothing.get()))
        value = value * rate
        value = Vector(k, k._call(f"llvm.rint.{k._suffix()}", k.wide, [value.value]))
        value = k.larger(value, float(low))
        value = k.select(value < float(high), value, float(high))
        words = k.builder.fptosi(value.value, ir.VectorType(I32, k.lanes))
        numbers, to = k.builder.trunc(words, kind), b.at(y, index)
        if some is None:
            k.builder.store(numbers, to, align=1)
            return
        name = f"llvm.masked.store.v{k.lanes}i8.p0"
        k._call(name, ir.VoidType(), [numbers, to, I32(1), k.mask(some)])

    def check(index: Integer, some: Integer | None) -> None:
        k.store(k.load(k.at(factors, index), some) + either, k.at(checked, index), some)

    sweep(k, count, body)
    either = k.select(k.any(nothing.get().isnan()), float("nan"), 0.0)
    sweep(k, filters, check)
    return k
