"""Loss functions. `reduction`: "mean", "sum" or "none"; means over nothing are nan."""

from __future__ import annotations

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
    """Return the cross entropy of logits (N, C), (N, C, ..) or (C,) with integer labels (N,),
    (N, ..) or (), or with class probabilities in the input's shape.

    `weight` (C,) weighs the classes; samples labelled `ignore_index` do not count. The mean is
    divided by the weights of the labels, as in torch. IndexError for a label that is no class."""
    _check("cross_entropy", reduction, input)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(
            f"cross_entropy: expected label_smoothing in [0, 1], got {label_smoothing}"
        )
    if is_floating(target.dtype):
        return _soft(input, target, weight, reduction, label_smoothing)
    if input.ndim == 1:
        alone = input.unsqueeze(0), target.reshape(1)
        one = cross_entropy(*alone, weight, ignore_index, reduction, label_smoothing)
        return one.reshape(())
    loss: Tensor
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
    """Return the negative log-likelihood of integer labels (N, ..) under log-probabilities
    (N, C, ..); options and errors as in cross_entropy."""
    _check("nll_loss", reduction, input)
    if input.ndim == 1:
        alone = input.unsqueeze(0), target.reshape(1)
        return nll_loss(*alone, weight, ignore_index, reduction).reshape(())
    loss: Tensor = ops.nll_loss(
        input, target, *_optional(weight), ignore_index=int(ignore_index), reduction=reduction
    )
    return loss


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return squared differences. ValueError for shapes that differ: torch only warns."""
    _check("mse_loss", reduction, input, target)
    off = input - target
    return _reduced(off * off, reduction)


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return the cross entropy of probabilities with targets from 0 to 1 in the same shape, times
    `weight`, which is broadcast. Logarithms end at -100. ValueError for an input outside of 0..1;
    see binary_cross_entropy_with_logits for logits."""
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
    """Return the cross entropy of sigmoid(input) with targets from 0 to 1 in the same shape, finite
    for any logits. `weight` multiplies the losses, `pos_weight` the positive targets' part."""
    _check("binary_cross_entropy_with_logits", reduction, input, target)
    share = target if pos_weight is None else el.mul(target, pos_weight)
    loss = ops.logistic_loss(input, share, 1.0 - target)
    return _reduced(loss if weight is None else loss * weight, reduction)
