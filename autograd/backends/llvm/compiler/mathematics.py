"""Functions of vectors: exponentials, logarithms, and sums and maxima over the lanes of one.

e^x is 2^n e^r with n the nearest integer to x / log 2 and |r| <= log 2 / 2, where Taylor's series
is short (Cody and Waite 1980). What is not a number stays so, through every comparison here.
"""

from __future__ import annotations

from math import factorial, inf, nan
from typing import NamedTuple

import llvmlite.ir as ir

from .... import gaussian
from ....dtypes import is_narrow
from .language import I32, I64, KernelBuilder
from .vectors import Vector


class _Format(NamedTuple):
    """Constants of a floating-point format."""

    fraction: int  # bits
    bias: int  # of the exponent
    log2: tuple[float, float]  # as a sum whose first part times any n is exact
    terms: int  # of the exponential's series
    least: float  # x below which e^x is 0
    most: float  # x above which e^x is infinite
    gone: float  # x below which e^x - 1 is -1
    normal: float  # x below which e^x is subnormal


FORMATS = {
    4: _Format(23, 127, (0.693359375, -2.12194440e-4), 7, -105.0, 90.0, -30.0, -87.0),
    8: _Format(
        52, 1023, (6.93145751953125e-1, 1.42860682030941723212e-6), 13, -747.0, 711.0, -50.0, -708.0
    ),
}
LOG2E = 1.4426950408889634
ROUGH = 5  # terms of the exponential's series for results that are stored as bfloat16: 2^-18
# tanh x / x as a quotient of polynomials of x^2, fitted to the least relative error for |x| up to
# NEARLY_ONE, 2^-19; as large is that of 1 for larger ones.
RATIO = (
    (0.999999074, 0.123344375, 0.00230436686, 4.0507994e-06),
    (1.0, 0.456670704, 0.0212035703, 0.000145227949),
)
NEARLY_ONE = 6.9
LOG_TERMS = {4: 5, 8: 11}  # of the series of a logarithm, by bytes of a number


def exp(k: KernelBuilder, x: Vector) -> Vector:
    """Return e^x, to about one unit in the last place."""
    f = FORMATS[k.dtype.itemsize]
    moved, small = _reduce(k, within(k, x, f.least, f.most))
    n = k.builder.sub(moved, _bits(k, k.vector(_magic(k))))
    # Two factors, since 2^n alone may be no normal number where the product is one.
    half = k.builder.ashr(n, _whole(k, 1))
    return (small + 1.0) * _power(k, half) * _power(k, k.builder.sub(n, half))


def expm1(k: KernelBuilder, x: Vector) -> Vector:
    """Return e^x - 1 for x up to 80, to a unit or two also for small x."""
    return _expm1(k, within(k, x, FORMATS[k.dtype.itemsize].gone, 80.0))


def _expm1(k: KernelBuilder, x: Vector) -> Vector:
    moved, small = _reduce(k, x)
    scale = _power(k, moved)
    return k.fma(small, scale, scale - 1.0)


def sigmoid(k: KernelBuilder, x: Vector) -> Vector:
    """Return 1 / (1 + e^-x), 0 where e^x is below the normal numbers."""
    least = FORMATS[k.dtype.itemsize].normal
    moved, small = _reduce(k, 0.0 - within(k, x, least, 40.0))
    scale = _power(k, moved)
    y = _quotient(k, None, k.fma(small, scale, scale) + 1.0)
    return k.select(x < least, 0.0, y)


def sigmoid_gate(k: KernelBuilder, x: Vector) -> Vector:
    """Return 1 / (1 + e^-x): where numbers are stored as bfloat16, with an error of 2^-20 whatever
    x is."""
    if not is_narrow(k.stored):
        return sigmoid(k, x)
    top, bottom = _ratio(k, x, 0.5)
    return k.fma(top, _quotient(k, None, bottom), 0.5)


def tanh(k: KernelBuilder, x: Vector) -> Vector:
    """Return tanh x = (e^2x - 1) / (e^2x + 1): where numbers are stored as bfloat16, with a
    relative error of 2^-19."""
    if is_narrow(k.stored):
        return _quotient(k, *_ratio(k, x, 1.0))
    grown = _expm1(k, within(k, x + x, -40.0, 40.0))
    return _quotient(k, grown, grown + 2.0)


def normal(k: KernelBuilder, x: Vector) -> tuple[Vector, Vector]:
    """Return the probability of a normal number below x, and e^(-x^2 / 2); see `gaussian.py`."""
    size = k.dtype.itemsize
    z = within(k, k.larger(0.0 - x, x), 0.0, gaussian.LARGEST[size])
    bell = exp(k, z * z * -0.5)
    t = _quotient(k, z - gaussian.POINT, z + gaussian.POINT)
    series = k.vector(gaussian.TAIL[size][-1])
    for coefficient in gaussian.TAIL[size][-2::-1]:
        series = k.fma(series, t, coefficient)
    tail = bell * series
    return k.select(x < 0.0, tail, 1.0 - tail), bell


