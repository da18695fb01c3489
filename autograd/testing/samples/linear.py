"""Rows for matrix products."""

from __future__ import annotations

from ...functional.linear import bilinear, linear, matmul
from .sample import Sample, normal

ROWS = [
    Sample(
        "linear",
        linear,
        (normal(4, 5), normal(3, 5), normal(3)),
        lambda t, x, w, b: t.nn.functional.linear(x, w, b),
        macs=4 * 5 * 3,
        wrong=(
            (
                "expected input (.., C) and weight (M, C), got (4, 6) and (3, 5)",
                ((4, 6), (3, 5), (3,)),
            ),
            ("expected a bias of shape (3,), got (1,)", ((4, 5), (3, 5), (1,))),
        ),
    ),
    Sample(
        "linear/more axes",
        linear,
        (normal(2, 3, 5), normal(4, 5), normal(4)),
        lambda t, x, w, b: t.nn.functional.linear(x, w, b),
        macs=2 * 3 * 5 * 4,
    ),
    Sample(
        "linear/one row",
        linear,
        (normal(5), normal(4, 5), normal(4)),
        lambda t, x, w, b: t.nn.functional.linear(x, w, b),
        macs=5 * 4,
    ),
    Sample(
        "linear/large",
        linear,
        (normal(70, 131), normal(121, 131), normal(121)),
        lambda t, x, w, b: t.nn.functional.linear(x, w, b),
        macs=70 * 131 * 121,
    ),
    Sample(
        "linear/large, few weights",
        linear,
        (normal(3, 110, 65), normal(51, 65), normal(51)),
        lambda t, x, w, b: t.nn.functional.linear(x, w, b),
        macs=3 * 110 * 65 * 51,
    ),
    Sample(
        "linear/no bias, more axes",
        linear,
        (normal(2, 3, 5), normal(4, 5)),
        lambda t, x, w: t.nn.functional.linear(x, w),
        macs=2 * 3 * 5 * 4,
    ),
    Sample(
        "matmul",
        matmul,
        (normal(4, 5), normal(5, 3)),
        lambda t, x, w: t.matmul(x, w),
        macs=4 * 5 * 3,
        wrong=(("expected (.., a, b) and (.., b, c), got (4, 6) and (5, 3)", ((4, 6), (5, 3))),),
    ),
    Sample(
        "matmul/stacks",
        matmul,
        (normal(2, 1, 4, 5), normal(3, 5, 3)),
        lambda t, x, w: t.matmul(x, w),
        macs=2 * 3 * 4 * 5 * 3,
    ),
    Sample(
        "matmul/vectors",
        matmul,
        (normal(5), normal(5)),
        lambda t, x, w: t.matmul(x, w),
        macs=5,
    ),
    Sample(
        "bilinear",
        bilinear,
        (normal(2, 3, 4), normal(2, 3, 2), normal(5, 4, 2), normal(5)),
        lambda t, *tensors: t.nn.functional.bilinear(*tensors),
        macs=2 * 3 * (4 * 5 * 2 + 5 * 2),
        wrong=(
            (
                "bilinear: expected inputs (.., I) and (.., J) and weight (O, I, J), got (3, 4), "
                "(3, 2) and (5, 4, 3)",
                ((3, 4), (3, 2), (5, 4, 3), (5,)),
            ),
            ("bilinear: expected a bias of shape (5,), got (4,)", ((4,), (2,), (5, 4, 2), (4,))),
        ),
    ),
]
