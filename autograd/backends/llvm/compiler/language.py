"""A small language for kernels: arguments, addresses, loops and vectors, emitted as LLVM's
intermediate representation. Python runs once, while a kernel is generated: its own loops unroll,
`KernelBuilder.loop` emits a loop.

A kernel takes pointers and 64-bit integers and returns nothing. Vectors are as wide as the target's
registers; where fewer lanes are meant, `count` masks the others out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, TypeAlias

import llvmlite.ir as ir
import numpy as np
import numpy.typing as npt

from ....dtypes import computed_in, is_narrow
from . import pairs
from .bfloat import HALF_BFLOATS
from .isa.targets import Target
from .vectors import Variable, Vector

I1, I16, I32, I64 = ir.IntType(1), ir.IntType(16), ir.IntType(32), ir.IntType(64)
POINTER = ir.PointerType()
REALS = {4: ir.FloatType(), 8: ir.DoubleType()}

Integer: TypeAlias = Any  # an int, or LLVM's value for one
Term: TypeAlias = Any  # an Integer, or a pair (Integer, stride)


class KernelBuilder:
    """A function under construction.

    `pointers` and `integers` name its arguments, in order, which are in `arguments`. Numbers lie in
    memory in the type `stored`, which is also that of the steps of addresses; vectors have the type
    `dtype`, in which they are computed. It is another one only where the type is narrow, as
    bfloat16 is: loads widen, and stores round to the nearest, ties to even. LLVM may assume that
    what is written through one pointer is not accessed through another, except for those in
    `aliases`: calls may pass one address for several of these. ValueError for an alias that names
    no pointer.
    """

    def __init__(
        self, target: Target, dtype: npt.DTypeLike, pointers: Sequence[str],
        integers: Sequence[str] = (), aliases: Sequence[str] = (),
    ) -> None:  # fmt: skip
        if others := {*aliases} - {*pointers}:
            known = ", ".join(pointers)
            raise ValueError(f"aliases: expected names of pointers ({known}), got {others.pop()!r}")
        self.target, self.stored = target, np.dtype(dtype)
        self.dtype = computed_in(self.stored)
        self.pointers, self.integers = tuple(pointers), tuple(integers)
        self.lanes = target.lanes(dtype)
        self.real = REALS[self.dtype.itemsize]
        self.cell = I16 if is_narrow(self.stored) else self.real  # of memory
        self.wide = ir.VectorType(self.real, self.lanes)
        self.module = ir.Module("kernel")
        kinds = [POINTER] * len(pointers) + [I64] * len(integers)
        self.function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), kinds), "kernel")
        for name, argument in zip(pointers, self.function.args, strict=False):
            if name not in aliases:
                argument.add_attribute("noalias")
        self.arguments = list(self.function.args)
        # Variables stand in the first block, so that LLVM finds them all.
        self._first = ir.IRBuilder(self.function.append_basic_block("variables"))
        self._body = self.function.append_basic_block("body")
        self.builder = ir.IRBuilder(self._body)

    def text(self) -> str:
        """End the function and return its text in LLVM's intermediate representation. Call it
        once."""
        self.builder.ret_void()
        self._first.branch(self._body)
        bits = self.target.bits
        # Else LLVM cuts 512-bit vectors in two on the processors for which it prefers 256.
        width = f'"min-legal-vector-width"="{bits}" "prefer-vector-width"="{bits}"'
        return re.sub("^(define .*)$", rf"\1 {width}", str(self.module), flags=re.MULTILINE)

    # Integers, addresses and loops.

    def integer(self, value: Integer) -> Any:
        """Return LLVM's value for an integer."""
        return ir.Constant(I64, value) if isinstance(value, int) else value

    def sum(self, *terms: Term) -> Integer:
        """Return the sum of terms, which are integers or pairs (integer, stride). Python adds up
        constants, and they come last."""
        constant, moving = 0, None
        for term in terms:
            value, stride = term if isinstance(term, tuple) else (term, 1)
            if isinstance(value, int) and isinstance(stride, int):
                constant += value * stride
                continue
            product = self.times(value, stride)
            moving = product if moving is None else self.builder.add(moving, product)
        if moving is None:
            return constant
        return self.builder.add(moving, self.integer(constant)) if constant else moving

    def times(self, a: Integer, b: Integer) -> Integer:
        """Return a product of integers."""
        if isinstance(a, int) and isinstance(b, int):
            return a * b
        if isinstance(b, int) and b == 1:
            return a
        return self.builder.mul(self.integer(a), self.integer(b))

    def least(self, a: Integer, b: Integer) -> Integer:
        """Return the smaller of two integers."""
        a, b = self.integer(a), self.integer(b)
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def at(self, pointer: Any, *terms: Term) -> Any:
        """Return a pointer, advanced by terms as for `sum`, in numbers as they lie in memory. The
        constant part is added last: it becomes a displacement of the instruction that reads or
        writes there."""
        constant = 0
        moving: list[Term] = []
        for term in terms:
            value, stride = term if isinstance(term, tuple) else (term, 1)
            if isinstance(value, int) and isinstance(stride, int):
                constant += value * stride
            else:
                moving.append(term)
        for offset in ([self.sum(*moving)] if moving else []) + ([constant] if constant else []):
            pointer = self.builder.gep(pointer, [self.integer(offset)], source_etype=self.cell)
        return pointer

    @contextmanager
    def loop(self, count: Integer) -> Iterator[Integer]:
        """Run the block with 0, 1 .. count - 1. It runs at least once, so `count` must not be 0. A
        constant 1 makes no loop."""
        if isinstance(count, int) and count == 1:
            yield 0
            return
        builder = self.builder
        # The test stands at the end, which saves a jump.
        before, body = builder.block, builder.append_basic_block("loop")
        builder.branch(body)
        builder.position_at_end(body)
        index = builder.phi(I64)
        index.add_incoming(self.integer(0), before)
        yield index
        following = builder.add(index, self.integer(1))
        # Not `body`: loops and branches in it have ended in blocks of their own.
        index.add_incoming(following, builder.block)
        end = builder.append_basic_block("end")
        again = builder.icmp_unsigned("<", following, self.integer(count))
        builder.cbranch(again, body, end)
        builder.position_at_end(end)

    @contextmanager
    def where(self, flag: Any, likely: bool | None = None) -> Iterator[None]:
        """Run the block only where a flag is set."""
        with self.builder.if_then(flag, likely=likely):
            yield

    def positive(self, count: Integer) -> Any:
        """Return a flag: whether an integer is above 0."""
        return self.builder.icmp_signed(">", self.integer(count), self.integer(0))

    def none(self, *values: Integer) -> Any:
        """Return a flag: whether all integers are 0."""
        flag: Any = I1(1)
        for value in values:
            zero = self.builder.icmp_signed("==", self.integer(value), self.integer(0))
            flag = self.builder.and_(flag, zero)
        return flag

    def read(self, pointer: Any, index: Integer) -> Any:
        """Return one of the 64-bit integers at an address."""
        at = self.builder.gep(pointer, [self.integer(index)], source_etype=I64)
        return self.builder.load(at, typ=I64)

    # Vectors.

    def vector(self, value: Vector | float) -> Vector:
        """Return a vector of a number; a vector as it is."""
        if isinstance(value, Vector):
            return value
        return Vector(self, ir.Constant(self.wide, [float(value)] * self.lanes))

    def variable(self, value: Vector | float = 0.0) -> Variable:
        """Return a variable that holds a value."""
        variable = Variable(self, self._first.alloca(self.wide))
        variable.set(self.vector(value))
        return variable

    def room(self, size: int) -> Any:
        """Return the address of so many bytes of the stack, which begin a cache line."""
        memory = self._first.alloca(ir.ArrayType(ir.IntType(8), size))
        memory.align = 64
        return self._first.inttoptr(self._first.ptrtoint(memory, I64), POINTER)

    def slot(self) -> Any:
        """Return the address of an integer that changes, which LLVM keeps in a register."""
        return self._first.alloca(I64)

    def move(self, source: Any, to: Any, count: int) -> None:
        """Copy numbers as they lie in memory."""
        for start, kind in self._chunks(count):
            value = self.builder.load(self.at(source, start), align=self.stored.itemsize, typ=kind)
            self.builder.store(value, self.at(to, start), align=self.stored.itemsize)

    def clear(self, to: Any, count: int) -> None:
        """Write zeros."""
        for start, kind in self._chunks(count):
            zeros = ir.Constant(kind, [0] * kind.count)
            self.builder.store(zeros, self.at(to, start), align=self.stored.itemsize)

    def bits(self, pointer: Any, count: Integer) -> Any:
        """Return the first `count` numbers at an address as they lie in memory, zeros behind."""
        kind = ir.VectorType(self.cell, self.lanes)
        if isinstance(count, int) and self.by_pairs:
            return pairs.load(self, pointer, count, kind)
        rest = ir.Constant(kind, [0 if self.cell is I16 else 0.0] * self.lanes)
        values = [pointer, I32(self.stored.itemsize), self.mask(count), rest]
        return self._call(f"llvm.masked.load.{self._suffix(self.cell)}.p0", kind, values)

    @property
    def by_pairs(self) -> bool:
        """Whether parts of vectors are read and written as pairs of numbers, and what is left: only
        vectors of 512 bits can mask 16 bits, and LLVM goes through them one by one otherwise."""
        return self.cell is I16 and self.target.bits < 512

    def _chunks(self, count: int) -> Iterator[tuple[int, Any]]:
        """Cut so many numbers into vectors of bytes: where each begins, and its type."""
        start, size = 0, self.stored.itemsize
        most = self.target.bits // 8 // size
        while start < count:
            part = min(most, 1 << ((count - start).bit_length() - 1))
            yield start, ir.VectorType(ir.IntType(8), part * size)
            start += part

    def mask(self, count: Integer) -> Any:
        """Return the mask of the first `count` lanes."""
        kind = ir.VectorType(I1, self.lanes)
        if isinstance(count, int):
            return ir.Constant(kind, [lane < count for lane in range(self.lanes)])
        lanes = ir.Constant(ir.VectorType(I64, self.lanes), [*range(self.lanes)])
        return self.builder.icmp_signed("<", lanes, self._spread(count, I64))

    def any(self, mask: Any) -> Any:
        """Return a flag: whether a mask is set in at least one lane."""
        bits = ir.IntType(self.lanes)
        return self.builder.icmp_unsigned("!=", self.builder.bitcast(mask, bits), bits(0))

    def load(self, pointer: Any, count: Integer | None = None) -> Vector:
        """Return the vector at an address; lanes from `count` on are 0, and their memory is not
        touched."""
        if count is None or (isinstance(count, int) and count >= self.lanes):
            size = self.stored.itemsize
            value = self.builder.load(pointer, align=size, typ=ir.VectorType(self.cell, self.lanes))
            return Vector(self, self._widened(value))
        # What the mask leaves out is not touched, so it may lie beyond the array, or the page.
        return Vector(self, self._widened(self.bits(pointer, count)))

    def store(self, value: Vector, pointer: Any, count: Integer | None = None) -> None:
        """Write a vector to an address, or its first `count` lanes."""
        numbers, size = self._narrowed(value.value), self.stored.itemsize
        if count is None or (isinstance(count, int) and count >= self.lanes):
            self.builder.store(numbers, pointer, align=size)
            return
        if isinstance(count, int) and self.by_pairs:
            pairs.store(self, numbers, pointer, count)
            return
        name = f"llvm.masked.store.{self._suffix(self.cell)}.p0"
        self._call(name, ir.VoidType(), [numbers, pointer, I32(size), self.mask(count)])

    def broadcast(self, pointer: Any) -> Vector:
        """Return a vector of the number at an address."""
        return Vector(self, self._spread(self._number(pointer), self.real))

    def gather(self, pointer: Any, stride: int, count: int) -> Vector:
        """Return `count` numbers that are so many apart from an address on, and zeros."""
        value = self.vector(0.0).value
        for lane in range(min(count, self.lanes)):
            number = self._number(self.at(pointer, lane * stride))
            value = self.builder.insert_element(value, number, I32(lane))
        return Vector(self, value)

    def scatter(self, value: Vector, pointer: Any, stride: int, count: int) -> None:
        """Write the first `count` numbers, so many apart from an address on."""
        numbers = self._narrowed(value.value)
        for lane in range(min(count, self.lanes)):
            number = self.builder.extract_element(numbers, I32(lane))
            at = self.at(pointer, lane * stride)
            self.builder.store(number, at, align=self.stored.itemsize)

    def _number(self, pointer: Any) -> Any:
        """Return the number at an address."""
        number = self.builder.load(pointer, align=self.stored.itemsize, typ=self.cell)
        return self._widened(number)

    def _widened(self, value: Any) -> Any:
        """Return what lies in memory, a number or a vector, in the type of arithmetic."""
        if self.cell is not I16:
            return value
        b, whole, real = self.builder, I32, self.real
        if isinstance(value.type, ir.VectorType):
            whole, real = ir.VectorType(I32, self.lanes), self.wide
        return b.bitcast(b.shl(b.zext(value, whole), self._same(whole, 16)), real)

    def _narrowed(self, value: Any) -> Any:
        """Return a vector as it lies in memory, rounded to the nearest; NaN stays NaN."""
        if self.cell is not I16:
            return value
        b, whole = self.builder, ir.VectorType(I32, self.lanes)
        if self.target.rounds:
            rounded = self._call("llvm.x86.avx512bf16.cvtneps2bf16.512", HALF_BFLOATS, [value])
            return b.bitcast(rounded, ir.VectorType(I16, self.lanes))
        bits, half = b.bitcast(value, whole), self._same(whole, 16)
        odd = b.and_(b.lshr(bits, half), self._same(whole, 1))
        rounded = b.add(bits, b.add(odd, self._same(whole, 0x7FFF)))
        quiet = b.or_(bits, self._same(whole, 1 << 22))  # a fraction that does not round to nothing
        kept = b.select(b.fcmp_unordered("uno", value, value), quiet, rounded)
        return b.trunc(b.lshr(kept, half), ir.VectorType(I16, self.lanes))

    def _same(self, kind: Any, value: int) -> Any:
        """Return an integer, or a vector of it."""
        many = isinstance(kind, ir.VectorType)
        return ir.Constant(kind, [value] * self.lanes if many else value)

    def _spread(self, number: Any, kind: Any) -> Any:
        wide = ir.VectorType(kind, self.lanes)
        first = self.builder.insert_element(ir.Constant(wide, ir.Undefined), number, I32(0))
        zeros = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, ir.Constant(wide, ir.Undefined), zeros)

    def settled(self, values: Sequence[Vector]) -> list[Vector]:
        """Return vectors that LLVM computes all before what follows, where numbers are rounded by
        many instructions: it would finish one sum after the other otherwise, and run out of
        registers for their common factors."""
        if not self.by_pairs or len(values) < 2:
            return [*values]
        kinds = [self.wide] * len(values)
        asm = ir.InlineAsm(
            ir.FunctionType(ir.LiteralStructType(kinds), kinds),
            "",
            ",".join(["=x"] * len(values) + [*map(str, range(len(values)))]),
            True,
        )
        together = self.builder.call(asm, [v.value for v in values])
        return [Vector(self, self.builder.extract_value(together, i)) for i in range(len(values))]

    def fma(self, a: Vector | float, b: Vector | float, c: Vector | float) -> Vector:
        """Return a b + c, rounded once where the target has such an instruction."""
        values = [self.vector(v).value for v in (a, b, c)]
        return Vector(self, self._call(f"llvm.fmuladd.{self._suffix()}", self.wide, values))

    def select(self, mask: Any, a: Vector | float, b: Vector | float) -> Vector:
        """Return a where the mask is set, else b."""
        pair = self.vector(a).value, self.vector(b).value
        return Vector(self, self.builder.select(mask, *pair))

    def larger(self, a: Vector, b: Vector | float) -> Vector:
        """Return a where it is larger than b, else b. A NaN in a is lost, one in b stays."""
        return self.select(a > b, a, b)

    def sqrt(self, a: Vector) -> Vector:
        """Return square roots."""
        return Vector(self, self._call(f"llvm.sqrt.{self._suffix()}", self.wide, [a.value]))

    def guess(self, a: Vector) -> Vector | None:
        """Return 1 / a to within 2^-14, for normal numbers below 2^126; None where the target has
        no such instruction."""
        intrinsic = self.target.isa.reciprocal
        if intrinsic is None or self.dtype.itemsize != 4:
            return None
        all_lanes = ir.Constant(ir.IntType(self.lanes), -1)
        values = [a.value, self.vector(0.0).value, all_lanes]
        return Vector(self, self._call(intrinsic, self.wide, values))

    def shuffle(self, a: Vector, b: Vector, lanes: Sequence[int]) -> Vector:
        """Return a vector of chosen lanes of a and b; lanes of b are counted behind those of a."""
        chosen = ir.Constant(ir.VectorType(I32, self.lanes), [*lanes])
        return Vector(self, self.builder.shuffle_vector(a.value, b.value, chosen))

    def prefetch(self, pointer: Any, write: bool = False, near: int = 3) -> None:
        """Ask for the cache line at an address, which need not exist; `near` 3 is the first level,
        2 the second."""
        rest = [pointer, I32(int(write)), I32(near), I32(1)]
        self._call("llvm.prefetch.p0", ir.VoidType(), rest)

    # Two types in one kernel.

    def doubles(self) -> KernelBuilder:
        """Return this kernel with float64 vectors of as many lanes (LLVM splits them over two
        registers), for sums."""
        other = copy(self)
        other.stored = other.dtype = np.dtype(np.float64)
        other.cell = other.real = REALS[8]
        other.wide = ir.VectorType(other.real, self.lanes)
        return other

    def computed(self) -> KernelBuilder:
        """Return this kernel with memory in the type in which it computes: for parameters and sums
        of a narrow type."""
        return self.on(self.dtype)

    def on(self, dtype: npt.DTypeLike) -> KernelBuilder:
        """Return this kernel with memory of a type that is computed in the same one."""
        other = copy(self)
        other.stored = np.dtype(dtype)
        other.cell = I16 if is_narrow(other.stored) else self.real
        return other

    def convert(self, a: Vector) -> Vector:
        """Return a vector in this kernel's type."""
        if a.value.type == self.wide:
            return Vector(self, a.value)
        change = self.builder.fpext if self.real == REALS[8] else self.builder.fptrunc
        return Vector(self, change(a.value, self.wide))

    def number(self, value: Integer) -> Vector:
        """Return a vector whose lanes are all an integer."""
        if isinstance(value, int):
            return self.vector(value)
        return Vector(self, self._spread(self.builder.sitofp(value, self.real), self.real))

    def _suffix(self, kind: Any = None) -> str:
        """Return how an intrinsic names vectors, by default those of arithmetic."""
        return f"v{self.lanes}{'i16' if kind is I16 else f'f{8 * self.dtype.itemsize}'}"

    def _call(self, name: str, result: Any, values: list[Any]) -> Any:
        known = self.module.globals.get(name)
        if known is None:
            kind = ir.FunctionType(result, [v.type for v in values])
            known = ir.Function(self.module, kind, name)
        return self.builder.call(known, values)


def pieces(size: int, tile: int) -> list[tuple[int, int, int]]:
    """Cut a size into whole tiles and a rest: (first index, number of tiles, size of each), no
    entry where there is none."""
    tile = min(size, tile)
    whole, rest = divmod(size, tile) if tile else (0, 0)
    parts = [(0, whole, tile)] if whole else []
    return [*parts, (size - rest, 1, rest)] if rest else parts
