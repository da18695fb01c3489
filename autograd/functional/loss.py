"""Loss functions. `reduction`: "mean", "sum" or "none"."""

from __future__ import annotations

from ..ops import loss as ops
from ..tensor import Tensor
from .activation import log_softmax

REDUCTIONS = ("mean", "sum", "none")


def _reduction(name: str, reduction: str) -> str:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{name}: reduction {reduction!r} is unknown; there are {REDUCTIONS}")
    return reduction


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross entropy of logits (N, C) or (N, C, ..) with integer labels (N, ..), or with
    class probabilities in the input's shape.

    `weight` (C,) weighs the classes; samples labelled `ignore_index` do not count. The mean is
    divided by the weights of the labels, as in torch; over no sample at all it is nan.
    IndexError for a label that is no class."""
    _reduction("cross_entropy", reduction)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing {label_smoothing} is not within 0 to 1")
    if target.dtype.kind == "f":
        return _soft(input, target, weight, reduction, label_smoothing)
    alone = input.ndim == 1
    x = input.unsqueeze(0) if alone else input
    loss, _ = ops.cross_entropy(
        x,
        target.unsqueeze(0) if alone else target,
        *_given(weight),
        ignore_index=int(ignore_index),
        label_smoothing=float(label_smoothing),
        reduction=reduction,
    )
    return loss.reshape(()) if alone else loss  # type: ignore[no-any-return]


def _given(weight: Tensor | None) -> tuple[Tensor, ...]:
    return () if weight is None else (weight,)


def _soft(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, smoothing: float
) -> Tensor:
    if target.shape != input.shape:
        raise ValueError(f"cross_entropy: probabilities {target.shape} for logits {input.shape}")
    axis = 0 if input.ndim == 1 else 1
    classes = input.shape[axis]
    q = target * (1.0 - smoothing) + smoothing / classes if smoothing else target
    if weight is not None:
        q = q * weight.reshape((classes, *[1] * (input.ndim - axis - 1)))
    loss = -(log_softmax(input, axis) * q).sum(axis)
    if reduction == "mean":
        return loss.mean()
    return loss.sum() if reduction == "sum" else loss
