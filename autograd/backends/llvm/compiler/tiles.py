"""Tiles: matrices of 16 rows of 64 bytes, of which a processor with AMX multiplies pairs.

A product is that of `dot`: of rows of 32 numbers in bfloat16 and columns of 32, which lie in pairs.
Where `Target.tiles` says "emulated", plain instructions do the same, number by number and bit by
bit, but for denormal numbers, which AMX takes for zeros.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir

from .language import I32, I64, POINTER, Integer, KernelBuilder

ROWS, BYTES = 16, 64  # of a tile
TILE = ROWS * BYTES
TILES = 8
I8 = ir.IntType(8)
WORDS, REALS = ir.VectorType(I32, ROWS), ir.VectorType(ir.FloatType(), ROWS)


class Tiles:
    """The eight tiles of a kernel. They are the thread's: a kernel must `release` them at its
    end."""

    def __init__(self, k: KernelBuilder) -> None:
        self.k, self._emulated = k, k.target.tiles == "emulated"
        if self._emulated:
            self._memory = k.room(TILES * TILE)
            return
        # Palette 1, then for each tile the bytes of a row from byte 16, the rows from byte 48.
        shape = bytearray(BYTES)
        shape[0] = 1
        for tile in range(TILES):
            shape[16 + 2 * tile], shape[48 + tile] = BYTES, ROWS
        kind = ir.ArrayType(I8, BYTES)
        constant = ir.GlobalVariable(k.module, kind, "tiles")
        constant.global_constant, constant.align = True, BYTES
        constant.initializer = ir.Constant(kind, shape)
        self._call("ldtilecfg", k.builder.bitcast(constant, POINTER))

    def release(self) -> None:
        """Give the tiles back."""
        if not self._emulated:
            self._call("tilerelease")

    def zero(self, tile: int) -> None:
        """Set a tile to zeros."""
        if not self._emulated:
            self._call("tilezero", I8(tile))
            return
        for row in range(ROWS):
            self.k.builder.store(ir.Constant(WORDS, [0] * ROWS), self._row(tile, row), align=BYTES)

    def load(self, tile: int, pointer: Any, stride: Integer = BYTES) -> None:
        """Read a tile, whose rows are so many bytes apart."""
        if not self._emulated:
            self._call("tileloadd64", I8(tile), pointer, self.k.integer(stride))
            return
        for row in range(ROWS):
            value = self.k.builder.load(self._far(pointer, row, stride), align=2, typ=WORDS)
            self.k.builder.store(value, self._row(tile, row), align=BYTES)

    def store(self, tile: int, pointer: Any, stride: Integer = BYTES) -> None:
        """Write a tile, whose rows are so many bytes apart."""
        if not self._emulated:
            self._call("tilestored64", I8(tile), pointer, self.k.integer(stride))
            return
        for row in range(ROWS):
            value = self.k.builder.load(self._row(tile, row), align=BYTES, typ=WORDS)
            self.k.builder.store(value, self._far(pointer, row, stride), align=2)

    def dot(self, sums: int, a: int, b: int) -> None:
        """Add products to float32 sums: sums[i, j] += the sum over k of a[i, 2k] b[k, 2j] and
        a[i, 2k + 1] b[k, 2j + 1]. Even and odd products are summed up apart, in the order of k,
        before they are added (Intel's manual, TDPBF16PS)."""
        if not self._emulated:
            self._call("tdpbf16ps", I8(sums), I8(a), I8(b))
            return
        function = self.k.module.globals.get("dot") or _emulated_dot(self.k.module)
        self.k.builder.call(function, [self._row(tile, 0) for tile in (sums, a, b)])

    def _row(self, tile: int, row: int) -> Any:
        return self._far(self._memory, tile * ROWS + row, BYTES)

    def _far(self, pointer: Any, times: int, stride: Integer) -> Any:
        offset = self.k.integer(self.k.times(times, stride))
        return self.k.builder.gep(pointer, [offset], source_etype=I8)

    def _call(self, name: str, *values: Any) -> None:
        self.k._call(f"llvm.x86.{name}", ir.VoidType(), [*values])


def _emulated_dot(module: ir.Module) -> ir.Function:
    """Return a function of the addresses of three tiles that does what `dot` says."""
    kind = ir.FunctionType(ir.VoidType(), [POINTER] * 3)
    function = ir.Function(module, kind, "dot")
    function.linkage = "internal"
    function.attributes.add("noinline")
    sums, a, b = function.args
    entry = function.append_basic_block("entry")
    loop, end = function.append_basic_block("row"), function.append_basic_block("end")
    builder = ir.IRBuilder(entry)
    builder.branch(loop)
    builder.position_at_end(loop)
    row = builder.phi(I64)
    row.add_incoming(I64(0), entry)
    far = builder.mul(row, I64(BYTES))
    totals = [ir.Constant(REALS, [0.0] * ROWS)] * 2
    for step in range(ROWS):
        at = builder.gep(a, [builder.add(far, I64(4 * step))], source_etype=I8)
        pair = _spread(builder, builder.load(at, align=2, typ=I32))
        at = builder.gep(b, [I64(BYTES * step)], source_etype=I8)
        columns = builder.load(at, align=2, typ=WORDS)
        for odd in (0, 1):
            product = builder.fmul(_half(builder, pair, odd), _half(builder, columns, odd))
            totals[odd] = builder.fadd(totals[odd], product)
    at = builder.gep(sums, [far], source_etype=I8)
    before = builder.load(at, align=4, typ=REALS)
    builder.store(builder.fadd(before, builder.fadd(*totals)), at, align=4)
    following = builder.add(row, I64(1))
    row.add_incoming(following, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, I64(ROWS)), loop, end)
    builder.position_at_end(end)
    builder.ret_void()
    return function


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
