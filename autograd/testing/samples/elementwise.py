"""Rows for arithmetic and reductions, as a user writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...functional import arrange as fn
from ...functional.create import tensor
from ...tensor import Tensor
from .sample import Sample, distinct, normal, positive

X, PAIR = (normal(3, 4),), (normal(3, 4), normal(3, 4))
SPREAD = (normal(2, 3, 4), normal(3, 1))
APART = (("expected shapes that broadcast, got (3, 4) and (4, 3)", ((3, 4), (4, 3))),)
MASK = np.array([[True, False, True, True]] * 3)


def _alike(name: str, function: Callable[..., Any], inputs: tuple[Any, ...], **more: Any) -> Sample:
    """Return a row whose function reads the same for our tensors and torch's."""
    return Sample(name, function, inputs, lambda t, *args: function(*args), **more)


def _sum_to_one(x: Tensor) -> Tensor:
    return x / x.sum(1, True)


ARITHMETIC = [
    _alike("add", lambda x, w: x + w, PAIR, wrong=APART),
    _alike("add/broadcast", lambda x, w: x + w, SPREAD),
    _alike("add/numbers", lambda x: 1 + x + 2.5, X),
    _alike("add/to a number", lambda x, w: x + w, (normal(), normal(2, 3))),
    _alike("add/empty", lambda x, w: x + w, (normal(0, 4), normal(4))),
    _alike("sub", lambda x, w: x - w, PAIR, wrong=APART),
    _alike("sub/broadcast", lambda x, w: w - x, SPREAD),
    _alike("sub/numbers", lambda x: 1.5 - (x - 3), X),
    _alike("mul", lambda x, w: x * w, PAIR, wrong=APART),
    _alike("mul/broadcast", lambda x, w: x * w, SPREAD),
    _alike("mul/numbers", lambda x: 2 * x * 0.5, X),
    _alike("mul/by itself", lambda x: x * x, X),
    _alike("div", lambda x, w: x / w, (normal(3, 4), positive(3, 4)), wrong=APART),
    _alike("div/broadcast", lambda x, w: x / w, (normal(2, 3, 4), positive(3, 1))),
    _alike("div/numbers", lambda x: 1.0 / x / 3, (positive(3, 4),)),
    _alike("neg", lambda x: -x, X),
    _alike("pow", lambda x, w: x**w, (positive(3, 4), normal(3, 4)), wrong=APART),
    _alike("pow/broadcast", lambda x, w: x**w, (positive(2, 3, 4), normal(3, 1))),
    _alike("pow/square", lambda x: x**2, X),
    _alike("pow/cube of negative numbers", lambda x: x**3.0, (distinct(3, 4),)),
    _alike("pow/0", lambda x: x**0, X),
    _alike("pow/number to the x", lambda x: 2.0**x, X),
]

FUNCTIONS = [
    Sample("exp", fn.exp, X, lambda t, x: t.exp(x)),
    Sample("log", fn.log, (positive(3, 4),), lambda t, x: t.log(x)),
    Sample("sqrt", fn.sqrt, (positive(3, 4),), lambda t, x: t.sqrt(x)),
    Sample("sin", fn.sin, X, lambda t, x: t.sin(x)),
    Sample("cos", fn.cos, X, lambda t, x: t.cos(x)),
    _alike("abs", lambda x: abs(x), (distinct(3, 4),)),
    _alike("clip", lambda x: x.clip(-0.26, 0.31), (distinct(3, 4),)),
    _alike("clamp/below", lambda x: x.clamp(min=0.31), (distinct(3, 4),)),
    _alike("clamp/above", lambda x: x.clamp(max=-0.26), (distinct(3, 4),)),
    _alike("clamp/bounds in the wrong order", lambda x: x.clamp(0.31, -0.26), (distinct(3, 4),)),
    _alike("prod", lambda x: x.prod(), X, second=False),
    _alike("prod/one axis", lambda x: x.prod(1, keepdim=True), (normal(2, 3, 4),), second=False),
    _alike("exp/method", lambda x: x.exp() + x.sin() * x.cos() - x.abs(), (distinct(3, 4),)),
    _alike("log/method", lambda x: x.log() * x.sqrt(), (positive(3, 4),)),
    Sample("exp/empty", fn.exp, (normal(0, 4),), lambda t, x: t.exp(x)),
]

