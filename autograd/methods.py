"""The functions of numbers and matrices as methods of a tensor: one definition serves both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import algebra as al
from . import mathematics as m
from .operators import Operand
from .ops import rounding

if TYPE_CHECKING:
    from .tensor import Tensor


class Methods:
    """Mixed into Tensor, which is the functions' first argument."""

    __slots__ = ()

    acos = m.acos
    acosh = m.acosh
    add = m.add
    allclose = m.allclose
    amax = m.amax
    amin = m.amin
    asin = m.asin
    asinh = m.asinh
    atan = m.atan
    atan2 = m.atan2
    atanh = m.atanh
    ceil = m.ceil
    cosh = m.cosh
    count_nonzero = m.count_nonzero
    cumprod = m.cumprod
    cumsum = m.cumsum
    div = m.div
    eq = m.eq
    equal = m.equal
    erf = m.erf
    erfc = m.erfc
    exp2 = m.exp2
    expm1 = m.expm1
    floor = m.floor
    floor_divide = m.floor_divide
    fmod = m.fmod
    frac = m.frac
    ge = m.ge
    gt = m.gt
    isclose = m.isclose
    isfinite = m.isfinite
    isinf = m.isinf
    isnan = m.isnan
    le = m.le
    lerp = m.lerp
    log10 = m.log10
    log1p = m.log1p
    log2 = m.log2
    logical_and = m.logical_and
    logical_not = m.logical_not
    logical_or = m.logical_or
    logical_xor = m.logical_xor
    logsumexp = m.logsumexp
    lt = m.lt
    median = m.median
    mul = m.mul
    ne = m.ne
    neg = m.neg
    norm = m.norm
    pow = m.pow
    reciprocal = m.reciprocal
    remainder = m.remainder
    round = m.round
    rsqrt = m.rsqrt
    sign = m.sign
    sinh = m.sinh
    square = m.square
    sub = m.sub
    tan = m.tan
    trunc = m.trunc

    addmm = al.addmm
    baddbmm = al.baddbmm
    bmm = al.bmm
    broadcast_to = al.broadcast_to
    diag = al.diag
    diagonal = al.diagonal
    dot = al.dot
    mm = al.mm
    mv = al.mv
    outer = al.outer
    tril = al.tril
    triu = al.triu

    __mod__ = m.remainder
    __floordiv__ = m.floor_divide

    def __rmod__(self, other: Operand) -> Tensor:
        return rounding.remainder(other, self)

    def __rfloordiv__(self, other: Operand) -> Tensor:
        return rounding.floor_divide(other, self)
