"""Rounding to integers, and division with a remainder. Where they step, the slope is 0, as in
torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..array import NDArray, Spec
from ..dtypes import is_floating
from ..primitive import Primitive, Value, primitive
from .elementwise import div, fit, mul, neg
from .rules import broadcast, each, floating, numeric, together
from .shape import zero


def _rounding(of: Callable[[NDArray], NDArray], name: str, text: str) -> Primitive:
    """Return the primitive of a function that steps."""

    def reference(x: NDArray) -> NDArray:
        return of(x)

    reference.__name__, reference.__doc__ = name, text
    rounding = primitive(infer=floating, cost=each(cmp=1))(reference)

    @rounding.vjp("x")
    def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
        return zero(specs[0])

    return rounding


round = _rounding(np.rint, "round", "Return the nearest integer, of two the even one.")
floor = _rounding(np.floor, "floor", "Return the largest integer that is not above x.")
ceil = _rounding(np.ceil, "ceil", "Return the smallest integer that is not below x.")
trunc = _rounding(np.trunc, "trunc", "Return the integer next to x towards 0.")


def _division(of: np.ufunc, name: str, text: str) -> Primitive:
    """Return the primitive of a division with a remainder."""

    def reference(x: NDArray, w: NDArray) -> NDArray:
        if not is_floating(w.dtype) and not is_floating(x.dtype) and not w.all():
            raise ZeroDivisionError(f"{name}: expected integers other than 0 to divide by, got 0")
        with np.errstate(invalid="ignore", divide="ignore"):
            return together(of, x, w)

    reference.__name__, reference.__doc__ = name, text
    cost = each(div=1, mul=1, add=1)
    return primitive(infer=lambda x, w: numeric(broadcast(x, w)), cost=cost)(reference)


fmod = _division(np.fmod, "fmod", "Return x - w times x / w rounded towards 0: x's sign.")
remainder = _division(np.remainder, "remainder", "Return x - w floor(x / w): w's sign.")
floor_divide = _division(np.floor_divide, "floor_divide", "Return floor(x / w).")


@fmod.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(dy, specs[0])


@fmod.vjp("w")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(neg(mul(dy, trunc(div(x, w)))), specs[1])


@remainder.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(dy, specs[0])


@remainder.vjp("w")
def _(dy: Value, x: Value, w: Value, specs: tuple[Spec, ...]) -> Value:
    return fit(neg(mul(dy, floor(div(x, w)))), specs[1])


@floor_divide.vjp("x", "w")
def _(dy: Value, specs: tuple[Spec, ...]) -> tuple[Value, Value]:
    return zero(specs[0]), zero(specs[1])
