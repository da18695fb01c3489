"""Rows for activation functions."""

from __future__ import annotations

from typing import Any

from ...functional import activation as fn
from .sample import Sample, distinct, normal

X = (distinct(3, 4),)


def _alike(name: str, label: str = "", *options: Any, **more: Any) -> Sample:
    """Return a row of a function that torch has by the same name, with the same options."""
    inputs = more.pop("inputs", X)
    ours: Any = getattr(fn, name)
    return Sample(
        f"{name}/{label}" if label else name,
        lambda *xs: ours(*xs, *options),
        inputs,
        lambda t, *xs: getattr(t.nn.functional, name)(*xs, *options),
        **more,
    )


WIDE = (distinct(5, 25),)  # from -6 to 6
ODD = (("glu: expected an even extent along axis 1, got shape (2, 3)", ((2, 3),)),)
MISFIT = (("prelu: expected a weight of 1 or 3 numbers for input (2, 3), got ", ((2, 3), (2,))),)
MORE = [
    _alike("gelu", inputs=WIDE),
    Sample(
        "gelu/tanh",
        lambda x: fn.gelu(x, "tanh"),
        WIDE,
        lambda t, x: t.nn.functional.gelu(x, approximate="tanh"),
    ),
    *[_alike(name, inputs=WIDE) for name in ("silu", "mish", "hardswish", "relu6")],
    # torch's own divides by 6 in float32.
    Sample("hardsigmoid", fn.hardsigmoid, WIDE, lambda t, x: t.nn.functional.relu6(x + 3) / 6),
    *[_alike(name) for name in ("selu", "softsign", "tanhshrink", "logsigmoid")],
    _alike("celu", "alpha 0.5", 0.5),
    _alike("hardtanh", "bounds", -0.21, 0.3),
    _alike("softshrink", "lambd 0.3", 0.3),
    _alike("hardshrink", "lambd 0.3", 0.3),
    _alike("threshold", "0.1", 0.1, 20.0),
    _alike("prelu", inputs=(distinct(3, 4), normal(1))),
    _alike("prelu", "channels", inputs=(distinct(2, 3, 2, 2), normal(3)), wrong=MISFIT),
    _alike("softmin", "axis", 0, inputs=(normal(3, 4),)),
    _alike("glu", "channels", 1, inputs=(normal(2, 4, 3),), wrong=ODD),
    _alike("softplus", "beta", 1.5),
]

ROWS = [
    *MORE,
    Sample("relu", fn.relu, X, lambda t, x: t.relu(x)),
    Sample("relu/images", fn.relu, (distinct(2, 3, 2, 2),), lambda t, x: t.relu(x)),
    Sample("relu/number", fn.relu, (distinct(),), lambda t, x: t.relu(x)),
    Sample("relu/empty", fn.relu, (normal(0, 4),), lambda t, x: t.relu(x)),
    Sample("leaky_relu", fn.leaky_relu, X, lambda t, x: t.nn.functional.leaky_relu(x)),
    Sample(
        "leaky_relu/slope 0.3",
        lambda x: fn.leaky_relu(x, 0.3),
        X,
        lambda t, x: t.nn.functional.leaky_relu(x, 0.3),
    ),
    Sample(
        "leaky_relu/slope 0",
        lambda x: fn.leaky_relu(x, 0.0),
        X,
        lambda t, x: t.nn.functional.leaky_relu(x, 0.0),
    ),
    Sample(
        "leaky_relu/negative slope",
        lambda x: fn.leaky_relu(x, -0.5),
        X,
        lambda t, x: t.nn.functional.leaky_relu(x, -0.5),
    ),
    Sample("leaky_relu/empty", fn.leaky_relu, (normal(0, 4),)),
    Sample("elu", fn.elu, X, lambda t, x: t.nn.functional.elu(x)),
    Sample("elu/alpha 0.5", lambda x: fn.elu(x, 0.5), X, lambda t, x: t.nn.functional.elu(x, 0.5)),
    Sample(
        "elu/negative alpha", lambda x: fn.elu(x, -2.0), X, lambda t, x: t.nn.functional.elu(x, -2)
    ),
    Sample(
        "elu/large",
        lambda x: fn.elu(x * 1000.0),
        X,
        lambda t, x: t.nn.functional.elu(x * 1000),
        rtol=1e-4,
    ),
    Sample("elu/empty", fn.elu, (normal(0, 4),)),
    Sample("sigmoid", fn.sigmoid, (normal(3, 4),), lambda t, x: t.sigmoid(x)),
    Sample("sigmoid/number", fn.sigmoid, (normal(),), lambda t, x: t.sigmoid(x)),
    Sample("sigmoid/large", lambda x: fn.sigmoid(x * 1e4), X, lambda t, x: t.sigmoid(x * 1e4)),
    Sample("sigmoid/empty", fn.sigmoid, (normal(0, 4),)),
    Sample("tanh", fn.tanh, (normal(3, 4),), lambda t, x: t.tanh(x)),
    Sample("tanh/empty", fn.tanh, (normal(0, 4),)),
    Sample("softplus", fn.softplus, (normal(3, 4),), lambda t, x: t.nn.functional.softplus(x)),
    Sample(
        "softplus/large",
        lambda x: fn.softplus(x * 1e3),
        X,
        lambda t, x: t.nn.functional.softplus(x * 1e3),
    ),
    Sample("softmax", lambda x: fn.softmax(x, 1), (normal(3, 4),), lambda t, x: t.softmax(x, 1)),
    Sample(
        "softmax/axis",
        lambda x: fn.softmax(x, -3),
        (normal(4, 2, 3),),
        lambda t, x: t.softmax(x, -3),
        wrong=(("softmax: expected an axis in [-2, 2), got -3", ((4, 2),)),),
    ),
    Sample(
        "softmax/large",
        lambda x: fn.softmax(x * 1e4, 1),
        (distinct(3, 4),),
        lambda t, x: t.softmax(x * 1e4, 1),
    ),
    Sample("softmax/empty", lambda x: fn.softmax(x, 1), (normal(0, 4),)),
    Sample(
        "softmax/nothing",
        lambda x: fn.softmax(x, 0),
        (normal(0, 4),),
        lambda t, x: t.softmax(x, 0),
    ),
    Sample(
        "log_softmax/nothing",
        lambda x: fn.log_softmax(x, 0),
        (normal(0, 4),),
        lambda t, x: t.log_softmax(x, 0),
    ),
    Sample(
        "log_softmax",
        lambda x: fn.log_softmax(x, 1),
        (normal(3, 4),),
        lambda t, x: t.log_softmax(x, 1),
    ),
    Sample(
        "log_softmax/axis",
        lambda x: fn.log_softmax(x, 0),
        (normal(4, 2, 3),),
        lambda t, x: t.log_softmax(x, 0),
    ),
    Sample(
        "log_softmax/large",
        lambda x: fn.log_softmax(x * 1e4, 1),
        (distinct(3, 4),),
        lambda t, x: t.log_softmax(x * 1e4, 1),
    ),
    Sample("log_softmax/empty", lambda x: fn.log_softmax(x, 1), (normal(0, 4),)),
]
