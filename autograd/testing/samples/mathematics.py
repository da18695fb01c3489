"""Rows for functions of numbers, several of one domain in a row."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from ...methods import mathematics, reducing
from .sample import Sample, distinct, normal, positive

m = SimpleNamespace(**vars(mathematics), **{n: getattr(reducing, n) for n in reducing.__all__})
X, PAIR = (normal(3, 4),), (distinct(3, 4), positive(3, 4))
APART = (("expected shapes that broadcast, got (3, 4) and (4, 3)", ((3, 4), (4, 3))),)


def _within(low: float, high: float) -> tuple[Callable[[np.random.Generator], Any]]:
    return (lambda rng: rng.uniform(low, high, (3, 4)),)


def _alike(name: str, function: Callable[..., Any], inputs: tuple[Any, ...], **more: Any) -> Sample:
    """Return a row of a function of a module, ours or torch's, and tensors."""
    return Sample(
        name, lambda *xs: function(m, *xs), inputs, lambda t, *xs: function(t, *xs), **more
    )


ROWS = [
    _alike("exp and log", lambda t, x: t.expm1(x) * t.log1p(x) + t.exp2(x), _within(0.1, 2)),
    _alike("logarithms", lambda t, x: t.log2(x) * t.log10(x), _within(0.1, 2)),
    _alike("tangents", lambda t, x: t.tan(x) * t.atan(x), _within(-1, 1)),
    _alike("arcs", lambda t, x: t.asin(x) * t.acos(x) + t.atanh(x), _within(-0.9, 0.9)),
    _alike("hyperbolic", lambda t, x: t.sinh(x) * t.cosh(x) + t.asinh(x), X),
    _alike("acosh", lambda t, x: t.acosh(x), _within(1.1, 3)),
    _alike("erf", lambda t, x: t.erf(x) + t.erfc(x) * x, X),
    _alike("powers", lambda t, x: t.square(x) * t.reciprocal(x) + t.rsqrt(x), _within(0.5, 2)),
    _alike("atan2", lambda t, x, w: t.atan2(x, w), (normal(3, 4), positive(4)), wrong=APART),
    _alike("fmod", lambda t, x, w: t.fmod(x, w), PAIR, wrong=APART),
    _alike("remainder", lambda t, x, w: t.remainder(x, w) * x % 0.7, PAIR, wrong=APART),
    Sample("floor_divide", lambda x, w: x // w * x, PAIR, lambda t, x, w: (x / w).floor() * x),
    _alike(
        "rounding",
        lambda t, x: x * t.floor(x) + t.ceil(x) * t.round(x * 3) + t.trunc(x) * t.frac(x),
        (distinct(4, 6),),
    ),
    _alike("lerp/weights", lambda t, x, w, v: t.lerp(x, w, v), (*PAIR, normal(4))),
    _alike("add/alpha", lambda t, x, w: t.sub(t.add(x, w, alpha=2), w, alpha=0.5), PAIR),
    _alike(
        "addcmul", lambda t, x, w: t.addcmul(w, x, w, value=2) - t.addcdiv(x, x, w, value=0.5), PAIR
    ),
    _alike("clamp/one side", lambda t, x: t.clamp_min(x, 0.2) * t.clamp_max(x, 0.1), PAIR[:1]),
    _alike("moments", lambda t, x: (*t.std_mean(x, 1), *t.var_mean(x, 0, keepdim=True)), X),
    _alike("diff", lambda t, x: t.diff(x, 2, 1) * t.diff(x)[:, :2], X),
    _alike("logsumexp/axes", lambda t, x: t.logsumexp(x, (0, -1), True), (normal(2, 3, 4),)),
    _alike("cumsum", lambda t, x: t.cumsum(x, 1), (normal(2, 3, 4),)),
    _alike("cumprod", lambda t, x: t.cumprod(x, -1), (distinct(3, 4),), second=False),
    _alike("median/axis", lambda t, x: tuple(t.median(x, 1, True)), (distinct(2, 3, 4),)),
]
