"""Tiles: matrices of 16 rows of 64 bytes, of which a processor with AMX multiplies pairs.

A product is that of `dot`: of rows of 32 numbers in bfloat16 and columns of 32, which lie in pairs,
or of 64 integers of 8 bits, which lie in fours. Where `Target.tiles` says "dot", AVX512-BF16's
instruction multiplies a row at a time in their place; where it says "emulated", plain instructions
do what AMX does, number by number and bit by bit, but for denormal numbers, which AMX takes for
zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import llvmlite.ir as ir

from .bfloat import BFLOATS
from .language import I32, I64, POINTER, KernelBuilder

ROWS, BYTES = 16, 64  # of a tile
TILE = ROWS * BYTES
TILES = 8
I8 = ir.IntType(8)
WORDS, REALS = ir.VectorType(I32, ROWS), ir.VectorType(ir.FloatType(), ROWS)
# Instructions, by the type of the first factor. Integers of the second one are signed.
PRODUCTS = {"bfloat16": "tdpbf16ps", "int8": "tdpbssd", "uint8": "tdpbusd"}
Place = tuple[Any, int]  # where a tile begins, and bytes from one of its rows to the next


class Tiles:
    """The tiles of a kernel, of given `shapes`: rows and bytes of a row. Factors are of the type
    `kind`. They are the thread's: a kernel must `release` them at its end."""

    def __init__(
        self, k: KernelBuilder, shapes: Sequence[tuple[int, int]], kind: str = "bfloat16"
    ) -> None:
        self.k, self.shapes, self._amx = k, tuple(shapes), k.target.tiles == "amx"
        self.kind = kind
        if len(shapes) > TILES:
            raise ValueError(f"tiles: expected at most {TILES}, got {len(shapes)}")
        if not self._amx:
            # Sums lie in memory, and operands where they are.
            self._sums = k.room(len(shapes) * TILE)
            self._operands: dict[int, Place] = {}
            return
        # Palette 1, then for each tile the bytes of a row from byte 16, the rows from byte 48.
        shape = bytearray(BYTES)
        shape[0] = 1
        for tile, (rows, width) in enumerate(shapes):
            shape[16 + 2 * tile], shape[48 + tile] = width, rows
        kind = ir.ArrayType(I8, BYTES)
        constant = ir.GlobalVariable(k.module, kind, "tiles")
        constant.global_constant, constant.align = True, BYTES
        constant.initializer = ir.Constant(kind, shape)
        self._call("ldtilecfg", k.builder.bitcast(constant, POINTER))

    def release(self) -> None:
        """Give the tiles back."""
        if self._amx:
            self._call("tilerelease")

    def zero(self, tile: int) -> None:
        """Set a tile of sums to zeros."""
        if self._amx:
            self._call("tilezero", I8(tile))
            return
        for row in range(self.shapes[tile][0]):
            self.k.builder.store(ir.Constant(WORDS, [0] * ROWS), self._row(tile, row), align=BYTES)

    def operand(self, tile: int, pointer: Any, stride: int = BYTES) -> None:
        """Read a factor, whose rows are so many bytes apart. It must not change while in use."""
        if self._amx:
            self._call("tileloadd64", I8(tile), pointer, I64(stride))
        else:
            self._operands[tile] = pointer, stride

    def load(self, tile: int, pointer: Any, stride: int = BYTES) -> None:
        """Read sums, whose rows are so many bytes apart."""
        if self._amx:
            self._call("tileloadd64", I8(tile), pointer, I64(stride))
            return
        for row in range(self.shapes[tile][0]):
            value = self.k.builder.load(
                _far(self.k.builder, pointer, row * stride), align=4, typ=WORDS
            )
            self.k.builder.store(value, self._row(tile, row), align=BYTES)

    def resume(self, begins: Any, places: Sequence[Any]) -> None:
        """Set the first tiles, of sums, to zeros where a flag is set, else read them from memory
        without gaps."""
        with self.k.builder.if_else(begins) as (begin, go_on):
            with begin:
                for tile in range(len(places)):
                    self.zero(tile)
            with go_on:
                for tile, place in enumerate(places):
                    self.load(tile, place)

    def store(self, tile: int, pointer: Any, stride: int = BYTES) -> None:
        """Write sums, whose rows are so many bytes apart."""
        if self._amx:
            self._call("tilestored64", I8(tile), pointer, I64(stride))
            return
        for row in range(self.shapes[tile][0]):
            value = self.k.builder.load(self._row(tile, row), align=BYTES, typ=WORDS)
            self.k.builder.store(value, _far(self.k.builder, pointer, row * stride), align=4)

    def dot(self, sums: int, a: int, b: int) -> None:
        """Add products to float32 sums: sums[i, j] += the sum over k of a[i, 2k] b[k, 2j] and
        a[i, 2k + 1] b[k, 2j + 1]. Even and odd products are summed up apart, in the order of k,
        before they are added (Intel's manual, TDPBF16PS). Of 8-bit integers, sums of four products
        are added to 32-bit sums. ValueError for shapes that AMX would refuse."""
        (high, wide), (rows, width), (deep, across) = (self.shapes[t] for t in (sums, a, b))
        if (rows, width, across) != (high, 4 * deep, wide):
            shapes = [self.shapes[t] for t in (sums, a, b)]
            raise ValueError(f"dot: expected tiles of n x m, n x 4 k and k x m bytes, got {shapes}")
        if self._amx:
            self._call(PRODUCTS[self.kind], I8(sums), I8(a), I8(b))
        else:
            self._product([sums], a, [b])

    def dots(self, sums: Sequence[int], a: int, factors: Sequence[int]) -> None:
        """Add products of a factor and several others to as many sums, as `dot`."""
        shapes = {(self.shapes[s], self.shapes[b]) for s, b in zip(sums, factors, strict=True)}
        if self.k.target.tiles == "dot" and len(shapes) == 1:
            self._product(sums, a, factors)
            return
        for total, b in zip(sums, factors, strict=True):
            self.dot(total, a, b)

    def _product(self, sums: Sequence[int], a: int, factors: Sequence[int]) -> None:
        """Call what multiplies in the place of AMX."""
        (rows, _), (deep, _) = self.shapes[a], self.shapes[factors[0]]
        (first, down), others = self._operands[a], [self._operands[b] for b in factors]
        across = tuple(apart for _, apart in others)
        name = "_".join(map(str, (self.kind, rows, deep, down, *across)))
        function = self.k.module.globals.get(name)
        if function is None:
            write = _dots if self.k.target.tiles == "dot" else _emulated
            if self.kind != "bfloat16":
                write = partial(_integers, self.kind == "int8")
            function = _function(self.k.module, name, len(sums), write(rows, deep, down, across))
        places = [self._row(total, 0) for total in sums]
        self.k.builder.call(function, [first, *places, *(b for b, _ in others)])

    def _row(self, tile: int, row: int) -> Any:
        return _far(self.k.builder, self._sums, (tile * ROWS + row) * BYTES)

    def _call(self, name: str, *values: Any) -> None:
        self.k._call(f"llvm.x86.{name}", ir.VoidType(), [*values])


