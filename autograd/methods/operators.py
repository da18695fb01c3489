"""The methods and operators of a tensor: each calls one operation or a few."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from ..array import Spec
from ..device import Device, target_type
from ..dtypes import FLOAT32, FLOAT64, INT64, DType, as_dtype, bfloat16, is_floating
from ..indexing import select
from ..ops import activation, linear, parts, reduce
from ..ops import compare as cp
from ..ops import elementwise as el
from ..ops import shape as sh
from .arguments import numpy_names

if TYPE_CHECKING:
    from ..tensor import Tensor

Operand: TypeAlias = "Tensor | npt.NDArray[Any] | float"
Axis: TypeAlias = int | tuple[int, ...] | None
Type: TypeAlias = npt.DTypeLike | None  # None: as it is
Size: TypeAlias = int | Sequence[int]


class Operators:
    """Mixed into Tensor.

    Operands are broadcast as in NumPy. A Python number takes the tensor's type, so that it never
    widens float32."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def shape(self) -> tuple[int, ...]: ...

        @property
        def dtype(self) -> np.dtype[Any]: ...

    def __add__(self, other: Operand) -> Tensor:
        return el.add(self, other)

    def __radd__(self, other: Operand) -> Tensor:
        return el.add(other, self)

    def __sub__(self, other: Operand) -> Tensor:
        return el.sub(self, other)

    def __rsub__(self, other: Operand) -> Tensor:
        return el.sub(other, self)

    def __mul__(self, other: Operand) -> Tensor:
        return el.mul(self, other)

    def __rmul__(self, other: Operand) -> Tensor:
        return el.mul(other, self)

    def __truediv__(self, other: Operand) -> Tensor:
        return el.div(self, other)

    def __rtruediv__(self, other: Operand) -> Tensor:
        return el.div(other, self)

    def __pow__(self, other: Operand) -> Tensor:
        return el.pow(self, other)

    def __rpow__(self, other: Operand) -> Tensor:
        return el.pow(other, self)

    def __matmul__(self, other: Tensor | npt.NDArray[Any]) -> Tensor:
        return linear.product(self, other)

    def __rmatmul__(self, other: npt.NDArray[Any]) -> Tensor:
        return linear.product(other, self)

    def __and__(self, other: Operand) -> Tensor:
        return cp.bit_and(self, other)

    def __rand__(self, other: Operand) -> Tensor:
        return cp.bit_and(other, self)

    def __or__(self, other: Operand) -> Tensor:
        return cp.bit_or(self, other)

    def __ror__(self, other: Operand) -> Tensor:
        return cp.bit_or(other, self)

    def __xor__(self, other: Operand) -> Tensor:
        return cp.bit_xor(self, other)

    def __rxor__(self, other: Operand) -> Tensor:
        return cp.bit_xor(other, self)

    def __invert__(self) -> Tensor:
        return cp.invert(self)

    def __neg__(self) -> Tensor:
        return el.neg(self)

    def __abs__(self) -> Tensor:
        return el.abs(self)

    def __eq__(self, other: Operand | None) -> Any:  # type: ignore[override]
        return False if other is None else cp.eq(self, other)

    def __ne__(self, other: Operand | None) -> Any:  # type: ignore[override]
        return True if other is None else cp.ne(self, other)

    def __lt__(self, other: Operand) -> Tensor:  # type: ignore[misc]
        return cp.lt(self, other)

    def __le__(self, other: Operand) -> Tensor:  # type: ignore[misc]
        return cp.le(self, other)

    def __gt__(self, other: Operand) -> Tensor:  # type: ignore[misc]
        return cp.gt(self, other)

    def __ge__(self, other: Operand) -> Tensor:  # type: ignore[misc]
        return cp.ge(self, other)

    __hash__ = object.__hash__

    def __getitem__(self, key: Any) -> Tensor:
        return select(self, key)

    def abs(self) -> Tensor:
        """Return absolute values."""
        return el.abs(self)

    def exp(self) -> Tensor:
        """Return e to the power of each element."""
        return el.exp(self._real())

    def log(self) -> Tensor:
        """Return natural logarithms."""
        return el.log(self._real())

    def sin(self) -> Tensor:
        """Return sines, of radians."""
        return el.sin(self._real())

    def cos(self) -> Tensor:
        """Return cosines, of radians."""
        return el.cos(self._real())

    def sqrt(self) -> Tensor:
        """Return square roots."""
        return el.sqrt(self._real())

    def relu(self) -> Tensor:
        """Return each element, or 0 where it is negative."""
        return activation.relu(self)

    def sigmoid(self) -> Tensor:
        """Return 1 / (1 + e^-x) of each element."""
        return activation.sigmoid(self._real())

    def tanh(self) -> Tensor:
        """Return hyperbolic tangents."""
        return activation.tanh(self._real())

    def _real(self) -> Tensor:
        """Return floating-point numbers: integers and truth values as float32."""
        return cast("Tensor", self) if is_floating(self.dtype) else self.float()

    def softmax(self, dim: int | None = None, *, dtype: npt.DTypeLike | None = None) -> Tensor:
        """Return e^x divided by its sum along an axis, of x converted to a `dtype`, if given.

        The axis is by default, as in torch, the first of 0, 1 or 3 axes, else the second. x is
        shifted by its maximum, so it never overflows. ValueError for an axis that there is not."""
        return self._along("softmax", activation.softmax, dim, dtype)

    def log_softmax(self, dim: int | None = None, *, dtype: npt.DTypeLike | None = None) -> Tensor:
        """Return the logarithm of softmax, without its loss of small probabilities; all else as in
        `softmax`."""
        return self._along("log_softmax", activation.log_softmax, dim, dtype)

    def _along(self, name: str, of: Any, dim: int | None, dtype: Type) -> Tensor:
        """Return a primitive's result along an axis."""
        x = cast("Tensor", self) if dtype is None else self.astype(dtype)
        rows = x if x.ndim else x.reshape(1)
        axis = sh.axis_of(name, int(x.ndim not in (0, 1, 3)) if dim is None else dim, rows.ndim)
        y: Tensor = of(rows, axis=axis)
        return y if x.ndim else y.reshape(())

    def clamp(self, min: float | Tensor | None = None, max: float | Tensor | None = None) -> Tensor:
        """Return each element, or the bound that it passes; the gradient is 1 within and, of
        numbers, at the bounds. Bounds may be tensors, broadcast to the elements.

        Integers with a fractional bound give float32. ValueError without any bound."""
        bounds = [b for b in (min, max) if b is not None]
        if not bounds:
            raise ValueError("clamp: expected min, max or both, got neither")
        if any(getattr(b, "shape", ()) for b in bounds):
            y: Any = self if min is None else el.maximum(self, min)
            return cast("Tensor", y if max is None else el.minimum(y, max))
        fractions = any(isinstance(b, float | np.floating) for b in bounds)
        broken = fractions and not is_floating(self.dtype)
        low, high = (None if b is None else np.asarray(b).item() for b in (min, max))
        return el.clip(self.float() if broken else self, low=low, high=high)

    clip = clamp

    def _reduce(self, name: str, how: Any, dim: Axis, keepdim: bool) -> Tensor:
        axes = reduce.axes_of(name, dim, len(self.shape))
        y = how(self, axes=axes)
        spec = Spec(self.shape, self.dtype)
        return sh.reshape(y, shape=reduce.kept_shape(spec, axes)) if keepdim else y

    def _counted(self, whole: DType, dtype: Type) -> Tensor:
        """Return elements in a type, by default their own, or `whole` of what is no floating-point
        number."""
        if dtype is None:
            return cast("Tensor", self) if is_floating(self.dtype) else self.astype(whole)
        return self.astype(dtype)

    @numpy_names
    def sum(self, dim: Axis = None, keepdim: bool = False, *, dtype: Type = None) -> Tensor:
        """Return sums over axes, all for None; truth values and integers are summed in int64.

        With `keepdim` (of every reduction) reduced axes stay with extent 1; elements are converted
        to a `dtype`, if given, before. ValueError for an axis that does not exist."""
        counted = self._counted(INT64, dtype)
        return counted._reduce("sum", reduce.sum, dim, keepdim)

    @numpy_names
    def prod(self, dim: Axis = None, keepdim: bool = False, *, dtype: Type = None) -> Tensor:
        """Return products over axes; of truth values and integers in int64.

        The gradient has no derivative."""
        counted = self._counted(INT64, dtype)
        return counted._reduce("prod", reduce.product, dim, keepdim)

    @numpy_names
    def any(self, dim: Axis = None, keepdim: bool = False) -> Tensor:
        """Return True where any element over axes is not 0."""
        return self._reduce("any", reduce.any_of, dim, keepdim)

    @numpy_names
    def all(self, dim: Axis = None, keepdim: bool = False) -> Tensor:
        """Return True where no element over axes is 0."""
        return self._reduce("all", reduce.all_of, dim, keepdim)

    @numpy_names
    def mean(self, dim: Axis = None, keepdim: bool = False, *, dtype: Type = None) -> Tensor:
        """Return means over axes; of truth values and integers in float32."""
        counted = self._counted(FLOAT32, dtype)  # means of integers are rarely integers
        return counted._reduce("mean", reduce.mean, dim, keepdim)

    @numpy_names
    def var(
        self,
        dim: Axis = None,
        unbiased: bool = True,
        keepdim: bool = False,
        *,
        correction: int | None = None,
    ) -> Tensor:
        """Return variances over axes: squared deviations divided by their number less `correction`,
        1 or, not `unbiased`, 0. `var(False)` is that over all elements."""
        if isinstance(dim, bool):
            return self.var(None, dim, keepdim, correction=correction)
        correction = int(unbiased) if correction is None else correction
        axes = reduce.axes_of("var", dim, len(self.shape))
        count = int(np.prod([self.shape[a] for a in axes]))
        off = self - self.mean(dim, keepdim=True)
        return (off * off).sum(dim, keepdim) / max(count - correction, 0)

    @numpy_names
    def std(
        self,
        dim: Axis = None,
        unbiased: bool = True,
        keepdim: bool = False,
        *,
        correction: int | None = None,
    ) -> Tensor:
        """Return standard deviations over axes: the square root of `var`, with gradient 0 where it
        is 0."""
        return el.deviation(self.var(dim, unbiased, keepdim, correction=correction))

    @numpy_names
    def argmax(self, dim: int | None = None, keepdim: bool = False) -> Tensor:
        """Return the position of the largest value along an axis, in the flattened tensor for
        None."""
        return self._position_of("argmax", reduce.argmax, dim, keepdim)

    @numpy_names
    def argmin(self, dim: int | None = None, keepdim: bool = False) -> Tensor:
        """Return the position of the smallest value along an axis, in the flattened tensor for
        None."""
        return self._position_of("argmin", reduce.argmin, dim, keepdim)

    def _position_of(self, name: str, how: Any, dim: int | None, keepdim: bool) -> Tensor:
        flat = self.reshape(-1) if dim is None or not self.shape else self
        axis = sh.axis_of(name, 0 if dim is None else dim, len(flat.shape))
        y: Tensor = how(flat, axis=axis)
        if not keepdim:
            return y
        whole = dim is None or not self.shape
        return y.reshape([1] * len(self.shape)) if whole else y.unsqueeze(axis)

    def reshape(self, *shape: Size) -> Tensor:
        """Return the same elements in another shape; one extent may be -1. ValueError where none
        fits."""
        return sh.reshape(self, shape=sh.completed(self.shape, shape))

    view = reshape

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Return the tensor with axes start_dim to end_dim merged into one; of a number, one
        element."""
        ndim = max(len(self.shape), 1)
        start, end = (sh.axis_of("flatten", dim, ndim) for dim in (start_dim, end_dim))
        if start > end:
            raise ValueError(
                f"flatten: expected start_dim <= end_dim, got {start_dim} and {end_dim}"
            )
        shape = self.shape
        flat = (*shape[:start], prod(shape[start : end + 1]), *shape[end + 1 :])
        y: Tensor = sh.reshape(self, shape=flat)
        return y

    def squeeze(self, dim: int | Sequence[int] | None = None) -> Tensor:
        """Return the tensor without its axes of extent 1, or without one or some of them."""
        drop = {i for i, n in enumerate(self.shape) if n == 1}
        if dim is not None:
            axes, ndim = sh.integers((dim,)), max(len(self.shape), 1)
            drop &= {sh.axis_of("squeeze", axis, ndim) for axis in axes}
        return self.reshape(tuple(n for i, n in enumerate(self.shape) if i not in drop))

    def unsqueeze(self, dim: int) -> Tensor:
        """Return the tensor with a new axis of extent 1, which is axis `dim` of the result."""
        at = sh.axis_of("unsqueeze", dim, len(self.shape) + 1)
        return self.reshape((*self.shape[:at], 1, *self.shape[at:]))

    def permute(self, *axes: Size) -> Tensor:
        """Return the tensor with its axes in another order, listed one by one or as one
        sequence."""
        ndim = len(self.shape)
        return sh.permute(
            self, axes=tuple(sh.axis_of("permute", a, ndim) for a in sh.integers(axes))
        )

    def transpose(self, first: int, second: int) -> Tensor:
        """Return the tensor with two axes exchanged."""
        axes = list(range(len(self.shape)))
        i, k = (sh.axis_of("transpose", a, len(axes)) for a in (first, second))
        axes[i], axes[k] = axes[k], axes[i]
        return self.permute(*axes)

    @property
    def T(self) -> Tensor:
        """The tensor with its axes in reverse order."""
        return sh.permute(self, axes=tuple(range(len(self.shape))[::-1]))

    def expand(self, *shape: Size) -> Tensor:
        """Return the tensor repeated to a larger shape, without a copy; -1 keeps an extent.

        ValueError for a shape that the tensor's does not broadcast to."""
        target = sh.integers(shape)
        new = len(target) - len(self.shape)
        if new < 0 or -1 in target[:new]:
            raise ValueError(
                f"expand: expected at least {len(self.shape)} extents, -1 only for an axis that "
                f"there is, got {target} for {self.shape}"
            )
        extents = (*target[:new], *map(_extent, target[new:], self.shape))
        if any(m not in (1, n) for n, m in zip(extents[new:], self.shape, strict=True)):
            raise ValueError(
                f"expand: expected a shape that {self.shape} broadcasts to, got {target}"
            )
        return reduce.broadcast_to(self, shape=extents)

    def flip(self, *dims: Size) -> Tensor:
        """Return the elements in reverse order along axes."""
        return parts.flip(self, sh.integers(dims))

    def split(self, sizes: Size, dim: int = 0) -> list[Tensor]:
        """Return parts along an axis: of one size (the last may be smaller), or of listed sizes."""
        return parts.split(self, sizes, dim)

    def chunk(self, chunks: int, dim: int = 0) -> list[Tensor]:
        """Return up to `chunks` parts of one size along an axis; the last may be smaller."""
        return parts.chunk(self, chunks, dim)

    def unbind(self, dim: int = 0) -> tuple[Tensor, ...]:
        """Return the parts along an axis, without that axis."""
        return parts.unbind(self, dim)

    def matmul(self, other: Tensor) -> Tensor:
        """Return the matrix product, see `@`."""
        return linear.product(self, other)

    def dim(self) -> int:
        """Return the number of axes."""
        return len(self.shape)

    def numel(self) -> int:
        """Return the number of elements."""
        return prod(self.shape)

    def clone(self) -> Tensor:
        """Return a copy with memory of its own; gradients pass through."""
        return el.copy(self)

    def astype(self, dtype: npt.DTypeLike) -> Tensor:
        """Return the same numbers in another type, or the tensor itself where it has that type."""
        target = as_dtype(dtype)
        return cast("Tensor", self) if target == self.dtype else sh.cast(self, dtype=target)

    def to(
        self,
        target: npt.DTypeLike | Tensor | Device = None,
        dtype: npt.DTypeLike | None = None,
        non_blocking: bool = False,
        copy: bool = False,
        *,
        device: Device = None,
    ) -> Tensor:
        """Return the same numbers in another type, or that of another tensor; the tensor itself for
        the device "cpu", the only one that there is, unless `copy` is set."""
        wanted = target_type(target, dtype, device)
        y = cast("Tensor", self) if wanted is None else self.astype(wanted)
        return y.clone() if copy and y is self else y

    def float(self) -> Tensor:
        """Return the same numbers in float32."""
        return self.astype(FLOAT32)

    def bfloat16(self) -> Tensor:
        """Return the same numbers in bfloat16. ImportError where ml_dtypes is not installed."""
        return self.astype(bfloat16())

    def double(self) -> Tensor:
        """Return the same numbers in float64."""
        return self.astype(FLOAT64)


def _extent(wanted: int, current: int) -> int:
    """Return an extent of `expand`: -1 keeps the current one."""
    return current if wanted == -1 else wanted
