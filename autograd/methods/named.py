"""Functions of tensors as methods: one definition serves both. And those that torch's users expect
of memory and types."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from ..device import check_device
from ..dtypes import BOOL, INT64, is_floating
from ..ops import rounding
from . import algebra as al
from . import derived as d
from . import mathematics as m
from . import reducing as r
from .operators import Operand

if TYPE_CHECKING:
    from ..tensor import Tensor


Truth = bool  # which are methods below
Count = int


class Methods:
    """Mixed into Tensor, which is the functions' first argument."""

    __slots__ = ()

    acos = m.acos
    acosh = m.acosh
    add = m.add
    addcdiv = m.addcdiv
    addcmul = m.addcmul
    allclose = m.allclose
    asin = m.asin
    asinh = m.asinh
    atan = m.atan
    atan2 = m.atan2
    atanh = m.atanh
    ceil = m.ceil
    clamp_max = m.clamp_max
    clamp_min = m.clamp_min
    cosh = m.cosh
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
    lt = m.lt
    mul = m.mul
    nan_to_num = m.nan_to_num
    ne = m.ne
    neg = m.neg
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

    amax = r.amax
    amin = r.amin
    count_nonzero = r.count_nonzero
    cumprod = r.cumprod
    cumsum = r.cumsum
    diff = r.diff
    dist = r.dist
    histc = r.histc
    logsumexp = r.logsumexp
    max = r.max
    median = r.median
    min = r.min
    mode = r.mode
    norm = r.norm
    std_mean = r.std_mean
    var_mean = r.var_mean

    addmm = al.addmm
    baddbmm = al.baddbmm
    bmm = al.bmm
    broadcast_to = al.broadcast_to
    cross = al.cross
    diag = al.diag
    diagonal = al.diagonal
    dot = al.dot
    mm = al.mm
    mv = al.mv
    outer = al.outer
    t = al.t
    tril = al.tril
    triu = al.triu

    absolute = d.absolute
    deg2rad = d.deg2rad
    divide = d.divide
    greater = d.greater
    greater_equal = d.greater_equal
    hypot = d.hypot
    inner = d.inner
    less = d.less
    less_equal = d.less_equal
    logaddexp = d.logaddexp
    logit = d.logit
    maximum = d.maximum
    minimum = d.minimum
    multiply = d.multiply
    nanmean = d.nanmean
    nansum = d.nansum
    narrow = d.narrow
    negative = d.negative
    not_equal = d.not_equal
    rad2deg = d.rad2deg
    ravel = d.ravel
    select = d.select
    subtract = d.subtract
    take_along_dim = d.take_along_dim
    true_divide = d.true_divide
    xlogy = d.xlogy

    __mod__ = m.remainder
    __floordiv__ = m.floor_divide

    def __rmod__(self, other: Operand) -> Tensor:
        return rounding.remainder(other, self)

    def __rfloordiv__(self, other: Operand) -> Tensor:
        return rounding.floor_divide(other, self)

    @property
    def _me(self) -> Tensor:
        return cast("Tensor", self)

    @property
    def mT(self) -> Tensor:
        """The tensor with its last two axes exchanged."""
        return self._me.transpose(-2, -1)

    def contiguous(self) -> Tensor:
        """Return the tensor itself: functions take any layout."""
        return self._me

    def is_contiguous(self) -> Truth:
        """Return True: functions take any layout."""
        return True

    def nelement(self) -> Count:
        """Return the number of elements."""
        return self._me.numel()

    def ndimension(self) -> Count:
        """Return the number of axes."""
        return len(self._me.shape)

    def element_size(self) -> Count:
        """Return the bytes of an element."""
        return self._me.dtype.itemsize

    @property
    def nbytes(self) -> Count:
        """Bytes of all elements."""
        return self._me.spec.nbytes

    def cpu(self) -> Tensor:
        """Return the tensor itself: there is no other device."""
        return self._me

    def cuda(self, device: object = None) -> Tensor:
        """ValueError: there is no such device."""
        check_device("cuda")
        return self._me

    def half(self) -> Tensor:
        """Return the same numbers in float16."""
        return self._me.astype(np.float16)

    def long(self) -> Tensor:
        """Return the same numbers in int64."""
        return self._me.astype(INT64)

    def int(self) -> Tensor:
        """Return the same numbers in int32."""
        return self._me.astype(np.int32)

    def bool(self) -> Tensor:
        """Return where elements are not 0."""
        return self._me.astype(BOOL)

    def type_as(self, other: Tensor) -> Tensor:
        """Return the same numbers in another tensor's type."""
        return self._me.astype(other.dtype)

    def expand_as(self, other: Tensor) -> Tensor:
        """Return the tensor repeated to another tensor's shape, without a copy."""
        return self._me.expand(other.shape)

    def view_as(self, other: Tensor) -> Tensor:
        """Return the same elements in another tensor's shape."""
        return self._me.reshape(other.shape)

    reshape_as = view_as

    def is_floating_point(self) -> Truth:
        """Tell whether the type is floating-point."""
        return is_floating(self._me.dtype)