# Writes what adds to sums the products of a factor and others, given the addresses of all of them.
Body = Callable[[ir.IRBuilder, Any, Sequence[Any], Sequence[Any]], None]


def _far(builder: ir.IRBuilder, pointer: Any, offset: int) -> Any:
    return builder.gep(pointer, [I64(offset)], source_etype=I8) if offset else pointer


def _function(module: ir.Module, name: str, count: int, body: Body) -> ir.Function:
    """Return a function of the addresses of a factor, so many sums, and as many factors."""
    kinds = [POINTER] * (1 + 2 * count)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    a, *others = function.args
    body(builder, a, others[:count], others[count:])
    builder.ret_void()
    return function


def _dots(rows: int, pairs: int, down: int, across: Sequence[int]) -> Body:
    """Return the body of products by AVX512-BF16, with sums of some rows in registers: the fewer
    rows, the more products share what is read of the first factor."""
    together = ROWS // len(across)

    def body(builder: ir.IRBuilder, a: Any, sums: Sequence[Any], factors: Sequence[Any]) -> None:
        kind = ir.FunctionType(REALS, [REALS, BFLOATS, BFLOATS])
        name = "llvm.x86.avx512bf16.dpbf16ps.512"
        dot = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        for first in range(0, rows, together):
            some = range(first, min(rows, first + together))
            places = [[_far(builder, at, row * BYTES) for at in sums] for row in some]
            totals = [[builder.load(at, align=BYTES, typ=REALS) for at in row] for row in places]
            for step in range(pairs):
                columns = [
                    builder.bitcast(
                        builder.load(_far(builder, b, step * apart), align=2, typ=WORDS), BFLOATS
                    )
                    for b, apart in zip(factors, across, strict=True)
                ]
                for row, line in zip(some, totals, strict=True):
                    word = builder.load(_far(builder, a, row * down + 4 * step), align=2, typ=I32)
                    pair = builder.bitcast(_spread(builder, word), BFLOATS)
                    line[:] = [
                        builder.call(dot, [total, pair, b])
                        for total, b in zip(line, columns, strict=True)
                    ]
            for to, line in zip(places, totals, strict=True):
                for at, total in zip(to, line, strict=True):
                    builder.store(total, at, align=BYTES)

    return body


