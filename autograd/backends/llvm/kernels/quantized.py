"""Correlation of images of 8-bit integers by an instruction that adds four products at a time to
each of 16 sums (AVX512-VNNI), as x86 has it: unsigned numbers of x, of which four channels are
spread to all sums, times signed weights of 16 results.

Signed numbers of x are moved up by 128, as are the zeros of a border; what this adds to a sum, 128
times the weights of a result, is what the sum starts below zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import llvmlite.ir as ir

from ..compiler.isa.targets import Target
from ..compiler.language import I1, I32, Integer, KernelBuilder, pieces
from ..compiler.vectors import Vector
from .border import Pair, inside
from .octets import BYTES, I8, SUMS, TERMS, octets

UNROLL = 4  # groups of channels in a turn of the innermost loop
WORDS, OCTETS = ir.VectorType(I32, SUMS), ir.VectorType(I8, BYTES)


class IntegerCorrelation(NamedTuple):
    """y[n, e, f, m] = scale[m] (the sum over taps (i, j) and channels of x[n, u e + p i + row,
    v f + q j + column, :] w[m, i, j, :]) + bias[m], where (row, column) is `start`, in each of the
    groups."""

    signed: bool  # x
    groups: int  # the share of channels and of results that each has:
    channels: int
    results: int
    image: Pair  # (h, w) of x
    output: Pair  # (e, f), results along each axis
    taps: Pair
    stride: Pair  # (u, v)
    dilation: Pair  # (p, q)
    start: Pair

    @property
    def quads(self) -> int:
        """Groups of four channels; the last is filled with zeros."""
        return -(-self.channels // TERMS)

    @property
    def blocks(self) -> int:
        """Groups of 16 results."""
        return -(-self.results // SUMS)

    @property
    def weights(self) -> int:
        """Bytes of the weights of 16 results."""
        return prod(self.taps) * self.quads * BYTES

    @property
    def seen(self) -> Pair:
        """Rows and columns that windows see."""
        axes = zip(self.output, self.taps, self.stride, self.dilation, strict=True)
        rows, columns = ((n - 1) * u + (r - 1) * p + 1 for n, r, u, p in axes)
        return rows, columns

    @property
    def is_copied(self) -> bool:
        """Whether images are copied to where they have a border, and are unsigned."""
        sizes = zip(self.start, self.seen, self.image, strict=True)
        beyond = any(a < 0 or a + n > whole for a, n, whole in sizes)
        return beyond or self.signed or self.groups > 1 or self.channels % TERMS > 0

    @property
    def strides(self) -> tuple[int, int, int]:
        """Bytes from one image, row and pixel to the next, as windows see them."""
        h, w = self.seen if self.is_copied else self.image
        pixel = self.quads * TERMS
        return h * w * pixel, w * pixel, pixel


class IntegerTile(NamedTuple):
    """Results in registers: rows and columns of pixels, and groups of 16 channels; and how many
    images go through the weights at a time."""

    rows: int
    columns: int
    blocks: int
    images: int


def correlate(
    target: Target, c: IntegerCorrelation, tile: IntegerTile, biased: bool
) -> KernelBuilder:
    """Return the kernel of a correlation: x, packed weights, scale, bias if there is one, y, memory
    for `tile.images` images if they are copied, number of images. All but integers is float32."""
    pointers = ("x", "w", "scale", *("bias",) * biased, "y", "room")
    k = KernelBuilder(target, "float32", pointers, ("count",))
    writer = _Writer(k, c, tile)
    images, count = tile.images, k.arguments[-1]
    chunks = k.builder.udiv(k.sum(count, images - 1), k.integer(images))
    with k.loop(chunks) as chunk:
        first = k.times(chunk, images)
        many = k.least(images, k.builder.sub(count, k.integer(first)))
        with k.loop(c.groups) as writer.group:
            if c.is_copied:
                with k.loop(many) as n:
                    writer.copy(k.sum(first, n), n)
            for block, times, size, last in _blocks(c, tile.blocks):
                with k.loop(times) as i, k.loop(many) as n:
                    writer.image(k.sum(first, n), n, k.sum((i, size), block), size, last)
    return k


def _blocks(c: IntegerCorrelation, size: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield blocks of results, so many at a time: the first, how many times, blocks each time,
    results in the last block of each."""
    last = c.results - (c.blocks - 1) * SUMS
    for block, times, some in pieces(c.blocks, size):
        ends = block + times * some == c.blocks
        if ends and times > 1 and last < SUMS:
            yield block, times - 1, some, SUMS
            block, times = block + (times - 1) * some, 1
        yield block, times, some, last if ends else SUMS


