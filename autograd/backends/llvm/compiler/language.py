"""A small language for kernels: arguments, addresses, loops and vectors, emitted as LLVM's
intermediate representation. Python runs once, while a kernel is generated: its own loops unroll,
`KernelBuilder.loop` emits a loop.

A kernel takes pointers and 64-bit integers and returns nothing. Vectors are as wide as the target's
registers; where fewer lanes are meant, `count` masks the others out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, TypeAlias

import llvmlite.ir as ir
import numpy as np
import numpy.typing as npt

from .isa.targets import Target

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
POINTER = ir.PointerType()
REALS = {4: ir.FloatType(), 8: ir.DoubleType()}

Integer: TypeAlias = Any  # an int, or LLVM's value for one
Term: TypeAlias = Any  # an Integer, or a pair (Integer, stride)


class Vector:
    """A vector of numbers in a kernel. Operators emit instructions; a plain number stands for a
    vector of it."""

    __slots__ = ("kernel", "value")

    def __init__(self, kernel: KernelBuilder, value: Any) -> None:
        self.kernel, self.value = kernel, value

    def _with(self, other: Vector | float, instruction: str, swapped: bool = False) -> Vector:
        pair = [self.value, self.kernel.vector(other).value]
        result = getattr(self.kernel.builder, instruction)(*(pair[::-1] if swapped else pair))
        return Vector(self.kernel, result)

    def __add__(self, other: Vector | float) -> Vector:
        return self._with(other, "fadd")

    def __sub__(self, other: Vector | float) -> Vector:
        return self._with(other, "fsub")

    def __mul__(self, other: Vector | float) -> Vector:
        return self._with(other, "fmul")

    def __truediv__(self, other: Vector | float) -> Vector:
        return self._with(other, "fdiv")

    def __radd__(self, other: float) -> Vector:
        return self + other

    def __rmul__(self, other: float) -> Vector:
        return self * other

    def __rsub__(self, other: float) -> Vector:
        return self._with(other, "fsub", swapped=True)

    def __rtruediv__(self, other: float) -> Vector:
        return self._with(other, "fdiv", swapped=True)

    def __gt__(self, other: Vector | float) -> Any:
        return self._compare(">", other)

    def __lt__(self, other: Vector | float) -> Any:
        return self._compare("<", other)

    def __ge__(self, other: Vector | float) -> Any:
        return self._compare(">=", other)

    def __le__(self, other: Vector | float) -> Any:
        return self._compare("<=", other)

    def equals(self, other: Vector | float) -> Any:
        """Return a mask: where both are the same number."""
        return self._compare("==", other)

    def isnan(self) -> Any:
        """Return a mask: where it is not a number."""
        return self.kernel.builder.fcmp_unordered("uno", self.value, self.value)

    def _compare(self, how: str, other: Vector | float) -> Any:
        builder = self.kernel.builder
        return builder.fcmp_ordered(how, self.value, self.kernel.vector(other).value)


class Variable:
    """A vector that changes, such as a sum. LLVM keeps it in a register (its mem2reg pass)."""

    __slots__ = ("kernel", "slot")

    def __init__(self, kernel: KernelBuilder, slot: Any) -> None:
        self.kernel, self.slot = kernel, slot

    def get(self) -> Vector:
        """Return its value at this point of the kernel."""
        return Vector(self.kernel, self.kernel.builder.load(self.slot, typ=self.kernel.wide))

    def set(self, value: Vector) -> None:
        """Change it from this point on."""
        self.kernel.builder.store(value.value, self.slot)


class KernelBuilder:
    """A function under construction.

    `pointers` and `integers` name its arguments, in order, which are in `arguments`; `dtype` is the
    type of its vectors and of the steps of its addresses. LLVM may assume that what is written
    through one pointer is not accessed through another, except for those in `aliases`: calls may
    pass one address for several of these. ValueError for an alias that names no pointer.
    """

    def __init__(
        self, target: Target, dtype: npt.DTypeLike, pointers: Sequence[str],
        integers: Sequence[str] = (), aliases: Sequence[str] = (),
    ) -> None:  # fmt: skip
        if others := {*aliases} - {*pointers}:
            known = ", ".join(pointers)
            raise ValueError(f"aliases: expected names of pointers ({known}), got {others.pop()!r}")
        self.target, self.dtype = target, np.dtype(dtype)
        self.pointers, self.integers = tuple(pointers), tuple(integers)
        self.lanes = target.lanes(dtype)
        self.real = REALS[self.dtype.itemsize]
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
        return str(self.module).replace(")\n{", f") {width}\n{{", 1)

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
        """Return a pointer, advanced by terms as for `sum`, in numbers of this kernel's type. The
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
            pointer = self.builder.gep(pointer, [self.integer(offset)], source_etype=self.real)
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
            size = self.dtype.itemsize
            return Vector(self, self.builder.load(pointer, align=size, typ=self.wide))
        # What the mask leaves out is not touched, so it may lie beyond the array, or the page.
        name = f"llvm.masked.load.{self._suffix()}.p0"
        rest = [pointer, I32(self.dtype.itemsize), self.mask(count), self.vector(0.0).value]
        return Vector(self, self._call(name, self.wide, rest))

    def store(self, value: Vector, pointer: Any, count: Integer | None = None) -> None:
        """Write a vector to an address, or its first `count` lanes."""
        if count is None or (isinstance(count, int) and count >= self.lanes):
            self.builder.store(value.value, pointer, align=self.dtype.itemsize)
            return
        name = f"llvm.masked.store.{self._suffix()}.p0"
        rest = [value.value, pointer, I32(self.dtype.itemsize), self.mask(count)]
        self._call(name, ir.VoidType(), rest)

    def broadcast(self, pointer: Any) -> Vector:
        """Return a vector of the number at an address."""
        size = self.dtype.itemsize
        number = self.builder.load(pointer, align=size, typ=self.real)
        return Vector(self, self._spread(number, self.real))

    def gather(self, pointer: Any, stride: int, count: int) -> Vector:
        """Return `count` numbers that are so many apart from an address on, and zeros."""
        value = self.vector(0.0).value
        for lane in range(min(count, self.lanes)):
            at, size = self.at(pointer, lane * stride), self.dtype.itemsize
            number = self.builder.load(at, align=size, typ=self.real)
            value = self.builder.insert_element(value, number, I32(lane))
        return Vector(self, value)

    def scatter(self, value: Vector, pointer: Any, stride: int, count: int) -> None:
        """Write the first `count` numbers, so many apart from an address on."""
        for lane in range(min(count, self.lanes)):
            number = self.builder.extract_element(value.value, I32(lane))
            at = self.at(pointer, lane * stride)
            self.builder.store(number, at, align=self.dtype.itemsize)

    def _spread(self, number: Any, kind: Any) -> Any:
        wide = ir.VectorType(kind, self.lanes)
        first = self.builder.insert_element(ir.Constant(wide, ir.Undefined), number, I32(0))
        zeros = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, ir.Constant(wide, ir.Undefined), zeros)

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
        other.dtype, other.real = np.dtype(np.float64), REALS[8]
        other.wide = ir.VectorType(other.real, self.lanes)
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

    def _suffix(self) -> str:
        return f"v{self.lanes}f{8 * self.dtype.itemsize}"

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
