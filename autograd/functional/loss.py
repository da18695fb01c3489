"""Loss functions, with torch.nn.functional's names and argument order.

`reduction` is "mean", "sum" or "none"; a mean over nothing is not a number."""

from __future__ import annotations

from ..autocast import wide
from ..dtypes import is_floating
from ..ops import elementwise as el
from ..ops import loss as ops
from ..tensor import Tensor
from .activation import log_softmax

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "mse_loss",
    "nll_loss",
]

REDUCTIONS = ("mean", "sum", "none")


def _check(name: str, reduction: str, input: Tensor, target: Tensor | None = None) -> None:
    """ValueError for an unknown reduction, and for a target of another shape than the input."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"{name}: expected reduction in {REDUCTIONS}, got {reduction!r}")
    if target is not None and target.shape != input.shape:
        raise ValueError(f"{name}: expected a target of shape {input.shape}, got {target.shape}")


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    return {"mean": loss.mean, "sum": loss.sum, "none": lambda: loss}[reduction]()


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross entropy of logits with labels, or with class probabilities.

    Logits are (N, C), (N, C, ..) or (C,); integer labels (N,), (N, ..) or (); probabilities have
    the logits' shape. `weight` (C,) weighs the classes, and the mean is divided by the labels'
    weights, as in torch; samples labelled `ignore_index` do not count; `label_smoothing` s in [0,
    1] mixes s / C into every class (Szegedy et al. 2016). IndexError for a label that is no class;
    ValueError for shapes or options that do not fit."""
    _check("cross_entropy", reduction, input)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(
            f"cross_entropy: expected label_smoothing in [0, 1], got {label_smoothing}"
        )
    # Labels are integers, class probabilities floating-point: the type tells which is meant.
    if is_floating(target.dtype):
        return _soft(input, target, weight, reduction, label_smoothing)
    options = weight, ignore_index, reduction, label_smoothing
    if input.ndim == 1:
        return cross_entropy(input.unsqueeze(0), target.reshape(1), *options).reshape(())
    loss, _ = ops.cross_entropy(
        input,
        target,
        *_optional(weight),
        ignore_index=int(ignore_index),
        label_smoothing=float(label_smoothing),
        reduction=reduction,
    )
    return loss


def _optional(weight: Tensor | None) -> tuple[Tensor, ...]:
    return () if weight is None else (weight,)


def _soft(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, smoothing: float
) -> Tensor:
    """Return the cross entropy of logits with class probabilities."""
    _check("cross_entropy", reduction, input, target)
    axis = 0 if input.ndim == 1 else 1
    classes = input.shape[axis]
    q = target * (1.0 - smoothing) + smoothing / classes if smoothing else target
    if weight is not None:
        q = q * weight.reshape((classes, *[1] * (input.ndim - axis - 1)))
    return _reduced(-(log_softmax(input, axis) * q).sum(axis), reduction)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Return the negative log-likelihood of integer labels (N, ..) under log-probabilities (N, C,
    ..).

    Options and errors are those of `cross_entropy`, of which this is the second half."""
    _check("nll_loss", reduction, input)
    if input.ndim == 1:
        alone = input.unsqueeze(0), target.reshape(1)
        return nll_loss(*alone, weight, ignore_index, reduction).reshape(())
    loss: Tensor = ops.nll_loss(
        input, target, *_optional(weight), ignore_index=int(ignore_index), reduction=reduction
    )
    return loss


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return squared differences, (input - target)^2; within `autocast`, in float32.

    ValueError for shapes that differ, where torch only warns."""
    _check("mse_loss", reduction, input, target)
    off = wide(input) - wide(target)
    return _reduced(off * off, reduction)


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return - target log(input) - (1 - target) log(1 - input), times `weight`, which is broadcast.

    input and target are probabilities of one shape. Logarithms end at -100, as in torch. ValueError
    for an input outside [0, 1]; for logits see `binary_cross_entropy_with_logits`."""
    _check("binary_cross_entropy", reduction, input, target)
    loss = ops.binary_cross_entropy(input, target)
    return _reduced(loss if weight is None else loss * weight, reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Return the binary cross entropy of sigmoid(input) with targets in [0, 1], finite for any
    logits.

    `weight` multiplies the losses, `pos_weight` the part of the positive targets; both are
    broadcast. ValueError for shapes that differ."""
    _check("binary_cross_entropy_with_logits", reduction, input, target)
    # Weights of the two outcomes: the loss is linear in both.
    share = target if pos_weight is None else el.mul(target, pos_weight)
    loss = ops.logistic_loss(input, share, 1.0 - target)
    return _reduced(loss if weight is None else loss * weight, reduction)