def _ratio(k: KernelBuilder, x: Vector, scale: float) -> tuple[Vector, Vector]:
    """Return two numbers whose quotient is scale tanh(scale x)."""
    x = within(k, x, -NEARLY_ONE / scale, NEARLY_ONE / scale)
    square, parts = x * x, []
    for numbers, many in zip(RATIO, (1, 0), strict=True):  # the first one times scale^2
        *rest, last = (n * scale ** (2 * (i + many)) for i, n in enumerate(numbers))
        part = k.vector(last)
        for number in reversed(rest):
            part = k.fma(part, square, number)
        parts.append(part)
    return x * parts[0], parts[1]


def _quotient(k: KernelBuilder, a: Vector | None, b: Vector) -> Vector:
    """Return a / b, or 1 / b, for b from 1 to 1e38, to a unit or two: where there is a guess of
    1 / b, a step of Newton's method doubles its digits, in less time than a division takes."""
    guess = k.guess(b)
    if guess is None:
        return (1.0 if a is None else a) / b
    inverse = k.fma(guess, k.fma(0.0 - b, guess, 1.0), guess)
    return inverse if a is None else a * inverse


def within(k: KernelBuilder, x: Vector, low: float, high: float) -> Vector:
    """Return x clamped to [low, high]; NaN stays."""
    return k.larger(k.vector(low), k.select(x > high, high, x))


def total(k: KernelBuilder, x: Vector) -> Vector:
    """Return the sum of all lanes, in every lane."""
    for apart in _distances(k):
        x = x + _exchanged(k, x, apart)
    return x


def largest(k: KernelBuilder, x: Vector) -> Vector:
    """Return the largest of all lanes, in every lane."""
    for apart in _distances(k):
        x = k.larger(x, _exchanged(k, x, apart))
    return x


def _distances(k: KernelBuilder) -> list[int]:
    return [1 << i for i in reversed(range(k.lanes.bit_length() - 1))]


def _exchanged(k: KernelBuilder, x: Vector, apart: int) -> Vector:
    return k.shuffle(x, x, [lane ^ apart for lane in range(k.lanes)])


def _reduce(k: KernelBuilder, x: Vector) -> tuple[ir.Value, Vector]:
    """Return integers whose last bits are those of n, and e^r - 1."""
    f, magic = FORMATS[k.dtype.itemsize], _magic(k)
    moved = k.fma(x, LOG2E, magic)
    rounded = moved - magic
    r = k.fma(rounded, -f.log2[1], k.fma(rounded, -f.log2[0], x))
    square = r * r
    # By twos, which leaves the processor less to wait for than one by one does.
    terms = ROUGH if is_narrow(k.stored) else f.terms
    pairs = [k.fma(r, 1.0 / factorial(i + 1), 1.0 / factorial(i)) for i in range(2, terms, 2)]
    series = pairs.pop()
    while pairs:
        series = k.fma(series, square, pairs.pop())
    return _bits(k, moved), k.fma(square, series, r)


def _magic(k: KernelBuilder) -> float:
    """Return a number at whose size the last bit counts ones: adding it rounds to an integer. Its
    own last bits, as many as an exponent and a sign have, are zeros."""
    return float(1.5 * 2.0 ** FORMATS[k.dtype.itemsize].fraction)


def _power(k: KernelBuilder, n: ir.Value) -> Vector:
    """Return 2^n, of integers of which only the last bits count and whose power is normal."""
    f = FORMATS[k.dtype.itemsize]
    exponent = k.builder.shl(n, _whole(k, f.fraction))
    bits = k.builder.add(exponent, _whole(k, f.bias << f.fraction))
    return Vector(k, k.builder.bitcast(bits, k.wide))


def _bits(k: KernelBuilder, x: Vector) -> ir.Value:
    return k.builder.bitcast(x.value, _integers(k))


def _integers(k: KernelBuilder) -> ir.Type:
    return ir.VectorType(I32 if k.dtype.itemsize == 4 else I64, k.lanes)


def _whole(k: KernelBuilder, value: int) -> ir.Constant:
    return ir.Constant(_integers(k), [value] * k.lanes)


def log(k: KernelBuilder, x: Vector) -> Vector:
    """Return the natural logarithm, to two units in the last place or so. x is 2^n m with m near 1,
    and log m = 2 (z + z^3 / 3 + z^5 / 5 ..) with z = (m - 1) / (m + 1)."""
    f, builder = FORMATS[k.dtype.itemsize], k.builder
    low = x < 2.0 ** (1 - f.bias)
    bits = _bits(k, k.select(low, x * 2.0**f.fraction, x))
    least = _bits(k, k.vector(0.5**0.5))
    n = builder.ashr(builder.sub(bits, least), _whole(k, f.fraction))
    m = Vector(k, builder.bitcast(builder.sub(bits, builder.shl(n, _whole(k, f.fraction))), k.wide))
    magic = k.vector(1.5 * 2.0**f.fraction)
    count = Vector(k, builder.bitcast(builder.add(n, _bits(k, magic)), k.wide)) - magic
    count = k.select(low, count - f.fraction, count)
    z = (m - 1.0) / (m + 1.0)
    square, series = z * z, k.vector(0.0)
    for i in reversed(range(LOG_TERMS[k.dtype.itemsize])):
        series = k.fma(series, square, 2.0 / (2 * i + 1))
    result = k.fma(count, f.log2[0], k.fma(count, f.log2[1], z * series))
    result = k.select(x < 0.0, nan, k.select(x < inf, result, x))
    return k.select(x.equals(0.0), -inf, result)
