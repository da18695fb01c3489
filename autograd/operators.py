"""The methods and signs of a tensor: each is a call of one operation or a few."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from .array import Spec
from .indexing import select
from .ops import activation, linear, reduce
from .ops import elementwise as el
from .ops import shape as sh

if TYPE_CHECKING:
    from .tensor import Tensor

Operand: TypeAlias = "Tensor | npt.NDArray[Any] | float"
Axis: TypeAlias = int | tuple[int, ...] | None


class Operators:
    """Mixed into Tensor. Operands are broadcast as in NumPy; a Python number takes the tensor's
    type, so that it never widens float32."""

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

    def __matmul__(self, other: Tensor) -> Tensor:
        return linear.product(self, other)

    def __neg__(self) -> Tensor:
        return el.neg(self)

    def __abs__(self) -> Tensor:
        return el.abs(self)

    def __eq__(self, other: Operand) -> Tensor:  # type: ignore[override]
        return el.eq(self, other)

    def __ne__(self, other: Operand) -> Tensor:  # type: ignore[override]
        return el.ne(self, other)

    def __lt__(self, other: Operand) -> Tensor:  # type: ignore[misc]
        return el.lt(self, other)

    def __le__(self, other: Operand) -> Tensor:  # type: ignore[misc]
        return el.le(self, other)

    def __gt__(self, other: Operand) -> Tensor:  # type: ignore[misc]
        return el.gt(self, other)

    def __ge__(self, other: Operand) -> Tensor:  # type: ignore[misc]
        return el.ge(self, other)

    __hash__ = object.__hash__

    def __getitem__(self, key: Any) -> Tensor:
        return select(self, key)

    def abs(self) -> Tensor:
        """Absolute values."""
        return el.abs(self)

    def exp(self) -> Tensor:
        """e to the power of each element."""
        return el.exp(self)

    def log(self) -> Tensor:
        """Natural logarithms."""
        return el.log(self)

    def sin(self) -> Tensor:
        """Sines, of radians."""
        return el.sin(self)

    def cos(self) -> Tensor:
        """Cosines, of radians."""
        return el.cos(self)

    def sqrt(self) -> Tensor:
        """Square roots."""
        return el.sqrt(self)

    def relu(self) -> Tensor:
        """Each element, or 0 where it is negative."""
        return activation.relu(self)

    def sigmoid(self) -> Tensor:
        """1 / (1 + e^-x) of each element."""
        return activation.sigmoid(self)

    def tanh(self) -> Tensor:
        """Hyperbolic tangents."""
        return activation.tanh(self)

    def clip(self, low: float, high: float) -> Tensor:
        """Each element, or the bound that it passes."""
        return el.minimum(el.maximum(self, low), high)

    clamp = clip

    def _reduce(self, how: Any, dim: Axis, keepdim: bool) -> Tensor:
        axes = reduce.axes_of(dim, len(self.shape))
        y = how(self, axes=axes)
        spec = Spec(self.shape, self.dtype)
        return sh.reshape(y, shape=reduce.kept(spec, axes)) if keepdim else y

    def sum(self, dim: Axis = None, keepdim: bool = False) -> Tensor:
        """Sum over axes, all for None."""
        counted = self.astype(np.int64) if self.dtype.kind == "b" else self
        return counted._reduce(reduce.sum, dim, keepdim)

    def mean(self, dim: Axis = None, keepdim: bool = False) -> Tensor:
        """Mean over axes; of truth values and integers in float32."""
        counted = self if self.dtype.kind == "f" else self.astype(np.float32)
        return counted._reduce(reduce.mean, dim, keepdim)

    def var(self, dim: Axis = None, keepdim: bool = False, correction: int = 1) -> Tensor:
        """Variance over axes: squared deviations divided by their number less `correction`."""
        axes = reduce.axes_of(dim, len(self.shape))
        count = int(np.prod([self.shape[a] for a in axes]))
        off = self - self.mean(dim, keepdim=True)
        return (off * off).sum(dim, keepdim) / max(count - correction, 0)

    def std(self, dim: Axis = None, keepdim: bool = False, correction: int = 1) -> Tensor:
        """Standard deviation over axes: the square root of `var`."""
        return self.var(dim, keepdim, correction).sqrt()

    def max(self, dim: Axis = None, keepdim: bool = False) -> Tensor:
        """Largest values over axes."""
        return self._reduce(reduce.amax, dim, keepdim)

    def min(self, dim: Axis = None, keepdim: bool = False) -> Tensor:
        """Smallest values over axes."""
        return self._reduce(reduce.amin, dim, keepdim)

    def argmax(self, dim: int | None = None) -> Tensor:
        """Position of the largest value along an axis, in the flattened tensor for None."""
        flat = self.reshape(-1) if dim is None else self
        (place,) = reduce.axes_of(0 if dim is None else dim, len(flat.shape))
        return reduce.argmax(flat, axis=place)

    def argmin(self, dim: int | None = None) -> Tensor:
        """Position of the smallest value along an axis, in the flattened tensor for None."""
        return (-self).argmax(dim)

    def reshape(self, *shape: int | tuple[int, ...]) -> Tensor:
        """The same elements in another shape; one extent may be -1. ValueError if it can't be."""
        wanted: Any = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        return sh.reshape(self, shape=sh.completed(self.shape, wanted))

    view = reshape

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Axes start_dim to end_dim made one."""
        end = end_dim % max(len(self.shape), 1) + 1
        return self.reshape((*self.shape[:start_dim], -1, *self.shape[end:]))

    def squeeze(self, dim: int | None = None) -> Tensor:
        """Without the axes of extent 1, or without one of them."""
        drop = {i for i, n in enumerate(self.shape) if n == 1}
        drop &= set(range(len(self.shape))) if dim is None else {dim % len(self.shape)}
        return self.reshape(tuple(n for i, n in enumerate(self.shape) if i not in drop))

    def unsqueeze(self, dim: int) -> Tensor:
        """With a new axis of extent 1 at a place."""
        at = dim % (len(self.shape) + 1)
        return self.reshape((*self.shape[:at], 1, *self.shape[at:]))

    def permute(self, *axes: int) -> Tensor:
        """Axes in another order."""
        return sh.permute(self, axes=tuple(a % len(self.shape) for a in axes))

    def transpose(self, first: int, second: int) -> Tensor:
        """Two axes exchanged."""
        axes = list(range(len(self.shape)))
        axes[first], axes[second] = axes[second], axes[first]
        return self.permute(*axes)

    @property
    def T(self) -> Tensor:
        """Axes in reverse order."""
        return self.permute(*range(len(self.shape))[::-1])

    def expand(self, *shape: int) -> Tensor:
        """Repeated to a larger shape, without a copy."""
        return reduce.broadcast_to(self, shape=shape)

    def clone(self) -> Tensor:
        """A copy with memory of its own; gradients pass."""
        return el.copy(self)

    def astype(self, dtype: npt.DTypeLike) -> Tensor:
        """The same numbers in another type; self where it is that type already."""
        wanted: np.dtype[Any] = np.dtype(dtype)
        return cast("Tensor", self) if wanted == self.dtype else el.cast(self, dtype=wanted)

    def float(self) -> Tensor:
        """The same numbers in float32."""
        return self.astype(np.float32)

    def double(self) -> Tensor:
        """The same numbers in float64."""
        return self.astype(np.float64)
