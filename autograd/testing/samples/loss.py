"""Rows for losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...functional import loss as fn
from ...functional.create import tensor
from ...tensor import Tensor
from .sample import Sample, labels, normal

WEIGHT = np.array([0.5, 2.0, 1.5, 0.25, 1.0])
ROWS_OF_LOGITS = (normal(6, 5), labels(6, classes=5))
PIXELS = (normal(2, 5, 3, 2), labels(2, 3, 2, classes=5))
MISFITS = (
    ("target (5,)", ((6, 5), (5,))),
    ("target (6, 2)", ((6, 5, 3), (6, 2))),
    ("no classes", ((6, 0), (6,))),
)


def _entropy(**options: Any) -> Callable[..., Tensor]:
    return lambda x, target: fn.cross_entropy(x, target, **options)


def _torch_entropy(**options: Any) -> Callable[..., Any]:
    return lambda t, x, target: t.nn.functional.cross_entropy(x, target, **options)


def _weighted(name: str, **options: Any) -> Callable[..., Tensor]:
    function: Any = getattr(fn, name)
    return lambda x, target: function(x, target, tensor(WEIGHT, x.dtype), **options)  # type: ignore[no-any-return]


def _torch_weighted(name: str, **options: Any) -> Callable[..., Any]:
    return lambda t, x, target: getattr(t.nn.functional, name)(
        x, target, t.tensor(WEIGHT, dtype=x.dtype), **options
    )


def _entropy_rows() -> list[Sample]:
    rows = []
    for reduction in ("mean", "sum", "none"):
        for smoothing in (0.0, 0.1):
            options = {"reduction": reduction, "label_smoothing": smoothing, "ignore_index": 2}
            name = f"cross_entropy/{reduction}, smoothing {smoothing}"
            plain = _entropy(**options), ROWS_OF_LOGITS, _torch_entropy(**options)
            rows.append(Sample(name, *plain))
            weighted = "cross_entropy", options
            rows.append(
                Sample(
                    f"{name}, weights",
                    _weighted(weighted[0], **options),
                    PIXELS,
                    _torch_weighted(weighted[0], **options),
                )
            )
    return rows


ROWS = [
    Sample("cross_entropy", _entropy(), ROWS_OF_LOGITS, _torch_entropy(), wrong=MISFITS),
    Sample("cross_entropy/pixels", _entropy(), PIXELS, _torch_entropy()),
    Sample(
        "cross_entropy/one sample",
        _entropy(reduction="none"),
        (normal(5), labels(classes=5)),
        _torch_entropy(reduction="none"),
    ),
    *_entropy_rows(),
]