class _Writer:
    """Writes a correlation image by image."""

    def __init__(self, k: KernelBuilder, c: IntegerCorrelation, tile: IntegerTile) -> None:
        self.k, self.b, self.c, self.tile = k, octets(k), c, tile
        names = dict(zip((*k.pointers, *k.integers), k.arguments, strict=True))
        self.x, self.w, self.y, self.room = (names[n] for n in ("x", "w", "y", "room"))
        self.scale, self.bias = names["scale"], names.get("bias")
        most = tile.rows * tile.columns * tile.blocks
        self.sums = [k._first.alloca(WORDS) for _ in range(most)]
        self.starts = k.room(c.groups * c.blocks * BYTES) if c.signed else None
        self.group: Integer = 0
        if c.signed:
            self._begin()

    def _begin(self) -> None:
        """Write what sums start from: the weights times -128."""
        k, b, c = self.k, self.b, self.c
        upper = ir.Constant(WORDS, [-0x7F7F7F80] * SUMS)  # four times 128
        with k.loop(c.groups * c.blocks) as block:
            k.builder.store(_zeros(), self.sums[0])
            with k.loop(c.weights // BYTES) as step:
                weights = self._words(b.at(self.w, (block, c.weights), (step, BYTES)))
                total = self._dot(k.builder.load(self.sums[0], typ=WORDS), upper, weights)
                k.builder.store(total, self.sums[0])
            total = k.builder.neg(k.builder.load(self.sums[0], typ=WORDS))
            k.builder.store(total, b.at(self.starts, (block, BYTES)), align=TERMS)

    def copy(self, image: Integer, place: Integer) -> None:
        """Copy an image of x to its place in the room, with its border."""
        k, b, c = self.k, self.b, self.c
        whole, line, pixel = c.strides
        edge = ir.Constant(OCTETS, [-128 if c.signed else 0] * BYTES)
        to = b.at(self.room, (place, whole))
        for first, times, size in pieces(whole, BYTES):
            with k.loop(times) as i:
                self._store(edge, b.at(to, (i, BYTES), first), size)
        (r, rows), (s, columns) = (
            inside(*axis) for axis in zip(c.start, c.seen, c.image, strict=True)
        )
        if rows <= r or columns <= s:
            return
        each = c.groups * c.channels
        own = c.image[1] * each
        source = b.at(self.x, (image, c.image[0] * own), (self.group, c.channels))
        source = b.at(source, (c.start[0] + r) * own + (c.start[1] + s) * each)
        to = b.at(to, r * line + s * pixel)
        runs, run = (1, (columns - s) * pixel) if pixel == each else (columns - s, c.channels)
        with k.loop(rows - r) as row, k.loop(runs) as i:
            here = b.at(source, (row, own), (i, each))
            there = b.at(to, (row, line), (i, pixel))
            for first, times, size in pieces(run, BYTES):
                with k.loop(times) as j:
                    value = self._load(b.at(here, (j, BYTES), first), size)
                    value = k.builder.xor(value, edge)
                    self._store(value, b.at(there, (j, BYTES), first), size)

    def image(self, image: Integer, place: Integer, block: Integer, size: int, last: int) -> None:
        """Write an image of y in `size` groups of results, the last of which has `last`."""
        k, b, c = self.k, self.b, self.c
        whole, line, pixel = c.strides
        source = b.at(
            self.room if c.is_copied else self.x, (place if c.is_copied else image, whole)
        )
        if not c.is_copied:
            source = b.at(source, c.start[0] * line + c.start[1] * pixel)
        (e, f), each = c.output, c.groups * c.results
        weights = b.at(self.w, (self.group, c.blocks * c.weights), (block, c.weights))
        to = k.at(self.y, (image, e * f * each), (self.group, c.results), (block, SUMS))
        for top, row_times, rows in pieces(e, self.tile.rows):
            for left, times, columns in pieces(f, self.tile.columns):
                with k.loop(row_times) as i, k.loop(times) as j:
                    row, column = k.sum((i, rows), top), k.sum((j, columns), left)
                    begin = (row, c.stride[0] * line), (column, c.stride[1] * pixel)
                    self._begin_sums(block, size, rows * columns)
                    self._add(b.at(source, *begin), weights, size, rows, columns)
                    place_y = k.at(to, (row, f * each), (column, each))
                    self._write(place_y, block, size, last, rows, columns)

    def _begin_sums(self, block: Integer, size: int, pixels: int) -> None:
        for m in range(size):
            start = _zeros()
            if self.starts is not None:
                place = (self.group, self.c.blocks * BYTES), (block, BYTES), m * BYTES
                start = self._words(self.b.at(self.starts, *place))
            for p in range(pixels):
                self.k.builder.store(start, self.sums[p * size + m])

    def _add(self, source: Any, weights: Any, size: int, rows: int, columns: int) -> None:
        """Add all products of a tile to its sums."""
        k, b, c = self.k, self.b, self.c
        _, line, pixel = c.strides
        # Without dilation the taps of a row are further channels of one long pixel.
        taps, quads = (c.taps[1], c.quads) if c.dilation[1] > 1 else (1, c.taps[1] * c.quads)
        offsets = [
            row * c.stride[0] * line + column * c.stride[1] * pixel
            for row in range(rows) for column in range(columns)
        ]  # fmt: skip
        with k.loop(c.taps[0]) as i, k.loop(taps) as j:
            x = b.at(source, (i, c.dilation[0] * line), (j, c.dilation[1] * pixel))
            w = b.at(weights, (i, c.taps[1] * c.quads * BYTES), (j, c.quads * BYTES))
            for first, times, some in pieces(quads, UNROLL):
                with k.loop(times) as turn:
                    for u in range(some):
                        here = b.at(x, (turn, some * TERMS), (first + u) * TERMS)
                        there = b.at(w, (turn, some * BYTES), (first + u) * BYTES)
                        self._step(here, there, size, offsets)

    def _step(self, x: Any, w: Any, size: int, offsets: list[int]) -> None:
        """Add the products of four channels."""
        k, b = self.k, self.b
        weights = [self._words(b.at(w, m * self.c.weights)) for m in range(size)]
        for p, offset in enumerate(offsets):
            four = k.builder.load(b.at(x, offset), align=1, typ=I32)
            spread = k._spread(four, I32)
            for m, some in enumerate(weights):
                slot = self.sums[p * size + m]
                total = self._dot(k.builder.load(slot, typ=WORDS), spread, some)
                k.builder.store(total, slot)

    def _write(
        self, to: Any, block: Integer, size: int, last: int, rows: int, columns: int
    ) -> None:
        """Scale the sums of a tile, add the bias, and write them to y."""
        k, c = self.k, self.c
        for m in range(size):
            some = last if m == size - 1 else SUMS
            place = (self.group, c.results), (block, SUMS), m * SUMS
            scale = k.load(k.at(self.scale, *place), some)
            bias = self.bias and k.load(k.at(self.bias, *place), some)
            for row in range(rows):
                for column in range(columns):
                    slot = self.sums[(row * columns + column) * size + m]
                    total = k.builder.load(slot, typ=WORDS)
                    value = Vector(k, k.builder.sitofp(total, k.wide)) * scale
                    pixel = (row * c.output[1] + column) * c.groups * c.results
                    k.store(value + bias if bias else value, k.at(to, pixel + m * SUMS), some)

    def _dot(self, sums: Any, x: Any, w: Any) -> Any:
        return self.k._call("llvm.x86.avx512.vpdpbusd.512", WORDS, [sums, x, w])

    def _words(self, pointer: Any) -> Any:
        return self.k.builder.load(pointer, align=TERMS, typ=WORDS)

    def _load(self, pointer: Any, size: int) -> Any:
        if size == BYTES:
            return self.k.builder.load(pointer, align=1, typ=OCTETS)
        rest = ir.Constant(OCTETS, [0] * BYTES)
        values = [pointer, I32(1), _mask(size), rest]
        return self.k._call("llvm.masked.load.v64i8.p0", OCTETS, values)

    def _store(self, value: Any, pointer: Any, size: int) -> None:
        if size == BYTES:
            self.k.builder.store(value, pointer, align=1)
            return
        values = [value, pointer, I32(1), _mask(size)]
        self.k._call("llvm.masked.store.v64i8.p0", ir.VoidType(), values)


def _zeros() -> Any:
    return ir.Constant(WORDS, [0] * SUMS)


def _mask(size: int) -> Any:
    return ir.Constant(ir.VectorType(I1, BYTES), [i < size for i in range(BYTES)])
