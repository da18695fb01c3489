"""Parts of vectors of 16-bit numbers, as pairs of numbers under a mask and what is left.

Only vectors of 512 bits can mask 16 bits; LLVM goes through them one by one otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import llvmlite.ir as ir

if TYPE_CHECKING:
    from .language import KernelBuilder

I1, I16, I32 = ir.IntType(1), ir.IntType(16), ir.IntType(32)


def load(k: KernelBuilder, pointer: Any, count: int, kind: Any) -> Any:
    """Return the first `count` numbers at an address as they lie in memory, zeros behind."""
    pairs, masked, suffix = _masked(k, count)
    zeros = ir.Constant(pairs, [0] * pairs.count)
    value = k._call(f"llvm.masked.load.{suffix}", pairs, [pointer, *masked, zeros])
    numbers = k.builder.bitcast(value, kind)
    if count % 2:
        last = k.builder.load(k.at(pointer, count - 1), align=2, typ=I16)
        numbers = k.builder.insert_element(numbers, last, I32(count - 1))
    return numbers


def store(k: KernelBuilder, numbers: Any, pointer: Any, count: int) -> None:
    """Write the first `count` numbers of a vector as it lies in memory."""
    pairs, masked, suffix = _masked(k, count)
    value = k.builder.bitcast(numbers, pairs)
    k._call(f"llvm.masked.store.{suffix}", ir.VoidType(), [value, pointer, *masked])
    if count % 2:
        last = k.builder.extract_element(numbers, I32(count - 1))
        k.builder.store(last, k.at(pointer, count - 1), align=2)


def _masked(k: KernelBuilder, count: int) -> tuple[Any, list[Any], str]:
    """Return the type of a vector of pairs, the alignment and mask of `count` numbers, and what
    LLVM's name ends with."""
    half = k.lanes // 2
    mask = ir.Constant(ir.VectorType(I1, half), [pair < count // 2 for pair in range(half)])
    return ir.VectorType(I32, half), [I32(2), mask], f"v{half}i32.p0"
