"""Operations that change a tensor in place, by torch's rules.

Without recording, numbers are written to the tensor's memory. While gradients are recorded the
tensor takes over the result of an ordinary operation, with its history."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from .. import context, random
from ..dtypes import element_type
from ..indexing import assign
from ..ops import compare, reduce, update
from ..ops import elementwise as el
from ..ops.shape import cast as to_type
from .operators import Operand, Operators

if TYPE_CHECKING:
    from ..array import Array
    from ..tensor import Tensor


def _of_itself(name: str) -> Callable[[Any], Tensor]:
    def method(self: Any) -> Tensor:
        return self._change(f"{name}_", lambda x, _: getattr(x, name)(), 0)

    method.__name__ = method.__qualname__ = f"{name}_"
    method.__doc__ = f"Apply `{name}` in place."
    return method


class InPlace(Operators):
    """Mixed into Tensor.

    Without a tape, or between tensors that need no gradient, all who share the memory see the new
    numbers, and a gradient that needs the old ones raises an error. A computed tensor that has a
    history is given new memory: earlier views of it keep the old numbers."""

    __slots__ = ()

    if TYPE_CHECKING:
        array: Array
        requires_grad: bool

        def lifted(self, value: Operand) -> Array: ...

        def become(self, result: Tensor) -> None: ...

    def __iadd__(self, other: Operand) -> Tensor:
        return self._change("+=", el.add, other)

    def __isub__(self, other: Operand) -> Tensor:
        return self._change("-=", el.sub, other)

    def __imul__(self, other: Operand) -> Tensor:
        return self._change("*=", el.mul, other)

    def __itruediv__(self, other: Operand) -> Tensor:
        return self._change("/=", el.div, other)

    def __ipow__(self, other: Operand) -> Tensor:
        return self._change("**=", el.pow, other)

    def __iand__(self, other: Operand) -> Tensor:
        return self._change("&=", compare.bit_and, other)

    def __ior__(self, other: Operand) -> Tensor:
        return self._change("|=", compare.bit_or, other)

    def __ixor__(self, other: Operand) -> Tensor:
        return self._change("^=", compare.bit_xor, other)

    def add_(self, other: Operand, alpha: float = 1) -> Tensor:
        """Add alpha times another tensor or number in place."""
        return self._change("add_", el.add, _times(other, alpha))

    def sub_(self, other: Operand, alpha: float = 1) -> Tensor:
        """Subtract alpha times another tensor or number in place."""
        return self._change("sub_", el.sub, _times(other, alpha))

    def mul_(self, other: Operand) -> Tensor:
        """Multiply in place."""
        return self._change("mul_", el.mul, other)

    def div_(self, other: Operand) -> Tensor:
        """Divide in place."""
        return self._change("div_", el.div, other)

    abs_, exp_, log_, sqrt_ = (_of_itself(name) for name in ("abs", "exp", "log", "sqrt"))
    neg_, square_, sign_ = (_of_itself(name) for name in ("neg", "square", "sign"))
    relu_, sigmoid_, tanh_ = (_of_itself(name) for name in ("relu", "sigmoid", "tanh"))
    floor_, ceil_, round_ = (_of_itself(name) for name in ("floor", "ceil", "round"))
    reciprocal_ = _of_itself("reciprocal")

    def pow_(self, exponent: Operand) -> Tensor:
        """Raise to a power in place."""
        return self._change("pow_", el.pow, exponent)

    def lerp_(self, end: Tensor, weight: float) -> Tensor:
        """Add weight (end - x) in place."""
        return self._change("lerp_", lambda x, _: x.lerp(end, weight), end)

    def addcmul_(self, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
        """Add value tensor1 tensor2 in place."""
        return self._change("addcmul_", el.add, _times(tensor1 * tensor2, value))

    def addcdiv_(self, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
        """Add value tensor1 / tensor2 in place."""
        return self._change("addcdiv_", el.add, _times(tensor1 / tensor2, value))

    def clamp_(
        self, min: float | Tensor | None = None, max: float | Tensor | None = None
    ) -> Tensor:
        """Replace each element that passes a bound by that bound."""
        return self._change("clamp_", lambda x, _: x.clamp(min, max), 0)

    def masked_fill_(self, mask: Tensor, value: Tensor | float) -> Tensor:
        """Write a value where a mask holds."""
        return self._change("masked_fill_", lambda x, _: x.masked_fill(mask, value), value)

    def scatter_(
        self,
        dim: int,
        index: Tensor,
        src: Tensor | float | None = None,
        *,
        value: float | None = None,
    ) -> Tensor:
        """Write elements of `src`, or one number, also as `value`, to positions along an axis."""
        numbers = src if value is None else value
        return self._change(
            "scatter_",
            lambda x, _: x.scatter(dim, index, numbers),
            0 if numbers is None else numbers,
        )

    def scatter_add_(self, dim: int, index: Tensor, src: Tensor) -> Tensor:
        """Add elements of `src` at positions along an axis."""
        return self._change("scatter_add_", lambda x, _: x.scatter_add(dim, index, src), src)

    def index_add_(self, dim: int, index: Tensor, source: Tensor, alpha: float = 1) -> Tensor:
        """Add parts of `source`, times alpha, at positions along an axis."""
        return self._change(
            "index_add_", lambda x, _: x.index_add(dim, index, source, alpha), source
        )

    def copy_(self, other: Operand) -> Tensor:
        """Write other numbers, broadcast to the shape, into the memory.

        RuntimeError where gradients are recorded."""
        self._unrecorded("copy_", other)
        self._write(self.lifted(other))
        return cast("Tensor", self)

    def fill_(self, value: float) -> Tensor:
        """Write one number everywhere."""
        self._unrecorded("fill_")
        self._write(self.lifted(value))
        return cast("Tensor", self)

    def zero_(self) -> Tensor:
        """Write zeros."""
        self._unrecorded("zero_")
        self._write(self.lifted(0))
        return cast("Tensor", self)

    def normal_(
        self, mean: float = 0, std: float = 1, *, generator: random.Generator | None = None
    ) -> Tensor:
        """Write numbers drawn from a normal distribution, as by `randn`."""
        return self._draw("normal", mean, std, generator)

    def uniform_(
        self, a: float = 0, b: float = 1, *, generator: random.Generator | None = None
    ) -> Tensor:
        """Write numbers drawn uniformly from [a, b), as by `rand`."""
        return self._draw("uniform", a, b, generator)

    def _draw(
        self, kind: str, low: float, high: float, generator: random.Generator | None
    ) -> Tensor:
        self._unrecorded(f"{kind}_")
        self._write(random.draw(kind, self.shape, low, high, self.dtype, generator))
        return cast("Tensor", self)

    def __setitem__(self, key: Any, value: Operand) -> None:
        self._unrecorded("x[...] = ", value)
        context.reads(cast("Tensor", self))
        assign(self.array, key, self.lifted(value))

    def _change(self, name: str, compute: Callable[..., Tensor], other: Operand) -> Tensor:
        """Compute with the tensor and another operand, and let the tensor have the result.

        ValueError for a result of another shape, TypeError for a type that the tensor cannot
        hold."""
        recorded = self._recorded(other)
        if recorded:
            self._changeable(name)
        else:
            self.array.check_writable(name)
        result = compute(self, other)
        if result.shape != self.shape:
            raise ValueError(f"{name}: expected shape {self.shape}, got {result.shape}")
        if element_type(result.dtype).rank > element_type(self.dtype).rank:
            raise TypeError(f"{name}: expected what {self.dtype} can hold, got {result.dtype}")
        if recorded:
            same = result.dtype == self.dtype
            self.become(result if same else to_type(result, dtype=self.dtype))
        else:
            update.store(self.array, result.array)
        return cast("Tensor", self)

    def _recorded(self, other: Any = None) -> bool:
        """Tell whether the tape records what is computed with the tensor and another operand."""
        tracked = self.requires_grad or getattr(other, "requires_grad", False)
        return tracked and context.current().tape is not None

    def _changeable(self, name: str) -> None:
        """RuntimeError for what must not change while gradients are recorded.

        That is leaves that accumulate a gradient, parameters, and views, since the rest of the
        memory would not know of the change."""
        me = cast("Tensor", self)
        if me.is_leaf and (me.requires_grad or me.is_parameter):
            raise RuntimeError(f"{name}: in place on a leaf with a gradient; use no_grad()")
        if self.array.base is not None:
            raise RuntimeError(
                f"{name}: in place on a view while gradients are recorded; use no_grad(), or "
                "write x = x + y"
            )
        if me.is_leaf:
            context.not_replayable("gives a tensor other memory")

    def _unrecorded(self, name: str, other: Any = None) -> None:
        if self._recorded(other):
            raise RuntimeError(
                f"{name}: in place on a tensor with a gradient; use no_grad(), or where() and cat()"
            )

    def _write(self, value: Array) -> None:
        context.reads(cast("Tensor", self))
        if value.shape not in ((), self.shape):
            value = reduce.broadcast_to(value, shape=self.shape)
        update.store(self.array, value)


def _times(other: Operand, alpha: float) -> Operand:
    return other if alpha == 1 else other * alpha
