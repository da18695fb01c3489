"""Shape, type and cost rules that operations share.

A shape rule takes the Specs of the operands and returns that of the result. Its errors begin with
"expected"; the name of the operation is put in front where the call is resolved."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ..array import NDArray, Spec
from ..dtypes import BOOL, FLOAT32, category, computed_in, is_boolean, is_floating, is_integer
from ..ledger import Cost


def common(*operands: Spec | NDArray) -> np.dtype[Any]:
    """Return the type of a result of several operands, as torch has it.

    Operands without axes count only where their category (truth values, integers, floating-point
    numbers) is higher than that of all operands with axes."""
    with_axes = _widest(*[x.dtype for x in operands if x.shape])
    without = _widest(*[x.dtype for x in operands if not x.shape])
    if with_axes is None or (without is not None and category(without) > category(with_axes)):
        assert without is not None, "a call without operands"
        return without
    return with_axes


@cache
def _widest(*dtypes: np.dtype[Any]) -> np.dtype[Any] | None:
    """Return the common type of operands of equal standing, None for no operand.

    That is the widest floating-point type among them, whatever integers and truth values there are
    besides; NumPy alone would widen float32 beside int64, and not mix bfloat16 and float16, of
    which neither holds the other."""
    floats = {d for d in dtypes if is_floating(d)}
    if len(floats) > 1:
        floats = {computed_in(d) for d in floats}
    return np.result_type(*(floats or dtypes)) if dtypes else None


def one_kind(name: str, *operands: Spec) -> None:
    """TypeError where integers or truth values meet floating-point numbers, as in torch's
    products: mostly pictures that were not scaled."""
    if len({is_floating(x.dtype) for x in operands}) > 1:
        got = " and ".join(str(x.dtype) for x in operands)
        raise TypeError(
            f"{name}: expected floating-point numbers alone, or integers alone, got {got}; "
            "convert with .float()"
        )


def together(function: np.ufunc, x: NDArray, w: NDArray) -> NDArray:
    """Return function(x, w), computed in the common type of both."""
    if x.dtype == w.dtype:
        return function(x, w)
    return function(x, w, dtype=common(x, w), casting="unsafe")  # a 0-d operand may be narrowed


def agreed(*xs: NDArray) -> list[NDArray]:
    """Return arrays converted to their common type, without a copy where they have it."""
    dtype = common(*xs)
    return [x.astype(dtype, copy=False) for x in xs]


def broadcast(*specs: Spec) -> Spec:
    """Shape rule of elementwise operations. ValueError for shapes that do not broadcast."""
    try:
        shape = np.broadcast_shapes(*[s.shape for s in specs])
    except ValueError:
        shapes = " and ".join(str(s.shape) for s in specs)
        raise ValueError(f"expected shapes that broadcast, got {shapes}") from None
    return Spec(shape, common(*specs))


def quotient(x: Spec, w: Spec) -> Spec:
    """Shape rule of a division: integers and truth values give float32."""
    y = broadcast(x, w)
    return y if is_floating(y.dtype) else Spec(y.shape, FLOAT32)


def same(x: Spec, **attrs: Any) -> Spec:
    """Shape rule: as the operand."""
    return x


def floating(x: Spec, **attrs: Any) -> Spec:
    """Shape rule of functions defined on floating-point numbers. TypeError for others."""
    if not is_floating(x.dtype):
        raise TypeError(f"expected floating-point numbers, got {x.dtype}")
    return x


def numeric(x: Spec, **attrs: Any) -> Spec:
    """Shape rule of functions defined on numbers. TypeError for truth values."""
    if is_boolean(x.dtype):
        raise TypeError("expected numbers, got truth values")
    return x


def whole(x: Spec, **attrs: Any) -> Spec:
    """Shape rule of bitwise functions of truth values and integers. TypeError for others."""
    if not is_integer(x.dtype) and not is_boolean(x.dtype):
        raise TypeError(f"expected truth values or integers, got {x.dtype}")
    return x


def truth(*specs: Spec) -> Spec:
    """Shape rule of comparisons: truth values in the broadcast shape."""
    return Spec(broadcast(*specs).shape, BOOL)


def each(**kinds: int) -> Callable[..., Cost]:
    """Return a cost rule: so many operations of each kind for every element of the (first)
    result."""

    def rule(y: Any, *specs: Spec, **attrs: Any) -> Cost:
        size = (y if isinstance(y, Spec) else y[0]).size
        return Cost(**{kind: n * size for kind, n in kinds.items()})

    return rule
