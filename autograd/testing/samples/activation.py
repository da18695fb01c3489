"""Rows for activation functions."""

from __future__ import annotations

from ...functional import activation as fn
from .sample import Sample, distinct, normal

X = (distinct(3, 4),)

ROWS = [
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