def _emulated(rows: int, pairs: int, down: int, across: Sequence[int]) -> Body:
    """Return the body of a product that does what `dot` says."""

    def body(builder: ir.IRBuilder, a: Any, sums: Sequence[Any], factors: Sequence[Any]) -> None:
        with _rows(builder, rows, sums[0], a, down) as (at, first):
            totals = [ir.Constant(REALS, [0.0] * ROWS)] * 2
            for step in range(pairs):
                word = builder.load(_far(builder, first, 4 * step), align=2, typ=I32)
                other = _far(builder, factors[0], step * across[0])
                columns, pair = builder.load(other, align=2, typ=WORDS), _spread(builder, word)
                for odd in (0, 1):
                    product = builder.fmul(_half(builder, pair, odd), _half(builder, columns, odd))
                    totals[odd] = builder.fadd(totals[odd], product)
            total = builder.fadd(builder.load(at, align=4, typ=REALS), builder.fadd(*totals))
            builder.store(total, at, align=4)

    return body


def _integers(signed: bool, rows: int, fours: int, down: int, across: Sequence[int]) -> Body:
    """Return the body of a product of 8-bit integers, of which the first are `signed` or not."""

    def body(builder: ir.IRBuilder, a: Any, sums: Sequence[Any], factors: Sequence[Any]) -> None:
        with _rows(builder, rows, sums[0], a, down) as (at, first):
            total = builder.load(at, align=4, typ=WORDS)
            for step in range(fours):
                word = builder.load(_far(builder, first, 4 * step), align=1, typ=I32)
                other = _far(builder, factors[0], step * across[0])
                columns, four = builder.load(other, align=1, typ=WORDS), _spread(builder, word)
                for i in range(4):
                    pair = _octet(builder, four, i, signed), _octet(builder, columns, i, True)
                    total = builder.add(total, builder.mul(*pair))
            builder.store(total, at, align=4)

    return body


@contextmanager
def _rows(
    builder: ir.IRBuilder, rows: int, sums: Any, a: Any, down: int
) -> Iterator[tuple[Any, Any]]:
    """Loop over rows: yield the addresses of sums and of the first factor's numbers."""
    before, loop = builder.block, builder.append_basic_block("row")
    builder.branch(loop)
    builder.position_at_end(loop)
    row = builder.phi(I64)
    row.add_incoming(I64(0), before)
    yield tuple(
        builder.gep(start, [builder.mul(row, I64(apart))], source_etype=I8)
        for start, apart in ((sums, BYTES), (a, down))
    )
    following = builder.add(row, I64(1))
    row.add_incoming(following, loop)
    end = builder.append_basic_block("end")
    builder.cbranch(builder.icmp_unsigned("<", following, I64(rows)), loop, end)
    builder.position_at_end(end)


def _spread(builder: ir.IRBuilder, word: Any) -> Any:
    undefined = ir.Constant(WORDS, ir.Undefined)
    first = builder.insert_element(undefined, word, I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(WORDS, [0] * ROWS))


def _half(builder: ir.IRBuilder, words: Any, odd: int) -> Any:
    """Return the even or the odd bfloat16 numbers of words, in float32."""
    if odd:
        bits = builder.and_(words, ir.Constant(WORDS, [0xFFFF0000] * ROWS))
    else:
        bits = builder.shl(words, ir.Constant(WORDS, [16] * ROWS))
    return builder.bitcast(bits, REALS)


def _octet(builder: ir.IRBuilder, words: Any, number: int, signed: bool) -> Any:
    """Return an 8-bit integer of each word, in 32 bits."""
    up = builder.shl(words, ir.Constant(WORDS, [24 - 8 * number] * ROWS))
    down = builder.ashr if signed else builder.lshr
    return down(up, ir.Constant(WORDS, [24] * ROWS))