CHOICES = [
    Sample(
        "maximum",
        fn.maximum,
        (distinct(3, 4), normal(3, 4)),
        lambda t, x, w: t.maximum(x, w),
        wrong=APART,
    ),
    Sample("maximum/ties", lambda x: fn.maximum(x, x), X, lambda t, x: t.maximum(x, x)),
    Sample(
        "maximum/broadcast",
        fn.maximum,
        (distinct(2, 3, 4), normal(3, 1)),
        lambda t, x, w: t.maximum(x, w),
    ),
    Sample(
        "minimum",
        fn.minimum,
        (distinct(3, 4), normal(3, 4)),
        lambda t, x, w: t.minimum(x, w),
        wrong=APART,
    ),
    Sample("minimum/number", lambda x: fn.minimum(x, 0.11), (distinct(3, 4),)),
    Sample(
        "where",
        lambda x, w: fn.where(tensor(MASK), x, w),
        PAIR,
        lambda t, x, w: t.where(t.tensor(MASK), x, w),
        wrong=(
            ("expected shapes that broadcast, got (3, 4) and (3, 4) and (3, 3)", ((3, 4), (3, 3))),
        ),
    ),
    Sample(
        "where/broadcast",
        lambda x, w: fn.where(tensor(MASK), x, w),
        SPREAD,
        lambda t, x, w: t.where(t.tensor(MASK), x, w),
    ),
    Sample(
        "where/numbers",
        lambda x: fn.where(x > 0, x, 0.5) + fn.where(x <= 0, -1.0, x),
        (distinct(3, 4),),
        lambda t, x: t.where(x > 0, x, 0.5) + t.where(x <= 0, -1.0, x),
    ),
    *[
        Sample(
            f"where/{name}",
            lambda x, w, c=compare: fn.where(c(x, w), x * x, w),
            (distinct(3, 4), normal(4)),
            lambda t, x, w, c=compare: t.where(c(x, w), x * x, w),
        )
        for name, compare in {
            "lt": lambda x, w: x < w,
            "le": lambda x, w: x <= w,
            "gt": lambda x, w: x > w,
            "ge": lambda x, w: x >= w,
            "eq": lambda x, w: x == w,
            "ne": lambda x, w: x != w,
            "logic": lambda x, w: ((x > 0) | (w > 0)) ^ ~(x > w),
            "isclose": lambda x, w: x.isclose(w, atol=0.5),
            "all": lambda x, w: (x > w).all(1, keepdim=True),
        }.items()
    ],
]


def _reductions(name: str, draw: Callable[..., Any]) -> list[Sample]:
    """Return rows of a reduction over all, one, the last, and several axes."""

    def row(label: str, axis: Any, keepdim: bool = False) -> Sample:
        def function(x: Any) -> Any:
            return getattr(x, name)(axis, keepdim=keepdim)

        outside = (("expected distinct axes in [0, 0), got ", ((),)),)  # a number has axis -1
        wrong = outside if axis != -1 else ()
        return _alike(f"{name}/{label}", function, (draw(2, 3, 4),), wrong=wrong)

    return [
        _alike(name, lambda x: getattr(x, name)(), (draw(3, 4),)),
        row("one axis", 1),
        row("last axis, kept", -1, True),
        row("several axes", (0, 2)),
        row("several axes, kept", (-1, 1), True),
    ]


def _extreme(name: str) -> list[Sample]:
    over = f"a{name}"
    return [
        _alike(name, lambda x: getattr(x, name)(), (distinct(3, 4),)),
        _alike(
            f"{name}/one axis",
            lambda x: getattr(x, over)(1),
            (distinct(2, 3, 4),),
            wrong=(("expected at least one element along axes (1,), got (2, 0, 4)", ((2, 0, 4),)),),
        ),
        _alike(
            f"{name}/several axes, kept",
            lambda x: getattr(x, over)((0, -1), True),
            (distinct(2, 3, 4),),
        ),
        _alike(f"{name}/ties", lambda x: getattr(x * 0.0, over)(1), (normal(2, 3),)),
        _alike(
            f"{name}/positions", lambda x: tuple(getattr(x, name)(1, True)), (distinct(2, 3, 4),)
        ),
    ]


ROWS = [
    *ARITHMETIC,
    *FUNCTIONS,
    *CHOICES,
    *_reductions("sum", normal),
    *_reductions("mean", normal),
    *_reductions("var", normal),
    *_extreme("max"),
    *_extreme("min"),
    _alike("var/population", lambda x: x.var(1, correction=0), (normal(3, 4),)),
    _alike("sum/empty", lambda x: x.sum(0), (normal(0, 4),)),
    _alike("mean/composed", _sum_to_one, (positive(3, 4),)),
]
