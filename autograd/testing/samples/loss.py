"""Rows for losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...functional import loss as fn
from ...functional.create import tensor
from ...tensor import Tensor
from .sample import Sample, labels, normal, positive

WEIGHT = np.array([0.5, 2.0, 1.5, 0.25, 1.0])
SIGNS = np.where(np.arange(20) % 3 == 1, -1.0, 1.0).reshape(4, 5)
ROWS_OF_LOGITS = (normal(6, 5), labels(6, classes=5))
PIXELS = (normal(2, 5, 3, 2), labels(2, 3, 2, classes=5))
MISFITS = (
    ("expected target (6,) for input (6, 5), got (5,)", ((6, 5), (5,))),
    ("expected target (6, 3) for input (6, 5, 3), got (6, 2)", ((6, 5, 3), (6, 2))),
    ("expected an input (N, C, ..) with C > 0, got shape (6, 0)", ((6, 0), (6,))),
)


def _entropy(**options: Any) -> Callable[..., Tensor]:
    return lambda x, target: fn.cross_entropy(x, target, **options)


def _torch_entropy(**options: Any) -> Callable[..., Any]:
    return lambda t, x, target: t.nn.functional.cross_entropy(x, target, **options)


def _weighted(name: str, **options: Any) -> Callable[..., Tensor]:
    function: Any = getattr(fn, name)

    def run(x: Tensor, target: Tensor) -> Any:
        return function(x, target, tensor(WEIGHT, x.dtype), **options)

    return run


def _torch_weighted(name: str, **options: Any) -> Callable[..., Any]:
    return lambda t, x, target: getattr(t.nn.functional, name)(
        x, target, t.tensor(WEIGHT, dtype=x.dtype), **options
    )


def _labelled_rows() -> list[Sample]:
    """Return rows of the losses of labels for each reduction, with and without weights and
    smoothing."""
    rows = []
    for reduction in ("mean", "sum", "none"):
        options: dict[str, Any] = {"reduction": reduction, "ignore_index": 2}
        smooth = {**options, "label_smoothing": 0.1}
        logits, pixels = (_entropy(**smooth), ROWS_OF_LOGITS), (_entropy(**options), PIXELS)
        calls: dict[str, tuple[Any, Any, Any]] = {
            "cross_entropy/{}": (*pixels, _torch_entropy(**options)),
            "cross_entropy/{}, smooth": (*logits, _torch_entropy(**smooth)),
        }
        families = ("cross_entropy", smooth), ("cross_entropy", options), ("nll_loss", options)
        for name, kwargs in families:
            for what, inputs in ("rows", ROWS_OF_LOGITS), ("pixels", PIXELS):
                key = f"{name}/{{}}, {len(kwargs)} options, weights, {what}"
                calls[key] = _weighted(name, **kwargs), inputs, _torch_weighted(name, **kwargs)
        rows += [Sample(name.format(reduction), *call) for name, call in calls.items()]
    return rows


def _probabilities(*shape: int) -> Callable[[np.random.Generator], Any]:
    return lambda rng: rng.uniform(0.05, 0.95, shape)


def _paired_rows(name: str, inputs: tuple[Any, ...]) -> list[Sample]:
    """Return a row for each reduction of a loss of two arrays of one shape."""
    function: Any = getattr(fn, name)

    def row(reduction: str) -> Sample:
        return Sample(
            f"{name}/{reduction}",
            lambda x, target, *w: function(x, target, *w, reduction=reduction),
            inputs,
            lambda t, x, target, *w: getattr(t.nn.functional, name)(
                x, target, *w, reduction=reduction
            ),
            wrong=(
                (
                    "expected a target of shape (4, 5), got (3, 5)",
                    ((4, 5), (3, 5), *[(4, 5)] * (len(inputs) - 2)),
                ),
            ),
        )

    return [row(reduction) for reduction in fn.REDUCTIONS]


def _positive(x: Tensor, target: Tensor) -> Tensor:
    weight = tensor(WEIGHT, x.dtype)
    return fn.binary_cross_entropy_with_logits(x, target, pos_weight=weight)


def _torch_positive(t: Any, x: Any, target: Any) -> Any:
    weight = t.tensor(WEIGHT, dtype=x.dtype)
    return t.nn.functional.binary_cross_entropy_with_logits(x, target, pos_weight=weight)


def _alike(name: str, label: str, inputs: tuple[Any, ...], **options: Any) -> Sample:
    """Return a row of a loss that torch has by the same name, with the same options."""
    function: Any = getattr(fn, name)
    return Sample(
        f"{name}/{label}",
        lambda *xs: function(*xs, **options),
        inputs,
        lambda t, *xs: getattr(t.nn.functional, name)(*xs, **options),
        wrong=((f"{name}: expected a target of shape (4, 5), got (3, 5)", MISFIT[len(inputs)]),),
    )


MISFIT = {2: ((4, 5), (3, 5)), 3: ((4, 5), (3, 5), (4, 5))}


def _ctc(steps: int, rows: tuple[Any, ...], label: str = "", **options: Any) -> Sample:
    """Return a row of ctc_loss: of logits (steps, 3, 4), targets, and lengths of both."""
    targets, *lengths = map(np.array, rows)

    def draw(a: Any) -> Callable[[np.random.Generator], Any]:
        return lambda rng: a.copy()

    return Sample(
        f"ctc_loss/{label}",
        lambda x, *rest: fn.ctc_loss(x.log_softmax(-1), *rest, **options),
        (normal(steps, 3, 4), draw(targets), *map(draw, lengths)),
        lambda t, x, *rest: t.nn.functional.ctc_loss(x.log_softmax(-1), *rest, **options),
        second=False,
        wrong=(
            ("expected targets (3, S) and lengths (3,), got ", ((5, 3, 4), (2, 2), (3,), (3,))),
        ),
    )


def _distance_to(x: Tensor, target: Tensor) -> Any:
    return fn.gaussian_nll_loss(x, target, 0.5, full=True, reduction="sum")


TWO, SOFT = (normal(4, 5), normal(4, 5)), _probabilities(4, 5)
ROWS = [
    Sample("cross_entropy", _entropy(), ROWS_OF_LOGITS, _torch_entropy(), wrong=MISFITS),
    Sample("cross_entropy/pixels", _entropy(), PIXELS, _torch_entropy()),
    Sample(
        "cross_entropy/one sample",
        _entropy(reduction="none"),
        (normal(5), labels(classes=5)),
        _torch_entropy(reduction="none"),
    ),
    Sample(
        "cross_entropy/probabilities",
        _entropy(),
        TWO,
        _torch_entropy(),
        wrong=(("class probabilities (4, 5) as target, got float64 (4, 6)", ((4, 5), (4, 6))),),
    ),
    Sample(
        "cross_entropy/probabilities, smooth, weights",
        _weighted("cross_entropy", label_smoothing=0.2),
        (normal(2, 5, 3), normal(2, 5, 3)),
        _torch_weighted("cross_entropy", label_smoothing=0.2),
    ),
    Sample(
        "cross_entropy/probabilities of one sample",
        _entropy(reduction="none"),
        (normal(5), normal(5)),
        _torch_entropy(reduction="none"),
    ),
    *_labelled_rows(),
    Sample(
        "nll_loss",
        lambda x, target: fn.nll_loss(x, target),
        ROWS_OF_LOGITS,
        lambda t, x, target: t.nn.functional.nll_loss(x, target),
        wrong=MISFITS,
    ),
    Sample(
        "nll_loss/one sample",
        lambda x, target: fn.nll_loss(x, target),
        (normal(5), labels(classes=5)),
        lambda t, x, target: t.nn.functional.nll_loss(x, target),
    ),
    *_paired_rows("mse_loss", TWO),
    *_paired_rows("binary_cross_entropy", (SOFT, SOFT)),
    *_paired_rows("binary_cross_entropy_with_logits", (normal(4, 5), SOFT)),
    Sample(
        "binary_cross_entropy/weight",
        fn.binary_cross_entropy,
        (SOFT, SOFT, normal(5)),
        lambda t, x, target, w: (t.nn.BCELoss(reduction="none")(x, target) * w).mean(),
    ),
    _alike("l1_loss", "mean", TWO),
    _alike("huber_loss", "delta 0.3", TWO, delta=0.3, reduction="none"),
    _alike("smooth_l1_loss", "beta 0.3", TWO, beta=0.3, reduction="sum"),
    _alike("smooth_l1_loss", "beta 0", TWO, beta=0.0),
    _alike("kl_div", "sum", (normal(4, 5), SOFT), reduction="sum"),
    _alike("kl_div", "logarithms", TWO, log_target=True, reduction="batchmean"),
    _alike("gaussian_nll_loss", "mean", (*TWO, positive(4, 5)), full=True),
    Sample(
        "gaussian_nll_loss/one variance",
        _distance_to,
        TWO,
        lambda t, x, target: t.nn.functional.gaussian_nll_loss(
            x, target, t.full((4, 1), 0.5, dtype=x.dtype), full=True, reduction="sum"
        ),
    ),
    _alike("poisson_nll_loss", "mean", (normal(4, 5), positive(4, 5)), full=True),
    _alike(
        "poisson_nll_loss",
        "expectations",
        (positive(4, 5), positive(4, 5)),
        log_input=False,
        reduction="none",
    ),
    Sample(
        "soft_margin_loss",
        lambda x: fn.soft_margin_loss(x, tensor(SIGNS, x.dtype)),
        (normal(4, 5),),
        lambda t, x: t.nn.functional.soft_margin_loss(x, t.tensor(SIGNS, dtype=x.dtype)),
        wrong=(("soft_margin_loss: expected a target of shape (3,), got (4, 5)", ((3,),)),),
    ),
    _alike("multilabel_soft_margin_loss", "mean", (normal(4, 5), SOFT)),
    _ctc(5, ([[1, 2, 2], [3, 1, 3], [2, 2, 2]], [5, 5, 4], [3, 2, 1]), "mean"),
    Sample(
        "ctc_loss/labels in a row",
        lambda x, t: fn.ctc_loss(x.log_softmax(2), t, [4, 2, 3], (2, 2, 1), reduction="none"),
        (normal(4, 3, 4), lambda rng: np.array([1, 1, 3, 2, 1])),
        lambda t, x, target: t.nn.functional.ctc_loss(
            x.log_softmax(2), target, [4, 2, 3], (2, 2, 1), reduction="none"
        ),
        second=False,
        wrong=(("expected target_lengths that add up to 4, got 5", ((4, 3, 4), (4,))),),
    ),
    _ctc(
        5,
        ([[0, 0], [1, 2], [1, 1]], [2, 5, 5], [2, 0, 2]),
        "too long",
        blank=3,
        reduction="sum",
        zero_infinity=True,
    ),
    Sample("binary_cross_entropy_with_logits/positive", _positive, TWO, _torch_positive),
]
