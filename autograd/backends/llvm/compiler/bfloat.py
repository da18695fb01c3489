"""LLVM's type of bfloat16, which llvmlite does not have; numbers of it, widened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import llvmlite.ir as ir

from .vectors import Vector

if TYPE_CHECKING:
    from .language import KernelBuilder


class BFloat(ir.Type):  # type: ignore[misc]
    """The type `bfloat`."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, BFloat)

    def __hash__(self) -> int:
        return hash(BFloat)


BFLOATS = ir.VectorType(BFloat(), 32)  # of a vector of 512 bits
HALF_BFLOATS = ir.VectorType(BFloat(), 16)


def halves(k: KernelBuilder, pointer: Any, count: int) -> tuple[Vector, Vector]:
    """Return the first, third .. of `count` numbers of bfloat16 at an address, at most twice as
    many as lanes, and the others. Behind them are zeros, whose memory is not touched."""
    if count == 2 * k.lanes:
        # Pairs in integers of 32 bits: one number is moved up, or the other cleared.
        whole, b = ir.VectorType(ir.IntType(32), k.lanes), k.builder
        pairs = b.load(pointer, align=2, typ=whole)
        both = b.shl(pairs, ir.Constant(whole, [16] * k.lanes)), b.and_(
            pairs, ir.Constant(whole, [0xFFFF0000] * k.lanes))  # fmt: skip
        first, second = (Vector(k, b.bitcast(half, k.wide)) for half in both)
        return first, second
    low, high = k.load(pointer, min(count, k.lanes)), k.vector(0.0)
    if count > k.lanes:
        high = k.load(k.at(pointer, k.lanes), count - k.lanes)
    first, second = (k.shuffle(low, high, [*range(u, 2 * k.lanes, 2)]) for u in (0, 1))
    return first, second
