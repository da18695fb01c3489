"""What Intel's instructions for bfloat16 compute, bit by bit, in NumPy: the reference of kernels
that multiply tiles.

The formulas are those of TDPBF16PS and VCVTNE2PS2BF16 in Intel's Software Developer's Manual. Both
round to nearest even, take denormal numbers for zeros and return zeros in their place, whatever the
processor's modes are. A zero keeps the sign of the number in whose place it stands."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from ..dtypes import bfloat16

NDArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]
FLOAT, DOUBLE, LEAST = np.float32, np.float64, 2.0**-126  # the least number that is not denormal
SHIFT = 2.0**64  # brings numbers near the least ones to where all 24 bits of float32 count


def tdpbf16ps(sums: NDArray, a: NDArray, b: NDArray) -> NDArray:
    """Return sums (rows, columns) in float32 plus a (rows, K) b (K, columns) in bfloat16.

    Products of even and of odd numbers are summed up apart, in the order of k, by fused
    multiply-adds, before both are added to each other, and then to the sums."""
    if a.shape[1] % 2:
        raise ValueError(f"tdpbf16ps: expected pairs of numbers, got {a.shape}")
    wide, other = a.astype(FLOAT), b.astype(FLOAT)
    totals = [np.zeros(sums.shape, FLOAT) for _ in (0, 1)]
    for k in range(a.shape[1]):
        totals[k % 2] = multiply_add(wide[:, k, None], other[None, k], totals[k % 2])
    return plus(sums, plus(*totals))


def plus(a: NDArray, b: NDArray) -> NDArray:
    """Return the sum of float32 numbers, denormal ones being zeros."""
    return multiply_add(a, np.ones_like(a), b)


def multiply_add(a: NDArray, b: NDArray, c: NDArray) -> NDArray:
    """Return a b + c, rounded once to float32, denormal numbers being zeros. Products of a and b
    must not have more than 24 bits, as those of bfloat16: a sum of two numbers of 24 bits that is
    rounded to float64 first is the same in float32 (Figueroa, 1995)."""
    a, b, c = (_flushed(x).astype(DOUBLE) for x in (a, b, c))
    with np.errstate(all="ignore"):
        total = a * b + c
        # A result is denormal if it would be with any exponent, rounded to 24 bits.
        tiny = np.abs((total * SHIFT).astype(FLOAT)) < LEAST * SHIFT
        return np.where(tiny, np.copysign(0.0, total), total).astype(FLOAT)


def vcvtne2ps2bf16(x: NDArray) -> NDArray:
    """Return float32 numbers rounded to bfloat16; NaN keep their upper bits, and become quiet."""
    bits = np.ascontiguousarray(x, FLOAT).view(np.uint32)
    upper = bits >> 16
    rounded = (bits.astype(np.uint64) + 0x7FFF + (upper & 1)) >> 16
    found = np.where(np.abs(x) < LEAST, upper & 0x8000, rounded)
    found = np.where(np.isinf(x), upper, np.where(np.isnan(x), upper | 0x40, found))
    return found.astype(np.uint16).view(bfloat16())


def _flushed(x: NDArray) -> NDArray:
    return np.where(np.abs(x) < LEAST, np.copysign(FLOAT(0), x), x)
